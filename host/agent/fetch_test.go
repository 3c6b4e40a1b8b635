package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/imagecache"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// OpenStream makes a desk a link without a server behind it.
func (d *desk) OpenStream(context.Context, string, []byte) (net.Conn, error) {
	return nil, dispatch.ErrNotConnected
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// source is a server of one image, told how each try goes.
type source struct {
	content []byte

	mu    sync.Mutex
	asked []host.ImageRequest
	tries []try // the last one goes for all that follow
}

// try is how far one stream comes and how it ends.
type try struct {
	refuse error // the stream is not opened
	most   int   // bytes of it; 0 is all
	stall  bool  // silence after them, and no end
}

func (s *source) open(_ context.Context, name string, header []byte) (net.Conn, error) {
	request, err := host.Decode[host.ImageRequest](header)
	if err == nil {
		err = request.Validate()
	}
	if err != nil || name != host.StreamImage {
		return nil, fmt.Errorf("asked for %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, request)
	now := s.tries[min(len(s.asked), len(s.tries))-1]
	if now.refuse != nil {
		return nil, now.refuse
	}
	part := s.content[request.Offset : request.Offset+request.Bytes]
	if now.most > 0 {
		part = part[:min(now.most, len(part))]
	}
	ours, theirs := net.Pipe()
	go func() {
		theirs.Write(part)
		if now.stall {
			io.Copy(io.Discard, theirs) // until the reader gives up
		}
		theirs.Close()
	}()
	return ours, nil
}

// ensure fetches the source's image into an empty cache, with short pauses.
func (s *source) ensure(ctx context.Context, t *testing.T) (*fetcher, string, error) {
	t.Helper()
	f := newFetcher(s.open, slog.New(slog.DiscardHandler))
	f.pause, f.stall = time.Microsecond, 50*time.Millisecond
	cache, err := imagecache.Open(t.TempDir(), f.fetch)
	if err != nil {
		t.Fatal(err)
	}
	path, err := cache.Ensure(ctx, digestOf(s.content), uint64(len(s.content)))
	return f, path, err
}

func TestFetchGoesOn(t *testing.T) {
	s := &source{content: noise(1 << 20), tries: []try{
		{refuse: dispatch.ErrNotConnected}, {most: 300 << 10}, {refuse: &rpc.Error{Code: rpc.CodeOverloaded, Message: "later"}},
		{most: 1, stall: true}, {most: 1}, {},
	}}
	f, path, err := s.ensure(t.Context(), t)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var offsets []uint64
	for _, r := range s.asked {
		offsets = append(offsets, r.Offset)
		if r.Offset+r.Bytes != 1<<20 {
			t.Errorf("asked for %+v", r)
		}
	}
	if want := []uint64{0, 0, 300 << 10, 300 << 10, 300<<10 + 1, 300<<10 + 2}; !slices.Equal(offsets, want) {
		t.Errorf("went on at %v, want %v", offsets, want)
	}
	if len(f.places) != 0 {
		t.Error("the place was not given back")
	}
}

func TestFetchGivesUp(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		tries []try
		asked int
		want  error
	}{
		"never a byte":  {[]try{{refuse: broken}}, fetchTries, broken},
		"after a while": {[]try{{most: 10}, {most: 10}, {refuse: broken}}, 2 + fetchTries - 1, broken}, // the end of the second stream counts,
		"absent":        {[]try{{refuse: &rpc.Error{Code: host.ErrorImageAbsent, Message: "none"}}}, 1, imagecache.ErrAbsent},
		"gone meanwhile": {
			[]try{{most: 10}, {refuse: fmt.Errorf("open: %w", &rpc.Error{Code: host.ErrorImageAbsent, Message: "none"})}}, 2, imagecache.ErrAbsent,
		},
		"other size":   {[]try{{refuse: &rpc.Error{Code: rpc.CodeInvalid, Message: "it has 5"}}}, 1, nil},
		"older server": {[]try{{refuse: dispatch.ErrUnknownStream}}, 1, dispatch.ErrUnknownStream},
	} {
		s := &source{content: noise(4096), tries: c.tries}
		f, _, err := s.ensure(t.Context(), t)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(s.asked) != c.asked || len(f.places) != 0 {
			t.Errorf("%s: %d tries, want %d; %d places held", name, len(s.asked), c.asked, len(f.places))
		}
	}
}

func TestFetchRefusesOtherContent(t *testing.T) {
	s := &source{content: noise(1 << 20), tries: []try{{most: 1000}, {}}}
	f := newFetcher(s.open, slog.New(slog.DiscardHandler))
	f.pause = time.Microsecond
	cache, err := imagecache.Open(t.TempDir(), f.fetch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Ensure(t.Context(), strings.Repeat("ab", 32), 1<<20); !errors.Is(err, imagecache.ErrDigest) {
		t.Errorf("other content: %v", err)
	}
}

// TestFetchEndsWithItsCaller holds that a cancelled caller waits for nothing: neither bytes, nor a pause, nor a place.
func TestFetchEndsWithItsCaller(t *testing.T) {
	for name, c := range map[string]struct {
		try   try
		pause time.Duration
	}{
		"silence": {try{most: 5, stall: true}, time.Microsecond},
		"pause":   {try{refuse: dispatch.ErrNotConnected}, time.Hour},
	} {
		s := &source{content: noise(4096), tries: []try{c.try}}
		f := newFetcher(s.open, slog.New(slog.DiscardHandler))
		f.pause, f.stall = c.pause, time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		var r io.ReadCloser
		for range fetchesAtOnce {
			var err error
			if r, err = f.fetch(ctx, digestOf(s.content), 4096); err != nil {
				t.Fatal(err)
			}
		}
		waits, reads := make(chan error, 1), make(chan error, 1)
		go func() { _, err := f.fetch(ctx, digestOf(s.content), 4096); waits <- err }()
		go func() { _, err := io.ReadAll(r); reads <- err }()
		for asked := 0; asked == 0; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			asked = len(s.asked)
			s.mu.Unlock()
		}
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: one that waits for a place: %v", name, err)
		}
		r.Close() // as the cache does when its context ends
		if err := <-reads; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// wire carries the host link's bytes between agent and server until it is cut.
type wire struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); w.cut(); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.mu.Unlock()
			wg.Go(func() { io.Copy(far, near); far.Close() })
			wg.Go(func() { io.Copy(near, far); near.Close() })
		}
	})
	return w
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// statuses keeps what hosts report to a server.
type statuses struct {
	mu   sync.Mutex
	last map[string]host.InstanceStatus
}

func (*statuses) TargetUp(string, []byte)                            {}
func (*statuses) TargetDown(string, time.Time)                       {}
func (*statuses) Applied(string, string, uint64, []dispatch.Failure) {}
func (s *statuses) Actual(_, _ string, _ bool, up []dispatch.Item, _ []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range up {
		s.last[it.Key], _ = host.Decode[host.InstanceStatus](it.Payload)
	}
}

func (s *statuses) until(t *testing.T, id ids.Instance, state host.VMState) host.InstanceStatus {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		s.mu.Lock()
		last := s.last[string(id)]
		s.mu.Unlock()
		if last.State == state {
			return last
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is never %s, but %+v", id, state, last)
		}
	}
}

// library serves images by digest. It cuts the wire once, in the middle of an image.
type library struct {
	images map[string][]byte
	cut    func()

	mu      sync.Mutex
	offsets map[string][]uint64 // as asked
	sent    int
}

func (l *library) serve(_ context.Context, target string, stream net.Conn, header []byte) error {
	request, err := host.Decode[host.ImageRequest](header)
	if err != nil || target != own {
		return fmt.Errorf("asked by %s: %w", target, err)
	}
	content, found := l.images[request.SHA256]
	if !found {
		return &rpc.Error{Code: host.ErrorImageAbsent, Message: "no image has this content"}
	}
	l.mu.Lock()
	l.offsets[request.SHA256] = append(l.offsets[request.SHA256], request.Offset)
	first := len(l.offsets) == 1 && len(l.offsets[request.SHA256]) == 1
	l.mu.Unlock()
	part := content[request.Offset : request.Offset+request.Bytes]
	if first {
		part = part[:len(part)/2] // written is less than arrived: the cut takes what is on the way
	}
	n, err := stream.Write(part)
	l.mu.Lock()
	l.sent += n
	l.mu.Unlock()
	if first {
		l.cut()
	}
	return err
}

// TestFetchOverTheLink launches guests on a host that has no image, from a server on a store, over mutual TLS: one whose
// transfer is cut half way, one whose image exists nowhere, and one whose image is not what its digest says.
func TestFetchOverTheLink(t *testing.T) {
	t.Parallel()
	content, liar := noise(8<<20), strings.Repeat("cd", 32)
	images := &library{images: map[string][]byte{digestOf(content): content, liar: noise(1 << 20)}, offsets: map[string][]uint64{}}
	seen := &statuses{last: map[string]host.InstanceStatus{}}
	db, through, identity := imageServer(t, images, seen)
	images.cut = through.cut

	state := t.TempDir()
	a, err := newAgent(Options{ID: hostID, StateDir: state, Driver: DriverFake, ServerAddrs: []string{through.Addr().String()}, Identity: identity}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	a.o.Driver, a.driver = DriverQEMU, fake.NewWorld(fake.Options{}).Driver() // simulated guests, but with real images
	link := a.newLink(host.Info{ID: hostID, BootID: "boot"})
	ctx, cancel := context.WithCancel(t.Context())
	stop, done := a.start(ctx), make(chan error, 1)
	go func() { done <- link.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	launch := func(n int, digest string, size int) ids.Instance {
		t.Helper()
		i := instance(n, func(i *host.Instance) { i.ImageSHA256, i.ImageBytes, i.Interfaces = digest, uint64(size), nil })
		_, err := db.Transact(t.Context(), func(tx *store.Tx) error {
			dispatchrows.Put(tx, dispatchrows.Named(own), host.SectionInstances, string(i.ID), store.Bytes(host.Encode(i)))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return i.ID
	}
	seen.until(t, launch(1, digestOf(content), len(content)), host.VMRunning)
	if got, err := os.ReadFile(filepath.Join(state, "images", digestOf(content))); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image has %d bytes, %v", len(got), err)
	}
	images.mu.Lock()
	if at := images.offsets[digestOf(content)]; len(at) != 2 || at[0] != 0 || at[1] == 0 || images.sent >= 3*len(content)/2 {
		t.Errorf("asked for it at %v, and sent %d bytes", at, images.sent)
	}
	images.mu.Unlock()
	absent, wrong := launch(2, strings.Repeat("ef", 32), 1<<20), launch(3, liar, 1<<20)
	if got := seen.until(t, absent, host.VMFailed); got.Code != host.CodeImage || !strings.Contains(got.Reason, "no image has this content") {
		t.Errorf("absent image: %+v", got)
	}
	if got := seen.until(t, wrong, host.VMFailed); got.Code != host.CodeImage || !strings.Contains(got.Reason, imagecache.ErrDigest.Error()) {
		t.Errorf("wrong content: %+v", got)
	}
	if files, err := os.ReadDir(filepath.Join(state, "images")); err != nil || len(files) != 1 {
		t.Errorf("kept %v, %v", files, err)
	}
}

// imageServer runs a server of images over a store in memory, and joins the host to it.
func imageServer(t *testing.T, images *library, seen *statuses) (*store.DB, *wire, *enroll.Identity) {
	t.Helper()
	authority, err := enroll.OpenAuthority(filepath.Join(t.TempDir(), "ca"), env.Real{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	db := store.New(storetest.NewMemory(), store.Options{})
	s := server.New(db, server.Options{Authority: authority, Observer: seen, Streams: map[string]server.StreamHandler{host.StreamImage: images.serve}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for _, run := range []func() error{func() error { return s.Run(ctx) }, func() error { return s.Serve(ctx, l) }} {
		wg.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	token, err := server.CreateToken(t.Context(), db, host.DocHostPrefix(), time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "identity")
	if err := enroll.Join(t.Context(), l.Addr().String(), token, authority.Fingerprint(), dir, own); err != nil {
		t.Fatal(err)
	}
	identity, err := enroll.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return db, newWire(t, l.Addr().String()), identity
}
