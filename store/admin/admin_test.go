package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/backup"
	"github.com/nimbrel/nimbrel/store/embed"
)

type fixture struct {
	engine *embed.Engine
	db     *store.DB
	client *Client
	audits chan string
	// tamper changes what the server sends.
	tamper func(w http.ResponseWriter) http.ResponseWriter
}

func serve(t *testing.T) *fixture {
	t.Helper()
	e, err := embed.Open(filepath.Join(t.TempDir(), "store"), embed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	f := &fixture{engine: e, db: store.New(e, store.Options{}), audits: make(chan string, 100)}
	h := Handler(e, func(_ context.Context, action, subject string, err error) {
		text := action + " " + subject
		if err != nil {
			text += ": " + err.Error()
		}
		select {
		case f.audits <- text:
		default:
		}
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.tamper != nil {
			w = f.tamper(w)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.client = &Client{HTTP: server.Client(), URL: server.URL}
	return f
}

func (f *fixture) put(t *testing.T, name string, v store.Template) {
	t.Helper()
	if _, err := f.db.Transact(context.Background(), func(tx *store.Tx) error { tx.Put(store.Key(name), v); return nil }); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) backUp(dir string) (*backup.Manifest, error) {
	s, _, err := f.client.Backup(context.Background())
	if err != nil {
		return nil, err
	}
	return backup.Write(context.Background(), dir, s, time.Now(), nil, nil)
}

func TestBackup(t *testing.T) {
	f := serve(t)
	f.put(t, "a", store.Int(1))
	f.put(t, "b", store.Bytes(bytes.Repeat([]byte{7}, 100_000)))
	to := filepath.Join(t.TempDir(), "backup")
	m, err := f.backUp(to)
	if err != nil || m.Version != 2 || m.History != f.engine.History().String() {
		t.Fatalf("%+v, %v", m, err)
	}
	if got := <-f.audits; got != "StoreBackup version 2" {
		t.Errorf("audit %q", got)
	}
	if r, err := backup.Verify(context.Background(), to, nil); err != nil || !r.OK() || r.Rows != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// cut ends the connection after some bytes, or flips one of them.
type cut struct {
	http.ResponseWriter
	left int
	flip bool
}

func (c *cut) Write(b []byte) (int, error) {
	if len(b) < c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	if !c.flip {
		panic(http.ErrAbortHandler)
	}
	b = bytes.Clone(b)
	b[c.left] ^= 1
	c.left = 1 << 40
	return c.ResponseWriter.Write(b)
}

func (c *cut) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// TestBackupOnABadWay: whatever is lost or changed on the way, there is no backup, and the server goes on.
func TestBackupOnABadWay(t *testing.T) {
	f := serve(t)
	f.put(t, "b", store.Bytes(bytes.Repeat([]byte{7}, 100_000)))
	dir := t.TempDir()
	s, _, err := f.client.Backup(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	d := s.Describe()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-f.audits
	size := int(d.Bytes())
	for _, flip := range []bool{false, true} {
		for _, at := range []int{0, 10, size / 2, size, size + 400, size + 700} {
			f.tamper = func(w http.ResponseWriter) http.ResponseWriter { return &cut{w, at, flip} }
			if m, err := f.backUp(filepath.Join(dir, "backup")); err == nil {
				t.Errorf("flip %v at %d of %d: %+v", flip, at, size, m)
			}
			f.tamper = nil
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := f.backUp(filepath.Join(dir, "backup"))
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), embed.ErrBusy.Error()) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // the last one's end is on its way to the server
	}
}

func TestStats(t *testing.T) {
	f := serve(t)
	for range 64 {
		f.put(t, "hot", store.Int(1))
	}
	_, err := f.db.Transact(context.Background(), func(tx *store.Tx) error { tx.Add(store.Key("hot"), 5, 0, 3); return nil })
	if err == nil {
		t.Fatal("a guard that cannot hold")
	}
	s, err := f.client.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	hot := append(store.HandlePrefix(0, ""), store.Prefix("hot")...)
	if s.Commits != 64 || s.GuardFailures != 1 || s.Durable != 64 || s.DiskBytes == 0 || s.HistoryBytes == 0 || s.SyncP99Us < s.SyncP50Us || s.Bounds.QueueCommits == 0 {
		t.Errorf("%+v", s)
	}
	if len(s.HotKeys) != 1 || !bytes.Equal(s.HotKeys[0].Key, hot) || s.HotKeys[0].Count != 64 {
		t.Errorf("hot keys %+v", s.HotKeys)
	}
	if len(s.GuardKeys) != 1 || !bytes.Equal(s.GuardKeys[0].Key, hot) {
		t.Errorf("guard keys %+v", s.GuardKeys)
	}
}

func TestWatch(t *testing.T) {
	f := serve(t)
	f.put(t, "a", store.Int(1))
	f.put(t, "b", store.Bytes([]byte("secret")))
	enough := errors.New("enough")
	watch := func(values bool, prefix []byte) (events []Event) {
		zero := store.Version(0)
		err := f.client.Watch(context.Background(), &zero, prefix, values, func(e Event) error {
			if events = append(events, e); e.Version == 2 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
		return events
	}
	all := watch(false, nil)
	if len(all) != 2 || all[1].Changes[0].Value != nil || all[1].Changes[0].Bytes != 6 || all[0].Changes[0].Bytes != 8 {
		t.Errorf("%+v", all)
	}
	if len(f.audits) != 0 {
		t.Error("a watch without values is audited")
	}
	b := append(store.HandlePrefix(0, ""), store.Prefix("b")...)
	if some := watch(true, b); len(some) != 1 || string(some[0].Changes[0].Value.Bytes) != "secret" {
		t.Errorf("%+v", some)
	}
	if len(f.audits) != 1 {
		t.Error("a watch with values is not audited")
	}
	future := store.Version(99)
	if err := f.client.Watch(context.Background(), &future, nil, false, nil); err == nil || !strings.Contains(err.Error(), "another history") {
		t.Errorf("from the future: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	err := f.client.Watch(ctx, nil, nil, false, func(e Event) error { // the first mark comes at once
		stop()
		return nil
	})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ended: %v", err)
	}
}
