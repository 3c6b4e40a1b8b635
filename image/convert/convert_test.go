package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// fixture unpacks an image of testdata. All hold the disk of raw.gz, and were made from it by qemu-img 7.2.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var fixtures = map[string]string{
	"raw": "raw", "qcow2": "qcow2", "qcow2-v2": "qcow2", "qcow2-zlib": "qcow2", "qcow2-zstd": "qcow2", "vmdk-stream": "vmdk", "vmdk-sparse": "vmdk",
	"vhd-fixed": "vhd", "vhd-dynamic": "vhd",
}

// collect is a Sink that keeps the disk.
type collect struct {
	t       testing.TB
	summary Summary
	disk    []byte
	chunks  int
	fail    error
}

func (c *collect) Begin(s Summary) error {
	c.summary, c.disk = s, make([]byte, s.VirtualBytes)
	return c.fail
}

func (c *collect) Chunk(offset uint64, data []byte) error {
	if allZero(data) {
		c.t.Error("a chunk of zeros was sent")
	}
	c.chunks++
	copy(c.disk[offset:], data)
	return nil
}

func TestDirect(t *testing.T) {
	want := fixture(t, "raw")
	for name, format := range fixtures {
		b := fixture(t, name)
		c := collect{t: t}
		s, err := Direct(t.Context(), bytes.NewReader(b), int64(len(b)), inspect.Limits{}, &c)
		if err != nil || s.Format != format || !bytes.Equal(c.disk, want) {
			t.Errorf("%s: %+v, %v, same bytes %v", name, s, err, bytes.Equal(c.disk, want))
		}
	}
}

// TestReadAt holds that reads of any length at any place agree with the disk.
func TestReadAt(t *testing.T) {
	want := fixture(t, "raw")
	random := rand.New(rand.NewPCG(1, 2))
	for name := range fixtures {
		b := fixture(t, name)
		info, err := inspect.Inspect(bytes.NewReader(b), int64(len(b)), inspect.Limits{})
		if err != nil {
			t.Fatal(name, err)
		}
		d, err := Open(bytes.NewReader(b), info, inspect.Limits{})
		if err != nil {
			t.Fatal(name, err)
		}
		for range 200 {
			at, p := random.IntN(len(want)), make([]byte, 1+random.IntN(200_000))
			n, err := d.ReadAt(p, int64(at))
			rest := want[at:min(len(want), at+len(p))]
			if !bytes.Equal(p[:n], rest) || (err != nil) != (n < len(p)) {
				t.Fatalf("%s: %d bytes at %d: %d, %v", name, len(p), at, n, err)
			}
		}
	}
}

// TestQemuImg compares with images that this machine's qemu-img makes of a larger disk.
func TestQemuImg(t *testing.T) {
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	want := make([]byte, 33<<20+512)
	for _, at := range []int{0, 3 << 20, 20<<20 - 1000, len(want) - 5000} {
		random.Read(want[at:min(len(want), at+300_000)])
	}
	copy(want[9<<20:], bytes.Repeat([]byte("compressible "), 100_000))
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{
		"-O qcow2", "-c -O qcow2", "-c -O qcow2 -o compression_type=zstd", "-O qcow2 -o cluster_size=2M", "-c -O qcow2 -o cluster_size=512",
		"-O qcow2 -o compat=0.10", "-O qcow2 -o preallocation=metadata", "-O vmdk -o subformat=streamOptimized", "-O vmdk",
		"-O vpc -o force_size=on", "-O vpc -o subformat=fixed,force_size=on",
	} {
		out := filepath.Join(dir, "out")
		if b, err := exec.Command(program, append(append([]string{"convert", "-f", "raw"}, strings.Fields(options)...), raw, out)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", options, err, b)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		c := collect{t: t}
		if s, err := Direct(t.Context(), bytes.NewReader(b), int64(len(b)), inspect.Limits{}, &c); err != nil || !bytes.Equal(c.disk, want) {
			t.Errorf("%s: %+v, %v, same bytes %v", options, s, err, sha256.Sum256(c.disk) == sha256.Sum256(want))
		}
	}
}

// edit changes bytes of an image.
func edit(b []byte, changes map[int][]byte) []byte {
	b = bytes.Clone(b)
	for at, p := range changes {
		copy(b[at:], p)
	}
	return b
}

func TestDamagedTables(t *testing.T) {
	qcow, stream, dynamic := fixture(t, "qcow2"), fixture(t, "vmdk-stream"), fixture(t, "vhd-dynamic")
	l1 := int(be.Uint64(qcow[40:]))
	l2 := int(be.Uint64(qcow[l1:]) & qcow2Offset)
	directory := int(le.Uint64(stream[56:])) * 512 // qemu-img knows it when it writes the header
	grains := int(le.Uint32(stream[directory:])) * 512
	grain := int(le.Uint32(stream[grains:])) * 512
	bat := int(be.Uint64(dynamic[512+16:]))
	far := []byte{0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0}
	for name, b := range map[string][]byte{
		"L2 table beyond the end": edit(qcow, map[int][]byte{l1: far}),
		"L2 table not aligned":    edit(qcow, map[int][]byte{l1 + 6: {2 | 1}, l1 + 7: {0}, 20: {0, 0, 0, 12}}),
		"cluster beyond the end":  edit(qcow, map[int][]byte{l2: far}),
		"grain table beyond":      edit(stream, map[int][]byte{directory: {0xff, 0xff, 0xff, 0x7f}}),
		"grain beyond":            edit(stream, map[int][]byte{grains: {0xff, 0xff, 0xff, 0x7f}}),
		"grain too long":          edit(stream, map[int][]byte{grain + 8: {0xff, 0xff, 0xff, 0x7f}}),
		"grain is no stream":      edit(stream, map[int][]byte{grain + 12: {0xff, 0xff, 0xff, 0x7f}}),
		"block beyond":            edit(dynamic, map[int][]byte{bat: {0, 0xff, 0xff, 0xff}}),
	} {
		c := collect{t: t}
		_, err := Direct(t.Context(), bytes.NewReader(b), int64(len(b)), inspect.Limits{}, &c)
		var refusal *inspect.Refusal
		if !errors.Is(err, errDamaged) && !(errors.As(err, &refusal) && refusal.Reason == inspect.ReasonDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBomb makes every cluster of a disk the same compressed one.
func TestBomb(t *testing.T) {
	b := fixture(t, "qcow2-zlib")
	l1 := int(be.Uint64(b[40:]))
	l2 := int(be.Uint64(b[l1:]) & qcow2Offset)
	entry := bytes.Clone(b[l2 : l2+8]) // sector 0: compressed
	if entry[0]&0x40 == 0 {
		t.Fatal("the first cluster is not compressed")
	}
	for i := range 512 {
		copy(b[l2+8*i:], entry)
	}
	for i := range 200 { // and every table the same one
		copy(b[l1+8*i:], b[l1:l1+8])
	}
	be.PutUint64(b[24:], 200*512*4096)
	be.PutUint32(b[36:], 200)
	c := collect{t: t}
	_, err := Direct(t.Context(), bytes.NewReader(b), int64(len(b)), inspect.Limits{}, &c)
	var refusal *inspect.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != inspect.ReasonBomb || c.chunks != 0 {
		t.Errorf("%v after %d chunks", err, c.chunks)
	}
}

// tinyVHD is a dynamic VHD of two blocks of 4 KiB, the second stored.
func tinyVHD() []byte {
	b := make([]byte, 512+1024+512+512+4096+512)
	footer, header, table := b[len(b)-512:], b[512:1536], b[1536:]
	copy(footer, "conectix\x00\x00\x00\x02\x00\x01\x00\x00")
	be.PutUint64(footer[16:], 512)
	be.PutUint64(footer[48:], 8192)
	footer[63] = 3
	copy(header, "cxsparse")
	be.PutUint64(header[16:], 1536)
	header[31] = 2
	be.PutUint32(header[32:], 4096)
	be.PutUint32(table, 1<<32-1)
	be.PutUint32(table[4:], 4)
	copy(b[2048+512:], "content")
	for sum, part := range map[int][]byte{64: footer, 36: header} {
		var n uint32
		for _, c := range part {
			n += uint32(c)
		}
		be.PutUint32(part[sum:], ^n)
	}
	return b
}

func TestTiny(t *testing.T) {
	for name, b := range map[string][]byte{
		"VHD": tinyVHD(), "qcow2": fixture(t, "tiny-qcow2"), "zlib": fixture(t, "tiny-qcow2-zlib"), "zstd": fixture(t, "tiny-qcow2-zstd"), "VMDK": fixture(t, "tiny-vmdk-stream"),
	} {
		c := collect{t: t}
		if _, err := Direct(t.Context(), bytes.NewReader(b), int64(len(b)), inspect.Limits{}, &c); err != nil || c.chunks != 1 {
			t.Errorf("%s: %d chunks, %v", name, c.chunks, err)
		}
	}
}

// FuzzDirect holds that no bytes make the readers panic, or send what does not fit the disk.
func FuzzDirect(f *testing.F) {
	for _, name := range []string{"tiny-qcow2", "tiny-qcow2-zlib", "tiny-qcow2-zstd", "tiny-vmdk-stream"} { // the fuzzer is slow with large ones
		f.Add(fixture(f, name))
	}
	f.Add(tinyVHD())
	f.Fuzz(func(t *testing.T, b []byte) {
		limits := inspect.Limits{MaxVirtualBytes: 3 << 20}
		var sent bytes.Buffer
		w := frameWriter{&sent}
		s, err := Direct(context.Background(), bytes.NewReader(b), int64(len(b)), limits, w)
		if err := w.end(s.VirtualBytes, err); err != nil {
			t.Fatal(err)
		}
		c := collect{t: t}
		got, received := (&receiver{sink: &c, limits: limits}).receive(&sent)
		if (err == nil) != (received == nil) || errors.Is(received, errWorker) || err == nil && got.VirtualBytes != s.VirtualBytes {
			t.Errorf("sent %+v, %v; received %+v, %v", s, err, got, received)
		}
	})
}

// TestDamagedAppliance holds that a disk that is not what its appliance's manifest says is refused before a byte of it is
// passed on, although it reads well.
func TestDamagedAppliance(t *testing.T) {
	disk := fixture(t, "tiny-vmdk-stream")
	ova := func(sum [32]byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range []struct {
			name    string
			content []byte
		}{
			{"a.ovf", []byte("<Envelope/>")}, {"disk.vmdk", disk}, {"a.mf", fmt.Appendf(nil, "SHA256(disk.vmdk)= %x\n", sum)},
		} {
			h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.content)), Format: tar.FormatUSTAR}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(e.content); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good, bad := ova(sha256.Sum256(disk)), ova(sha256.Sum256(nil))
	if s, err := Direct(t.Context(), bytes.NewReader(good), int64(len(good)), inspect.Limits{}, &collect{t: t}); err != nil || !s.OVA {
		t.Errorf("%+v, %v", s, err)
	}
	c := collect{t: t}
	var refusal *inspect.Refusal
	if _, err := Direct(t.Context(), bytes.NewReader(bad), int64(len(bad)), inspect.Limits{}, &c); !errors.As(err, &refusal) || refusal.Reason != inspect.ReasonDamaged || c.disk != nil {
		t.Errorf("%v, %d bytes of disk begun", err, len(c.disk))
	}
}
