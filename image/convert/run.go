package convert

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// inputDescriptor is where the worker finds the file.
const inputDescriptor = 3

// stderrMax bounds what is kept of a worker's last words.
const stderrMax = 2 << 10

// Direct converts in this process. It is for tests and for the client's own files; a server calls Run.
func Direct(ctx context.Context, file io.ReaderAt, size int64, l inspect.Limits, sink Sink) (Summary, error) {
	info, err := inspect.Inspect(file, size, l)
	if err != nil {
		return Summary{}, err
	}
	disk, err := Open(file, info, l)
	if err != nil {
		return Summary{}, err
	}
	if err := info.Verify(ctx, file); err != nil {
		return Summary{}, err
	}
	s := Summary{Format: string(info.Format), OVA: info.OVA, VirtualBytes: info.VirtualBytes}
	if err := sink.Begin(s); err != nil {
		return s, err
	}
	return s, stream(ctx, disk, sink)
}

// stream gives the disk's chunks that are not zeros to the sink.
func stream(ctx context.Context, d *Disk, sink Sink) error {
	buffer := make([]byte, ChunkBytes)
	for offset := int64(0); offset < d.bytes; offset += ChunkBytes {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buffer[:min(ChunkBytes, d.bytes-offset)]
		if hole, err := d.Hole(offset, int64(len(part))); err != nil || hole {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := d.ReadAt(part, offset); err != nil {
			return err
		}
		if allZero(part) {
			continue
		}
		if err := sink.Chunk(uint64(offset), part); err != nil {
			return err
		}
	}
	return nil
}

var zeroChunk [ChunkBytes]byte

func allZero(p []byte) bool { return bytes.Equal(p, zeroChunk[:len(p)]) }

// Work is the whole life of the worker process: confine, inspect, convert. arguments are those that Run gave.
func Work(ctx context.Context, arguments []string) error {
	limits, err := parseLimits(arguments)
	if err != nil {
		return err
	}
	in := os.NewFile(inputDescriptor, "image")
	if in == nil {
		return errors.New("convert image: descriptor 3 is not open: this command is started by the server")
	}
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("convert image: descriptor 3: %w", err)
	}
	if err := confine(limits.MaxVirtualBytes); err != nil {
		return fmt.Errorf("confine converting process: %w", err)
	}
	out := frameWriter{os.Stdout}
	summary, err := Direct(ctx, &telling{r: in, out: out}, info.Size(), limits, out)
	return out.end(summary.VirtualBytes, err)
}

func parseLimits(arguments []string) (l inspect.Limits, err error) {
	if len(arguments) != 2 {
		return l, errors.New("convert image: want a size and a ratio: this command is started by the server")
	}
	if l.MaxVirtualBytes, err = strconv.ParseUint(arguments[0], 10, 63); err == nil {
		l.MaxExpansion, err = strconv.ParseUint(arguments[1], 10, 63)
	}
	return l, err
}

// DefaultStallAfter is far beyond what a slow disk needs for aliveBytes.
const DefaultStallAfter = 2 * time.Minute

// ErrStalled: the worker neither read nor sent anything for too long.
var ErrStalled = errors.New("the converting process stands still")

// Worker is how a conversion's process is started.
type Worker struct {
	Command []string // the limits are its further arguments; it must call Work
	// StallAfter bounds how long the process may neither read nor send anything; 0 is DefaultStallAfter. Its processor
	// time is bounded besides.
	StallAfter time.Duration
}

// Run converts a file in a process of its own, which gets it as a descriptor. Errors: *inspect.Refusal when the file is not
// accepted, ErrStalled.
func (w Worker) Run(ctx context.Context, file *os.File, l inspect.Limits, sink Sink) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arguments := append(slices.Clone(w.Command[1:]), strconv.FormatUint(l.MaxVirtualBytes, 10), strconv.FormatUint(l.MaxExpansion, 10))
	cmd := exec.CommandContext(ctx, w.Command[0], arguments...)
	cmd.Env = []string{"GOMAXPROCS=2", "GOTRACEBACK=none"} // nothing of the server's environment
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{file}
	words := &tail{}
	cmd.Stderr = words
	isolate(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Summary{}, fmt.Errorf("start converting process: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return Summary{}, fmt.Errorf("start converting process: %w", err)
	}
	stallAfter := cmp.Or(w.StallAfter, DefaultStallAfter)
	summary, err := (&receiver{sink: sink, limits: l}).receive(&impatient{out, stallAfter})
	cancel() // after the last frame there is nothing to wait for
	if errors.Is(err, os.ErrDeadlineExceeded) {
		go func() { _ = cmd.Wait() }() // not awaited: what stands still in the kernel is not killed before it goes on
		return Summary{}, fmt.Errorf("%w: nothing read and nothing sent for %s: look at the disk that the image file is on, then import it again", ErrStalled, stallAfter)
	}
	ended := cmd.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Summary{}, fmt.Errorf("%w (%v) %s", err, ended, words)
	}
	return summary, err
}

// impatient reads from a pipe that must not be silent for long. The time that its reader takes does not count.
type impatient struct {
	pipe io.Reader
	wait time.Duration
}

func (i *impatient) Read(p []byte) (int, error) {
	if pipe, may := i.pipe.(interface{ SetReadDeadline(time.Time) error }); may {
		if err := pipe.SetReadDeadline(time.Now().Add(i.wait)); err != nil {
			return 0, fmt.Errorf("bound the wait for the converting process: %w", err)
		}
	}
	return i.pipe.Read(p)
}

// Probe says whether a worker can be confined on this machine and converts: it has one convert a disk of a sector.
func (w Worker) Probe(ctx context.Context) error {
	file, err := os.CreateTemp("", "nimbrel-probe-")
	if err != nil {
		return fmt.Errorf("make a disk to convert: %w", err)
	}
	defer file.Close()
	_, err = file.Write(append(make([]byte, 510), 0x55, 0xaa))
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		return fmt.Errorf("make a disk to convert: %w", err)
	}
	_, err = w.Run(ctx, file, inspect.Limits{MaxVirtualBytes: 1 << 20, MaxExpansion: inspect.DefaultMaxExpansion}, discard{})
	return err
}

// discard is a Sink that keeps nothing.
type discard struct{}

func (discard) Begin(Summary) error        { return nil }
func (discard) Chunk(uint64, []byte) error { return nil }

// tail keeps the beginning of what a worker says.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), stderrMax-len(t.text))]...)
	return len(p), nil
}

func (t *tail) String() string { return printable(string(t.text)) }
