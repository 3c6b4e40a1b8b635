package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/svc/obs/obstest"
)

// patience is how long a test waits for what must come; machines are shared.
const patience = 60 * time.Second

// eventually polls a condition; most waits end within milliseconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// cluster is a store with a server on a loopback port that stays the same through restarts of the server.
type cluster struct {
	t         *testing.T
	db        *store.DB
	authority *enroll.Authority
	observer  *observer
	addr      string
	options   server.Options
	s         *server.Server
	stop      func()
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	a, err := enroll.OpenAuthority(filepath.Join(t.TempDir(), "ca"), env.Real{})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, db: store.New(storetest.NewMemory(), store.Options{}), authority: a, observer: &observer{}, addr: "127.0.0.1:0"}
	c.options = server.Options{Authority: a, Observer: c.observer, Log: obstest.Logger(t)}
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	c.s = server.New(c.db, c.options)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.s.Run(ctx); err != nil {
			c.t.Errorf("run server: %v", err)
		}
	})
	wg.Go(func() {
		if err := c.s.Serve(ctx, l); err != nil {
			c.t.Errorf("serve: %v", err)
		}
	})
	var once sync.Once
	c.stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	c.t.Cleanup(c.stop)
}

func (c *cluster) token(target string) string {
	c.t.Helper()
	token, err := server.CreateToken(c.t.Context(), c.db, target, time.Hour, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return token
}

// join gives a new target its directory.
func (c *cluster) join(target string) string {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := enroll.Join(c.t.Context(), c.addr, c.token("host/"), c.authority.Fingerprint(), filepath.Join(dir, "identity"), target); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

// agent is a client that applies whatever it is shown.
type agent struct {
	*client.Client
	target string
	stop   func()
	hold   bool // does not report applied
}

func (a *agent) Desired(d client.Desired) {
	if a.hold {
		return
	}
	for _, doc := range d.Docs() {
		for _, section := range d.Sections(doc) {
			a.ReportApplied(doc, section, d.Section(doc, section).Seq, nil)
		}
	}
}

func (c *cluster) agent(dir string, change func(*client.Options)) *agent {
	c.t.Helper()
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		c.t.Fatal(err)
	}
	a := &agent{target: id.Target()}
	o := client.Options{Target: id.Target(), Dir: filepath.Join(dir, "desired"), Dial: id.Dial(c.addr), Handler: a, BootID: "boot-1",
		RetryCeiling: 200 * time.Millisecond, ReportDelay: time.Millisecond, HeartbeatPeriod: 50 * time.Millisecond,
		Info: func() []byte { return []byte("info of " + id.Target()) }}
	if change != nil {
		change(&o)
	}
	a.Client = client.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	a.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				c.t.Errorf("run client: %v", err)
			}
		})
	}
	c.t.Cleanup(a.stop)
	return a
}

func value(text string) store.Template {
	b, err := cbor.Marshal(map[int]string{1: text})
	if err != nil {
		panic(err)
	}
	return store.Bytes(b)
}

func textOf(it dispatch.Item) string {
	var m map[int]string
	if err := cbor.Unmarshal(it.Payload, &m); err != nil {
		return err.Error()
	}
	return m[1]
}

func (c *cluster) commit(fn func(tx *store.Tx)) {
	c.t.Helper()
	if _, err := c.db.Transact(c.t.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) put(doc, section, key, text string, topics ...string) {
	c.t.Helper()
	c.commit(func(tx *store.Tx) {
		dispatchrows.Put(tx, dispatchrows.Named(doc), section, key, value(text), dispatchrows.Topics(topics...))
	})
}

func shows(a *agent, doc, section, key, text string) func() bool {
	return func() bool {
		it, ok := a.Client.Desired().Section(doc, section).Items[key]
		return ok && textOf(it) == text
	}
}

// observer records calls, and that those about one target do not overlap.
type observer struct {
	mu      sync.Mutex
	inside  map[string]bool
	overlap bool
	calls   []string
	actual  map[string]map[string]string // by target and section, key to text
	applied map[string]uint64
	failed  []dispatch.Failure
}

func (o *observer) enter(target, call string) func() {
	o.mu.Lock()
	if o.inside == nil {
		o.inside, o.actual, o.applied = map[string]bool{}, map[string]map[string]string{}, map[string]uint64{}
	}
	o.overlap = o.overlap || o.inside[target]
	o.inside[target] = true
	o.calls = append(o.calls, target+" "+call)
	return func() { o.inside[target] = false; o.mu.Unlock() }
}

func (o *observer) TargetUp(target string, info []byte)   { o.enter(target, "up "+string(info))() }
func (o *observer) TargetDown(target string, _ time.Time) { o.enter(target, "down")() }
func (o *observer) Applied(target, section string, seq uint64, failures []dispatch.Failure) {
	defer o.enter(target, "applied")()
	o.applied[target+"#"+section] = seq
	o.failed = append(o.failed, failures...)
}
func (o *observer) Actual(target, section string, full bool, upserts []dispatch.Item, deletes []string) {
	defer o.enter(target, fmt.Sprintf("actual %s full=%v", section, full))()
	at := target + "#" + section
	if full || o.actual[at] == nil {
		o.actual[at] = map[string]string{}
	}
	for _, it := range upserts {
		o.actual[at][it.Key] = string(it.Payload)
	}
	for _, k := range deletes {
		delete(o.actual[at], k)
	}
}

func (o *observer) has(call string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.calls {
		if c == call {
			return true
		}
	}
	return false
}

func (o *observer) reported(at, key string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.actual[at][key]
}

func TestDesiredReachesTheTargetAndReportsComeBack(t *testing.T) {
	c := newCluster(t)
	c.start()
	a := c.agent(c.join("host/h-1"), nil)
	c.put("host/h-1", "instances", "i-1", "first")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "first"))
	eventually(t, "applied mark at the server", func() bool { return c.s.Applied("host/h-1", "instances") == 1 })
	if !c.observer.has("host/h-1 up info of host/h-1") || !c.observer.has("host/h-1 applied") {
		t.Fatalf("observer heard %q", c.observer.calls)
	}
	c.put("host/h-1", "instances", "i-1", "second")
	eventually(t, "change shown", shows(a, "host/h-1", "instances", "i-1", "second"))
	c.commit(func(tx *store.Tx) { dispatchrows.Delete(tx, dispatchrows.Named("host/h-1"), "instances", "i-1") })
	eventually(t, "item gone", func() bool { return len(a.Client.Desired().Section("host/h-1", "instances").Items) == 0 })

	a.ReportActual("instances", "i-1", []byte("running"))
	eventually(t, "report at the observer", func() bool { return c.observer.reported("host/h-1#instances", "i-1") == "running" })
	a.ReportActual("instances", "i-1", []byte("stopped"))
	a.ReportActual("instances", "i-2", []byte("running"))
	eventually(t, "second report", func() bool { return c.observer.reported("host/h-1#instances", "i-1") == "stopped" })
	a.DeleteActual("instances", "i-1")
	eventually(t, "report gone", func() bool { return c.observer.reported("host/h-1#instances", "i-1") == "" })
	a.ReportApplied("host/h-1", "instances", 3, []dispatch.Failure{{Key: "i-9", Rev: 3, Reason: "no disk", Retryable: true}})
	eventually(t, "failure", func() bool {
		c.observer.mu.Lock()
		defer c.observer.mu.Unlock()
		return len(c.observer.failed) > 0 && c.observer.failed[0].Reason == "no disk"
	})
	st := c.s.Targets()
	if len(st) != 1 || !st[0].Connected || st[0].Liveness != dispatch.Up || st[0].BootID != "boot-1" || st[0].Epoch != 1 {
		t.Fatalf("status %+v", st)
	}
	if c.observer.overlap {
		t.Fatal("observer calls about one target overlapped")
	}
}

func TestLabelChoosesTheTarget(t *testing.T) {
	c := newCluster(t)
	c.start()
	a := c.agent(c.join("host/h-2"), nil)
	c.commit(func(tx *store.Tx) {
		chosen := tx.FirstOf([]store.Alternative{
			{Label: []byte("h-1"), Guards: func(tx *store.Tx) { tx.Expect(store.Key("full"), store.Exists()) }},
			{Label: []byte("h-2"), Guards: func(*store.Tx) {}},
		})
		dispatchrows.Put(tx, dispatchrows.ForLabel("host/", chosen), "instances", "i-1", value("placed"))
	})
	eventually(t, "item at the chosen host", shows(a, "host/h-2", "instances", "i-1", "placed"))
}

func TestTopicsFollowTheItems(t *testing.T) {
	c := newCluster(t)
	c.start()
	a := c.agent(c.join("host/h-1"), nil)
	c.put("vpc/v-1", "mappings", "eni-0", "before")
	c.commit(func(tx *store.Tx) {
		dispatchrows.Put(tx, dispatchrows.Named("vpc/v-1"), "mappings", "eni-1", value("mapping"))
		dispatchrows.Put(tx, dispatchrows.Named("host/h-1"), "interfaces", "eni-1", value("interface"), dispatchrows.Topics("vpc/v-1", "fleet"))
	})
	eventually(t, "item shown", shows(a, "host/h-1", "interfaces", "eni-1", "interface"))
	d := a.Client.Desired() // one moment: what the item needs is there with it
	for _, key := range []string{"eni-0", "eni-1"} {
		if _, ok := d.Section("vpc/v-1", "mappings").Items[key]; !ok {
			t.Fatalf("item shown before its topic's %s", key)
		}
	}
	c.put("vpc/v-1", "mappings", "eni-0", "after")
	eventually(t, "topic change", shows(a, "vpc/v-1", "mappings", "eni-0", "after"))
	eventually(t, "topic applied", func() bool { return c.s.AppliedTopic("host/h-1", "vpc/v-1", "mappings") == 3 })
	c.commit(func(tx *store.Tx) { dispatchrows.Delete(tx, dispatchrows.Named("host/h-1"), "interfaces", "eni-1") })
	eventually(t, "topic dropped", func() bool { return !a.Client.Desired().Section("vpc/v-1", "mappings").Known })
	c.put("vpc/v-1", "mappings", "eni-2", "later")
	c.put("host/h-1", "interfaces", "eni-1", "again", "vpc/v-1")
	eventually(t, "topic back", shows(a, "vpc/v-1", "mappings", "eni-2", "later"))
	eventually(t, "item back", shows(a, "host/h-1", "interfaces", "eni-1", "again"))
}

func TestRestartOfEitherSide(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	c.put("host/h-1", "instances", "i-1", "one")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "one"))
	c.stop()
	eventually(t, "link down", func() bool { return !a.Status().Connected })
	c.put("host/h-1", "instances", "i-1", "two")
	c.put("host/h-1", "instances", "i-2", "new")
	c.start()
	eventually(t, "change after the server's restart", shows(a, "host/h-1", "instances", "i-1", "two"))
	a.stop()
	c.stop()
	a = c.agent(dir, nil) // with no server at all
	eventually(t, "state from disk", shows(a, "host/h-1", "instances", "i-2", "new"))
	c.commit(func(tx *store.Tx) { dispatchrows.Delete(tx, dispatchrows.Named("host/h-1"), "instances", "i-2") })
	c.start()
	eventually(t, "deletion after both", func() bool { return len(a.Client.Desired().Section("host/h-1", "instances").Items) == 1 })
}

func TestDamagedSectionIsFetchedAgain(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	c.put("host/h-1", "instances", "i-1", "good")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "good"))
	a.stop()
	files, err := filepath.Glob(filepath.Join(dir, "desired", "*.section"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-3] ^= 4
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.stop()
	a = c.agent(dir, nil)
	eventually(t, "file set aside", func() bool { _, err := os.Stat(files[0] + ".damaged"); return err == nil })
	if a.Client.Desired().Section("host/h-1", "instances").Known {
		t.Fatal("a damaged section counts as known")
	}
	c.start()
	eventually(t, "item again", shows(a, "host/h-1", "instances", "i-1", "good"))
}

func TestSecondHostWithOneIdentityIsRefused(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	first := c.agent(dir, nil)
	eventually(t, "first connected", func() bool { return first.Status().Connected })
	stolen := t.TempDir()
	if err := os.CopyFS(filepath.Join(stolen, "identity"), os.DirFS(filepath.Join(dir, "identity"))); err != nil {
		t.Fatal(err)
	}
	second := c.agent(stolen, nil)
	eventually(t, "second refused", func() bool { return errors.Is(second.Status().LastError, dispatch.ErrIdentityInUse) })
	if !first.Status().Connected {
		t.Fatal("the first lost its session")
	}
	first.stop()
	eventually(t, "second takes over once the first is gone", func() bool { return second.Status().Connected })
}

func TestJoin(t *testing.T) {
	c := newCluster(t)
	c.start()
	ctx, fp := t.Context(), c.authority.Fingerprint()
	token := c.token("host/")
	dir := filepath.Join(t.TempDir(), "identity")
	if err := enroll.Join(ctx, c.addr, token, strings.Repeat("00", 32), dir, "host/h-1"); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Fatalf("wrong fingerprint: %v", err)
	}
	if err := enroll.Join(ctx, c.addr, token, fp, dir, "edge/e-1"); !errors.Is(err, dispatch.ErrTokenInvalid) {
		t.Fatalf("token for another kind: %v", err)
	}
	if err := enroll.Join(ctx, c.addr, token, fp, dir, "host/h-1"); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "target.pem")) // as when the answer was lost
	if err := enroll.Join(ctx, c.addr, token, fp, dir, "host/h-1"); err != nil {
		t.Fatalf("again with the same key: %v", err)
	}
	other := filepath.Join(t.TempDir(), "identity")
	if err := enroll.Join(ctx, c.addr, token, fp, other, "host/h-2"); !errors.Is(err, dispatch.ErrTokenInvalid) {
		t.Fatalf("token used twice: %v", err)
	}
	if err := enroll.Join(ctx, c.addr, c.token("host/"), fp, other, "host/h-1"); !errors.Is(err, dispatch.ErrTargetExists) {
		t.Fatalf("taken name: %v", err)
	}
	if err := enroll.Join(ctx, c.addr, "nbj-unknown", fp, other, "host/h-2"); !errors.Is(err, dispatch.ErrTokenInvalid) {
		t.Fatalf("unknown token: %v", err)
	}
	old := c.agent(filepath.Dir(dir), nil)
	eventually(t, "old host connected", func() bool { return old.Status().Connected })
	if err := enroll.Join(ctx, c.addr, c.token("host/h-1"), fp, other, "host/h-1"); err != nil {
		t.Fatalf("replace: %v", err)
	}
	replaced := c.agent(filepath.Dir(other), nil)
	eventually(t, "new host connected", func() bool { return replaced.Status().Connected })
	eventually(t, "old host locked out", func() bool { s := old.Status(); return !s.Connected && s.LastError != nil })
	for _, path := range []string{filepath.Join(dir, "target.key")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestRaisedEpochStandsDown(t *testing.T) {
	c := newCluster(t)
	c.start()
	told := make(chan uint64, 4)
	a := c.agent(c.join("host/h-1"), func(o *client.Options) { o.StandDown = func(epoch uint64) { told <- epoch } })
	c.put("host/h-1", "instances", "i-1", "one")
	eventually(t, "item shown", shows(a, "host/h-1", "instances", "i-1", "one"))
	c.commit(func(tx *store.Tx) { dispatchrows.RaiseEpoch(tx, "host/h-1") })
	select {
	case epoch := <-told:
		if epoch != 2 {
			t.Fatalf("stood down for epoch %d", epoch)
		}
	case <-time.After(patience):
		t.Fatal("never stood down")
	}
	eventually(t, "complete under the new epoch", func() bool { return a.Client.Desired().Epoch() == 2 })
	c.put("host/h-1", "instances", "i-1", "two")
	eventually(t, "works on under the new epoch", shows(a, "host/h-1", "instances", "i-1", "two"))
}

func TestOtherHistoryOrphans(t *testing.T) {
	c := newCluster(t)
	c.start()
	dir := c.join("host/h-1")
	a := c.agent(dir, nil)
	c.put("host/h-1", "instances", "i-1", "kept")
	c.put("host/h-1", "instances", "i-2", "unknown to the backup")
	eventually(t, "both shown", shows(a, "host/h-1", "instances", "i-2", "unknown to the backup"))
	c.stop()

	// A restore: the same authority and identity over a store with another history that knows i-1 only.
	restored := newCluster(t)
	restored.authority, restored.options.Authority, restored.addr = c.authority, c.authority, c.addr
	restored.db = store.New(otherHistory{storetest.NewMemory()}, store.Options{})
	id, err := enroll.LoadIdentity(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.TLS().GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := enroll.KeyHash(cert.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	restored.commit(func(tx *store.Tx) { dispatchrows.PutIdentity(tx, "host/h-1", hash) })
	restored.put("host/h-1", "instances", "i-1", "as in the backup")
	restored.start()
	eventually(t, "backup's version taken", shows(a, "host/h-1", "instances", "i-1", "as in the backup"))
	v := a.Client.Desired().Section("host/h-1", "instances")
	if _, ok := v.Orphans["i-2"]; !ok || len(v.Items) != 1 {
		t.Fatalf("items %v, orphans %v", v.Items, v.Orphans)
	}
}

// otherHistory is an engine under another name of history.
type otherHistory struct{ store.Engine }

func (e otherHistory) Watch(ctx context.Context, from store.Version, prefixes ...[]byte) (store.Feed, error) {
	f, err := e.Engine.Watch(ctx, from, prefixes...)
	return otherFeed{f}, err
}

type otherFeed struct{ store.Feed }

func (f otherFeed) Next(ctx context.Context) (store.Batch, error) {
	b, err := f.Feed.Next(ctx)
	b.History = store.HistoryID{9}
	return b, err
}

func TestStreams(t *testing.T) {
	c := newCluster(t)
	c.start()
	echo := func(_ context.Context, s net.Conn, header []byte) error {
		if _, err := s.Write(header); err != nil {
			return err
		}
		_, err := io.Copy(s, s)
		return err
	}
	a := c.agent(c.join("host/h-1"), func(o *client.Options) { o.Streams = map[string]client.StreamHandler{"echo": echo} })
	eventually(t, "connected", func() bool { return a.Status().Connected })
	s, err := c.s.OpenStream(t.Context(), "host/h-1", "echo", []byte("header,"))
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	go func() {
		s.Write(sent)
		s.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, append([]byte("header,"), sent...)) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	s.Close()
	if _, err := c.s.OpenStream(t.Context(), "host/h-1", "other", nil); !errors.Is(err, dispatch.ErrUnknownStream) {
		t.Fatalf("unknown stream: %v", err)
	}
	if _, err := c.s.OpenStream(t.Context(), "host/h-9", "echo", nil); !errors.Is(err, dispatch.ErrNotConnected) {
		t.Fatalf("unknown target: %v", err)
	}
	if _, err := c.s.OpenStream(t.Context(), "host/h-1", strings.Repeat("x", 65), nil); err == nil {
		t.Fatal("a name of 65 bytes was accepted")
	}
}
