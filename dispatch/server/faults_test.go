package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/internal/wire"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/rpc"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// agentEnv makes this test binary an agent process: its value is the directory, a comma and the server's address.
const agentEnv = "NIMBREL_TEST_DISPATCH_AGENT"

func TestMain(m *testing.M) {
	if v := os.Getenv(agentEnv); v != "" {
		runAgentProcess(v)
		return
	}
	os.Exit(m.Run())
}

// printer writes one line per change: the revision of each item shown.
type printer struct{}

func (printer) Desired(d client.Desired) {
	var line strings.Builder
	for key, it := range d.Section("host/h-1", "instances").Items {
		fmt.Fprintf(&line, "%s=%d ", key, it.Rev)
	}
	fmt.Println(line.String() + ".")
}

func runAgentProcess(v string) {
	dir, addr, _ := strings.Cut(v, ",")
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		panic(err)
	}
	c := client.New(client.Options{Target: id.Target(), Dir: filepath.Join(dir, "desired"), Dial: id.Dial(addr), Handler: printer{}, RetryCeiling: 50 * time.Millisecond})
	if err := c.Run(context.Background()); err != nil {
		panic(err)
	}
}

// TestAgentKilledAtAnyMoment kills an agent process again and again while its document changes. What a new process shows
// from disk is never older than what the one before had shown.
func TestAgentKilledAtAnyMoment(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			c.put("host/h-1", "instances", fmt.Sprintf("i-%d", n%3), strconv.Itoa(n))
			time.Sleep(time.Millisecond) // the pace of the load, not a wait
		}
	})
	defer writer.Wait()
	defer cancel()
	seen := map[string]int{}
	for range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), agentEnv+"="+dir+","+c.addr)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 5 + rand.N(20); n > 0 && lines.Scan(); n-- {
			for field := range strings.FieldsSeq(strings.TrimSuffix(lines.Text(), ".")) {
				key, rev, _ := strings.Cut(field, "=")
				r, err := strconv.Atoi(rev)
				if err != nil {
					t.Fatalf("agent printed %q", lines.Text())
				}
				if r < seen[key] {
					t.Errorf("%s went back from %d to %d", key, seen[key], r)
				}
				seen[key] = r
			}
		}
		cmd.Process.Kill()
		for lines.Scan() { // shown before the kill came
		}
		cmd.Wait()
	}
	if len(seen) != 3 {
		t.Fatalf("agents showed %v", seen)
	}
}

func TestUnwritableDirectoryKeepsTheLastGoodVersion(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	c.put("host/h-1", "instances", "i-1", "good")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "good"))
	desired := filepath.Join(dir, "desired")
	if err := os.Rename(desired, desired+".away"); err != nil { // every write fails from here on
		t.Fatal(err)
	}
	c.put("host/h-1", "instances", "i-1", "next")
	eventually(t, "the refused delta was received", func() bool {
		st, _ := c.s.Target("host/h-1")
		return len(st.Sections) > 0 && st.Sections[0].Received == 2
	})
	if st, _ := c.s.Target("host/h-1"); st.Sections[0].Durable != 1 || !shows(a, "host/h-1", "instances", "i-1", "good")() {
		t.Fatalf("marks %+v", st.Sections)
	}
	if err := os.Rename(desired+".away", desired); err != nil {
		t.Fatal(err)
	}
	eventually(t, "taken after the next heartbeat", shows(a, "host/h-1", "instances", "i-1", "next"))
}

func TestOtherCellIsRefused(t *testing.T) {
	c := newCluster(t)
	c.start()
	a := c.agent(c.join("host/h-1"), func(o *client.Options) { o.Cell = 7 })
	eventually(t, "refused by name", func() bool { return errors.Is(a.Status().LastError, dispatch.ErrOtherCell) })
}

func TestCertificateDecides(t *testing.T) {
	c := newCluster(t)
	c.start()
	id, err := enroll.LoadIdentity(filepath.Join(c.join("host/h-1"), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	dial := func(config *tls.Config) error {
		nc, err := net.Dial("tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.Client(t.Context(), tls.Client(nc, config), rpc.Options{Name: "host/h-1"})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Ping(t.Context())
		return err
	}
	if err := dial(id.TLS()); err != nil {
		t.Fatalf("registered certificate: %v", err)
	}
	bare := id.TLS()
	bare.GetClientCertificate = nil
	if err := dial(bare); err == nil {
		t.Fatal("no certificate was enough")
	}
	stranger, err := enroll.OpenAuthority(filepath.Join(t.TempDir(), "ca"), env.Real{})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := stranger.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	foreign := id.TLS()
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	if err := dial(foreign); err == nil {
		t.Fatal("another authority's certificate was enough")
	}
	other := id.TLS()
	other.RootCAs = stranger.Pool()
	if err := dial(other); err == nil {
		t.Fatal("the target trusted a server of another authority")
	}
	c.commit(func(tx *store.Tx) { dispatchrows.Revoke(tx, "host/h-1") })
	eventually(t, "revoked key refused", func() bool { return dial(id.TLS()) != nil })
}

// TestRevokedKeyBeginsNoSession keeps a connection in reserve, made while the key was good.
func TestRevokedKeyBeginsNoSession(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	c.put("host/h-1", "instances", "i-1", "secret")
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	reserve, err := tls.Dial("tcp", c.addr, id.TLS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reserve.Close() })
	kept, err := rpc.Client(t.Context(), reserve, rpc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.commit(func(tx *store.Tx) { dispatchrows.Revoke(tx, "host/h-1") })
	eventually(t, "revoked key refused", func() bool {
		nc, err := tls.Dial("tcp", c.addr, id.TLS())
		if err != nil {
			return true
		}
		conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	stream, err := kept.OpenStream(t.Context(), wire.Stream, nil)
	if err != nil {
		t.Fatal(err)
	}
	core := session.NewClient(session.ClientOptions{Target: "host/h-1", BootID: "boot-1", Incarnation: 1}, session.Meta{}, nil)
	if err := wire.Write(stream, core.Connect(nil).Send...); err != nil {
		t.Fatal(err)
	}
	m, err := wire.NewReader(stream).Next()
	if err != nil {
		t.Fatal(err)
	}
	if w, ok := m.(*session.Welcome); !ok || w.Verdict != session.Refused {
		t.Fatalf("a revoked key was answered %+v", m)
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	clock := &clock{now: time.Now()}
	c := newCluster(t)
	a, err := enroll.OpenAuthority(filepath.Join(t.TempDir(), "ca"), clock)
	if err != nil {
		t.Fatal(err)
	}
	c.authority, c.options.Authority = a, a
	c.start()
	dir := c.join("host/h-1")
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	before := id.NotAfter()
	connect := func() *rpc.Conn {
		nc, err := id.Dial(c.addr)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.Client(t.Context(), nc, rpc.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := connect()
	if err := id.Renew(t.Context(), conn, clock.Now()); err != nil || !id.NotAfter().Equal(before) {
		t.Fatalf("renewed before its time: %v", err)
	}
	clock.advance(61 * 24 * time.Hour)
	if err := id.Renew(t.Context(), conn, clock.Now()); err != nil || !id.NotAfter().After(before) {
		t.Fatalf("not renewed: %v", err)
	}
	again, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil || !again.NotAfter().Equal(id.NotAfter()) {
		t.Fatalf("renewed certificate was not kept: %v", err)
	}
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestSilenceIsToldOnceAndUndone(t *testing.T) {
	clock := &clock{now: time.Now()}
	c := newCluster(t)
	c.options.Clock, c.options.Tick = clock, time.Millisecond
	c.start()
	a := c.agent(c.join("host/h-1"), func(o *client.Options) { o.HeartbeatPeriod = time.Hour })
	eventually(t, "up", func() bool { st, _ := c.s.Target("host/h-1"); return st.Liveness == dispatch.Up })
	eventually(t, "link is quiet", func() bool { return a.Status().Connected })
	clock.advance(31 * time.Second)
	eventually(t, "told down", func() bool { return c.observer.has("host/h-1 down") })
	clock.advance(60 * time.Second)
	eventually(t, "dead", func() bool { st, _ := c.s.Target("host/h-1"); return st.Liveness == dispatch.Dead })
	if st := c.s.Stats(); st.Targets[dispatch.Dead] != 1 || st.Targets[dispatch.Up] != 0 || len(st.Targets) != 4 || st.Sessions != 1 || st.Connections != 1 {
		t.Errorf("stats %+v", st)
	}
	c.observer.mu.Lock()
	calls := len(c.observer.calls)
	c.observer.mu.Unlock()
	a.ReportActual("instances", "i-1", []byte("running")) // it speaks again, over the same connection
	eventually(t, "up again", func() bool { st, _ := c.s.Target("host/h-1"); return st.Liveness == dispatch.Up })
	eventually(t, "told", func() bool {
		c.observer.mu.Lock()
		defer c.observer.mu.Unlock()
		return len(c.observer.calls) > calls && strings.Contains(c.observer.calls[calls], "up")
	})
}

func TestPeriodicResendRewritesTheSection(t *testing.T) {
	c := newCluster(t)
	c.options.ResendPeriod, c.options.Tick = 20*time.Millisecond, 5*time.Millisecond
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	c.put("host/h-1", "instances", "i-1", "good")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "good"))
	files, _ := filepath.Glob(filepath.Join(dir, "desired", "*.section"))
	first, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "section written again without a change", func() bool {
		now, err := os.Stat(files[0])
		return err == nil && !os.SameFile(first, now)
	})
}

func TestTombstonesAreCollectedOnceDurable(t *testing.T) {
	c := newCluster(t)
	c.options.Tick = time.Millisecond
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	for i := range 5 {
		c.put("host/h-1", "instances", fmt.Sprint(i), "x")
	}
	eventually(t, "items shown", shows(a, "host/h-1", "instances", "4", "x"))
	a.stop()
	eventually(t, "link down", func() bool { st, _ := c.s.Target("host/h-1"); return !st.Connected })
	c.commit(func(tx *store.Tx) {
		for i := range 4 {
			dispatchrows.Delete(tx, dispatchrows.Named("host/h-1"), "instances", fmt.Sprint(i))
		}
	})
	rows := func() (n int) {
		err := c.db.View(t.Context(), func(r store.Reader) error {
			return dispatchrows.Scan(t.Context(), r, store.Prefix("dispatch", "item"), func(store.KV) error { n++; return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if rows() != 5 {
		t.Fatalf("%d rows", rows())
	}
	a = c.agent(dir, nil)
	eventually(t, "tombstones collected", func() bool { return rows() == 1 })
	if n := len(a.Client.Desired().Section("host/h-1", "instances").Items); n != 1 {
		t.Fatalf("target shows %d items", n)
	}
	// One who was away since before needs the whole section, and gets it.
	a.stop()
	if err := os.RemoveAll(filepath.Join(dir, "desired")); err != nil {
		t.Fatal(err)
	}
	a = c.agent(dir, nil)
	eventually(t, "whole section", shows(a, "host/h-1", "instances", "4", "x"))
}

// TestManyTargets converges a thousand targets in one process: an item each, a topic they share, and a change of it.
func TestManyTargets(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	base := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "nimbrel-test-"); err == nil { // thousands of syncs measure the disk, not this
		base = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	c := newCluster(t)
	c.options.Authority, c.options.Plain = nil, true
	c.start()
	name := func(i int) string { return fmt.Sprintf("host/h-%04d", i) }
	c.put("fleet", "hosts", "all", "one")
	for lo := 0; lo < n; lo += 100 {
		c.commit(func(tx *store.Tx) {
			for i := lo; i < min(lo+100, n); i++ {
				dispatchrows.Put(tx, dispatchrows.Named(name(i)), "instances", "i-1", value(name(i)), dispatchrows.Topics("fleet"))
			}
		})
	}
	start := time.Now()
	agents := make([]*agent, n)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range agents {
		a := &agent{target: name(i)}
		a.Client = client.New(client.Options{Target: a.target, Dir: filepath.Join(base, fmt.Sprint(i)), Handler: a, RetryCeiling: time.Second,
			Dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", c.addr) }})
		agents[i] = a
		wg.Go(func() {
			if err := a.Run(ctx); err != nil {
				t.Errorf("run %s: %v", a.target, err)
			}
		})
	}
	for _, a := range agents {
		eventually(t, a.target+" has its item", shows(a, a.target, "instances", "i-1", a.target))
		eventually(t, a.target+" applied", func() bool { return c.s.Applied(a.target, "instances") == 1 })
	}
	t.Logf("%d targets in sync after %v", n, time.Since(start))
	start = time.Now()
	c.put("fleet", "hosts", "all", "two")
	for _, a := range agents {
		eventually(t, a.target+" has the shared change", shows(a, "fleet", "hosts", "all", "two"))
		eventually(t, a.target+" applied it", func() bool { return c.s.AppliedTopic(a.target, "fleet", "hosts") == 2 })
	}
	t.Logf("a change of the shared document applied at all after %v", time.Since(start))
}

// TestOnTheDurableStore restarts server and store together: the history stays, so that the target goes on where it was.
func TestOnTheDurableStore(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t)
	open := func() *embed.Engine {
		e, err := embed.Open(dir, embed.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c.db = store.New(e, store.Options{})
		return e
	}
	e := open()
	c.start()
	a := c.agent(c.join("host/h-1"), nil)
	c.put("host/h-1", "instances", "i-1", "one", "fleet")
	c.put("fleet", "hosts", "h-1", "here")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "one"))
	eventually(t, "topic shown", shows(a, "fleet", "hosts", "h-1", "here"))
	c.stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open()
	defer e.Close()
	c.start()
	defer c.stop()
	c.put("host/h-1", "instances", "i-1", "two", "fleet")
	eventually(t, "change after the restart", shows(a, "host/h-1", "instances", "i-1", "two"))
	if v := a.Client.Desired().Section("host/h-1", "instances"); len(v.Orphans) != 0 || v.Seq != 2 {
		t.Fatalf("the restart looked like another history: %+v", v)
	}
}

// lostFeed is an engine whose feeds, from lose on, tell nothing, and whose past is gone once found is closed.
type lostFeed struct {
	store.Engine
	lost  *atomic.Bool
	found chan struct{}
}

func (e lostFeed) Watch(ctx context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	f, err := e.Engine.Watch(ctx, from, prefixes...)
	return lostFeedReader{f, e}, err
}

type lostFeedReader struct {
	store.Feed
	e lostFeed
}

func (f lostFeedReader) Next(ctx context.Context) (store.Batch, error) {
	b, err := f.Feed.Next(ctx)
	if err != nil || !f.e.lost.Load() {
		return b, err
	}
	select {
	case <-f.e.found:
		f.e.lost.Store(false)
		return store.Batch{}, store.ErrCompacted
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	}
}

// TestCompactedFeedMissesNoRevocation: a revoked key and a raised epoch that the feed did not tell, since its past was
// gone, end the sessions all the same.
func TestCompactedFeedMissesNoRevocation(t *testing.T) {
	c := newCluster(t)
	e := lostFeed{storetest.NewMemory(), &atomic.Bool{}, make(chan struct{})}
	c.db = store.New(e, store.Options{})
	c.start()
	revoked, raised, other := c.agent(c.join("host/h-1"), nil), c.agent(c.join("host/h-2"), nil), c.agent(c.join("host/h-3"), nil)
	connected := func(a *agent) func() bool { return func() bool { return a.Status().Connected } }
	for _, a := range []*agent{revoked, raised, other} {
		eventually(t, "connected", connected(a))
	}
	e.lost.Store(true)
	c.commit(func(tx *store.Tx) {
		dispatchrows.Revoke(tx, "host/h-1")
		dispatchrows.RaiseEpoch(tx, "host/h-2")
	})
	c.put("host/h-3", "instances", "i-1", "unseen")
	close(e.found)
	eventually(t, "the documents are read again", shows(other, "host/h-3", "instances", "i-1", "unseen"))
	eventually(t, "the revoked key is locked out", func() bool { s := revoked.Status(); return !s.Connected && s.LastError != nil })
	eventually(t, "complete under the new epoch", func() bool { return raised.Client.Desired().Epoch() == 2 })
	if !other.Status().Connected {
		t.Error("a session that nothing is wrong with was ended")
	}
}
