package convert

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// send writes frames as a worker would, or would not.
func send(t testing.TB, frames func(w frameWriter) error) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	if err := frames(frameWriter{&b}); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestReceiverBelievesNothing(t *testing.T) {
	chunk := bytes.Repeat([]byte{1}, ChunkBytes)
	limits := inspect.Limits{MaxVirtualBytes: 4 << 20}
	begin := func(w frameWriter, size uint64) error { return w.Begin(Summary{Format: "raw", VirtualBytes: size}) }
	for name, frames := range map[string]func(w frameWriter) error{
		"chunk first": func(w frameWriter) error { return w.Chunk(0, chunk) },
		"end first":   func(w frameWriter) error { return w.end(0, nil) },
		"too large":   func(w frameWriter) error { return begin(w, 5<<20) },
		"no size":     func(w frameWriter) error { return begin(w, 0) },
		"twice":       func(w frameWriter) error { return errors.Join(begin(w, 2<<20), begin(w, 1<<20)) },
		"not aligned": func(w frameWriter) error { return errors.Join(begin(w, 3<<20), w.Chunk(512, chunk)) },
		"backwards": func(w frameWriter) error {
			return errors.Join(begin(w, 3<<20), w.Chunk(1<<20, chunk), w.Chunk(0, chunk))
		},
		"again":              func(w frameWriter) error { return errors.Join(begin(w, 3<<20), w.Chunk(0, chunk), w.Chunk(0, chunk)) },
		"beyond the end":     func(w frameWriter) error { return errors.Join(begin(w, 1<<20), w.Chunk(1<<20, chunk)) },
		"short chunk":        func(w frameWriter) error { return errors.Join(begin(w, 2<<20), w.Chunk(0, chunk[:512])) },
		"another end":        func(w frameWriter) error { return errors.Join(begin(w, 2<<20), w.end(1<<20, nil)) },
		"unknown":            func(w frameWriter) error { return w.frame('?') },
		"huge frame":         func(w frameWriter) error { _, err := w.w.Write([]byte{frameChunk, 0xff, 0xff, 0xff, 0xff}); return err },
		"huge summary":       func(w frameWriter) error { return w.frame(frameSummary, chunk) },
		"wrapped offset":     func(w frameWriter) error { return errors.Join(begin(w, 2<<20), w.Chunk(1<<64-ChunkBytes, chunk)) },
		"refusal is no JSON": func(w frameWriter) error { return w.frame(frameRefusal, []byte("{")) },
	} {
		c := &collect{t: t}
		if _, err := (&receiver{sink: c, limits: limits}).receive(send(t, frames)); !errors.Is(err, errWorker) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReceiverPassesErrorsOn(t *testing.T) {
	refusal := &inspect.Refusal{Format: "qcow2", Reason: inspect.ReasonBacking, Detail: "\x1b[2Jname", Fix: "flatten"}
	var got *inspect.Refusal
	_, err := (&receiver{sink: &collect{t: t}}).receive(send(t, func(w frameWriter) error { return w.end(0, refusal) }))
	if !errors.As(err, &got) || got.Reason != refusal.Reason || got.Detail != "?[2Jname" {
		t.Errorf("refusal became %v", err)
	}
	_, err = (&receiver{sink: &collect{t: t}}).receive(send(t, func(w frameWriter) error { return w.end(0, errors.New("disk\x07 "+strings.Repeat("x", 5000))) }))
	if err == nil || !strings.Contains(err.Error(), "disk? xxx") || len(err.Error()) > failureMax+100 {
		t.Errorf("failure became %.200v", err)
	}
	full := errors.New("no space")
	_, err = (&receiver{sink: &collect{t: t, fail: full}}).receive(send(t, func(w frameWriter) error { return w.Begin(Summary{VirtualBytes: 512}) }))
	if !errors.Is(err, full) {
		t.Errorf("the sink's error became %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	chunk := bytes.Repeat([]byte{1}, ChunkBytes)
	f.Add(send(f, func(w frameWriter) error {
		return errors.Join(w.Begin(Summary{Format: "raw", VirtualBytes: 2<<20 + 512}), w.Chunk(0, chunk), w.Chunk(2<<20, chunk[:512]), w.end(2<<20+512, nil))
	}).Bytes())
	f.Add(send(f, func(w frameWriter) error { return w.end(0, &inspect.Refusal{Reason: "x"}) }).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &bounds{t: t}
		_, _ = (&receiver{sink: c, limits: inspect.Limits{MaxVirtualBytes: 4 << 20}}).receive(bytes.NewReader(b))
	})
}

// bounds is a Sink that checks what it is promised.
type bounds struct {
	t    *testing.T
	size uint64
	next uint64
}

func (b *bounds) Begin(s Summary) error {
	if b.size = s.VirtualBytes; b.size == 0 || b.size > 4<<20 {
		b.t.Fatalf("begin with %d", b.size)
	}
	return nil
}

func (b *bounds) Chunk(offset uint64, data []byte) error {
	if offset < b.next || offset+uint64(len(data)) > b.size || len(data) == 0 {
		b.t.Fatalf("%d bytes at %d of %d", len(data), offset, b.size)
	}
	b.next = offset + ChunkBytes
	return nil
}
