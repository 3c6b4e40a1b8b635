package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/upload"
)

// fakeUploads keeps one upload in memory.
type fakeUploads struct {
	mu     sync.Mutex
	sums   []byte
	chunks map[uint32][]byte
	puts   int
	begins int
	finish upload.Finish

	breakAt int  // the put that fails; 0 none
	forget  bool // the first finish does not know the upload
}

func (f *fakeUploads) Begin(_ context.Context, size uint64, sums []byte) (upload.Begun, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begins++
	f.sums = sums
	u := upload.Begun{ID: "u"}
	for i := range uint32(len(sums) / sha256.Size) {
		if f.chunks[i] == nil {
			u.Missing = append(u.Missing, i)
		}
	}
	return u, nil
}

func (f *fakeUploads) Put(_ context.Context, _ string, index uint32, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.puts++; f.puts == f.breakAt {
		return errors.New("the disk is full")
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], f.sums[index*32:index*32+32]) {
		return errors.New("not what its sum says")
	}
	f.chunks[index] = data
	return nil
}

func (f *fakeUploads) Finish(_ context.Context, _ string, in upload.Finish, progress func(done, total uint64)) (upload.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forget {
		f.forget = false
		return upload.Result{}, upload.ErrBeginAgain
	}
	f.finish = in
	progress(1, 2)
	return upload.Result{ImageID: "ami-1", Name: in.Name, Format: "raw", SizeBytes: 5 << 20, StoredBytes: 1 << 20}, nil
}

func (f *fakeUploads) content() []byte {
	var b []byte
	for i := range uint32(len(f.chunks)) {
		b = append(b, f.chunks[i]...)
	}
	return b
}

// importer returns a function that runs `image import` against f, with stdout and stderr. Every request of a run is
// answered when it returns, also those that it gave up.
func importer(t *testing.T, f *fakeUploads) func(args ...string) (string, string, error) {
	t.Helper()
	f.chunks = map[uint32][]byte{}
	dir, err := os.MkdirTemp("", "cli") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return func(args ...string) (string, string, error) {
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: upload.Handler(f)}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		defer func() {
			_ = server.Shutdown(t.Context())
			<-served // it has closed the socket
		}()
		cmd := &cobra.Command{Use: "image", SilenceUsage: true, SilenceErrors: true}
		cmd.AddCommand(ImageCommands()...)
		var out, words bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&words)
		cmd.SetArgs(append([]string{"import", "--socket", filepath.Join(dir, "s")}, args...))
		err = cmd.ExecuteContext(t.Context())
		return out.String(), words.String(), err
	}
}

func diskFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "my-disk.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImageImport(t *testing.T) {
	f := &fakeUploads{}
	run := importer(t, f)
	content := make([]byte, 5<<20+512)
	for i := range content {
		content[i] = byte(i >> 16)
	}
	out, words, err := run(diskFile(t, content), "--account", "123456789012", "--arch", "arm64")
	if err != nil || !bytes.Equal(f.content(), content) {
		t.Fatalf("%v: %s", err, words)
	}
	if f.finish != (upload.Finish{Name: "my-disk", Architecture: "arm64", Account: "123456789012"}) {
		t.Errorf("asked for %+v", f.finish)
	}
	if out != "ami-1 my-disk: raw, 5 MiB of disk, 1 MiB stored anew\n" {
		t.Errorf("printed %q", out)
	}
	for _, line := range []string{"image: reading 100% of 5 MiB\n", "image: uploading 0% of 6 MiB\n", "image: converting 50% of 1 KiB\n"} {
		if !strings.Contains(words, line) {
			t.Errorf("no line %q in %s", line, words)
		}
	}
	if strings.ContainsAny(words, "\r\x1b") {
		t.Error("a bar was drawn where there is no terminal")
	}
}

func TestImageImportGoesOn(t *testing.T) {
	f := &fakeUploads{breakAt: 4}
	run := importer(t, f)
	content := make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(i >> 20)
	}
	path := diskFile(t, content)
	if _, _, err := run(path); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("an upload that breaks: %v", err)
	}
	there, before := len(f.chunks), f.puts
	f.forget = true
	out, words, err := run(path, "--json")
	var result upload.Result
	if err != nil || json.Unmarshal([]byte(out), &result) != nil || result.ImageID != "ami-1" || words != "" {
		t.Fatalf("%v: %s%s", err, out, words)
	}
	if f.puts-before != 8-there || !bytes.Equal(f.content(), content) || f.begins != 3 {
		t.Errorf("%d of 8 chunks were there, %d sent again, %d begins", there, f.puts-before, f.begins)
	}
	if _, words, err := run(path); err != nil || !strings.Contains(words, "image: 8 of 8 MiB are there already\n") {
		t.Errorf("%v: %s", err, words)
	}
}

func TestImageImportRefusesHere(t *testing.T) {
	f := &fakeUploads{}
	run := importer(t, f)
	for want, path := range map[string]string{
		"VHDX image refused": diskFile(t, []byte("vhdxfile"+strings.Repeat("\x00", 504))),
		"no such file":       filepath.Join(t.TempDir(), "none"),
		"no regular file":    t.TempDir(),
		"no known format":    diskFile(t, []byte("hello")),
	} {
		if _, _, err := run(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if f.begins != 0 {
		t.Error("a file that is refused was sent")
	}
	if _, _, err := run(diskFile(t, make([]byte, 512)), "--socket", "/nonexistent/s"); err == nil || !strings.Contains(err.Error(), "nimbrel dev up") {
		t.Errorf("no server: %v", err)
	}
}

// TestImageLimitIsTheServers: a disk of more than a server takes by default is the server's to judge, whose limit is a flag.
func TestImageLimitIsTheServers(t *testing.T) {
	h := make([]byte, 4<<16) // a qcow2 of 2 TiB
	copy(h, "QFI\xfb\x00\x00\x00\x02")
	h[23], h[26], h[38], h[45] = 16, 0x02, 0x10, 1
	f := &fakeUploads{}
	_, _, _ = importer(t, f)(diskFile(t, h)) // the fake's last word does not matter
	if f.begins != 1 {
		t.Errorf("judged here: begun %d times", f.begins)
	}
}

func TestProgressBar(t *testing.T) {
	var b bytes.Buffer
	p := &progress{w: &b, terminal: true, shown: -1}
	p.step("reading", 0, 20<<20)
	p.step("reading", 1<<20, 20<<20) // too soon after the last to be drawn
	p.step("reading", 20<<20, 20<<20)
	p.step("converting", 10<<20, 20<<20)
	p.end()
	p.end()
	bar := func(n int) string { return "[" + strings.Repeat("#", n) + strings.Repeat(".", barCells-n) + "]" }
	want := fmt.Sprintf("\rreading    %s   0%%  0 KiB of 20 MiB\x1b[K\rreading    %s 100%%  20 MiB of 20 MiB\x1b[K\n\rconverting %s  50%%  10 MiB of 20 MiB\x1b[K\n", bar(0), bar(30), bar(15))
	if b.String() != want {
		t.Errorf("drew\n%q, want\n%q", b.String(), want)
	}
	var none *progress
	none.step("x", 1, 2)
	none.say("x")
	none.end()
}
