package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

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
	summary, err := Direct(ctx, in, info.Size(), limits, out)
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

// Run converts a file in a process of its own, started as command with the limits as further arguments; it must call Work.
// The file is handed over as a descriptor. Errors: *inspect.Refusal when the file is not accepted.
func Run(ctx context.Context, command []string, file *os.File, l inspect.Limits, sink Sink) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arguments := append(command[1:len(command):len(command)], strconv.FormatUint(l.MaxVirtualBytes, 10), strconv.FormatUint(l.MaxExpansion, 10))
	cmd := exec.CommandContext(ctx, command[0], arguments...)
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
	summary, err := (&receiver{sink: sink, limits: l}).receive(out)
	cancel() // after the last frame there is nothing to wait for
	ended := cmd.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Summary{}, fmt.Errorf("%w (%v) %s", err, ended, words)
	}
	return summary, err
}

// tail keeps the beginning of what a worker says.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), stderrMax-len(t.text))]...)
	return len(p), nil
}

func (t *tail) String() string { return printable(string(t.text)) }
