// Command benchimages measures what a second import of a changed disk stores, and how fast imports are.
//
// The disk is a model of a file system: files of log-normal sizes (median 4 KiB, mean about 180 KiB, as Agrawal et al.,
// "A Five-Year Study of File-System Metadata", FAST 2007, found them), one behind the other, a third of the disk empty. Then
// whole files, picked at random, are rewritten until 1 % of the data has changed: the worst honest case, since an upgrade's
// files lie together. The same share in one place is printed beside it. The fraction is of the bytes of data.
package main

import (
	"context"
	"flag"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/image/chunk"
	"github.com/nimbrel/nimbrel/image/convert"
	"github.com/nimbrel/nimbrel/image/inspect"
	"github.com/nimbrel/nimbrel/test/bench"
)

const (
	medianBytes = 4 << 10
	sigma       = 2.76 // of the sizes' logarithm: the mean is median·exp(σ²/2)
	blockBytes  = 4 << 10
	largestFile = 64 << 20
)

type options struct {
	bench.Options
	mib int64
}

func main() {
	o := options{Options: bench.Options{Part: "image"}}
	o.Flags("build")
	flag.Int64Var(&o.mib, "mib", 768, "size of the disk in MiB")
	flag.Parse()
	bench.Main(o.run)
}

func (o options) run(ctx context.Context) error {
	r, err := bench.Start(o.Options)
	if err != nil {
		return err
	}
	return r.Finish(measure(ctx, r, o.mib<<20))
}

func measure(ctx context.Context, r *bench.Run, bytes int64) error {
	disk, err := newDisk(filepath.Join(r.Dir(), "disk.raw"), bytes)
	if err != nil {
		return err
	}
	defer disk.file.Close()
	store, err := chunk.Open(filepath.Join(r.Dir(), "store"))
	if err != nil {
		return err
	}
	first, took, err := importDisk(ctx, store, disk.file)
	if err != nil {
		return err
	}
	r.Print(bench.Figure{Name: "import_mib_per_s", Value: float64(bytes>>20) / took.Seconds(), Unit: "MiB/s"})
	if err := disk.changeFiles(disk.data / 100); err != nil {
		return err
	}
	second, took, err := importDisk(ctx, store, disk.file)
	if err != nil {
		return err
	}
	r.Print(stored("second_import_stored_fraction", second, first))
	r.Print(bench.Figure{Name: "second_import_mib_per_s", Value: float64(bytes>>20) / took.Seconds(), Unit: "MiB/s"})
	if err := disk.rewrite(disk.data/2, disk.data/100); err != nil {
		return err
	}
	third, _, err := importDisk(ctx, store, disk.file)
	if err != nil {
		return err
	}
	r.Print(stored("second_import_one_place_stored_fraction", third, first))
	return nil
}

func stored(name string, bytes, of uint64) bench.Figure {
	f := bench.Ratio(name, float64(bytes), float64(of), "")
	f.Unit = "fraction"
	return f
}

// disk is a file with files in it.
type disk struct {
	file   *os.File
	data   int64 // bytes in files, from the beginning
	starts []int64
	random *rand.Rand
	source *rand.ChaCha8
}

func newDisk(path string, bytes int64) (*disk, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	source := rand.NewChaCha8([32]byte{1})
	d := &disk{file: f, random: rand.New(rand.NewPCG(1, 1)), source: source}
	for d.data < bytes*2/3 {
		d.starts = append(d.starts, d.data)
		size := min(largestFile, int64(medianBytes*math.Exp(sigma*d.random.NormFloat64())))
		d.data += min(bytes*2/3-d.data, (size+blockBytes)/blockBytes*blockBytes)
	}
	if err := f.Truncate(bytes); err != nil {
		return nil, err
	}
	return d, d.rewrite(0, d.data)
}

// rewrite gives a part of the disk new bytes.
func (d *disk) rewrite(at, n int64) error {
	_, err := io.CopyN(io.NewOffsetWriter(d.file, at), d.source, n)
	return err
}

// changeFiles rewrites files at random until n bytes have changed.
func (d *disk) changeFiles(n int64) error {
	for _, i := range d.random.Perm(len(d.starts)) {
		end := d.data
		if i+1 < len(d.starts) {
			end = d.starts[i+1]
		}
		size := min(n, end-d.starts[i])
		if err := d.rewrite(d.starts[i], size); err != nil {
			return err
		}
		if n -= size; n == 0 {
			return nil
		}
	}
	return nil
}

// importDisk stores the disk durably, as a server does, and tells how many bytes that added.
func importDisk(ctx context.Context, store *chunk.Store, file *os.File) (stored uint64, took time.Duration, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	sink := &intake{store: store}
	if _, err := convert.Direct(ctx, file, info.Size(), inspect.Limits{}, sink); err != nil {
		return 0, 0, err
	}
	defer sink.Close()
	if _, err := sink.Commit(ctx); err != nil {
		return 0, 0, err
	}
	return sink.Wrote(), time.Since(start), nil
}

type intake struct {
	store *chunk.Store
	*chunk.Writer
}

func (i *intake) Begin(s convert.Summary) (err error) {
	i.Writer, err = i.store.NewWriter(s.VirtualBytes)
	return err
}

func (i *intake) Chunk(offset uint64, data []byte) error { return i.Put(offset, data) }
