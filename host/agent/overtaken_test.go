package agent

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest/metadata"
	"github.com/nimbrel/nimbrel/host/internal/vm/fake"
	"github.com/nimbrel/nimbrel/svc/obs/obstest"
)

// endless is an image whose bytes never come.
type endless struct{ closed chan struct{} }

func (e endless) Read([]byte) (int, error) { <-e.closed; return 0, io.ErrClosedPipe }

func (e endless) Close() error {
	select {
	case <-e.closed:
	default:
		close(e.closed)
	}
	return nil
}

// TestDocumentOvertakesDownload: a guest whose image is on its way is terminated or stopped at once, and the download ends;
// it is no failed start. A newer document about another guest ends nothing.
func TestDocumentOvertakesDownload(t *testing.T) {
	for name, change := range map[string]func(*rig, host.Instance){
		"terminated": func(r *rig, i host.Instance) { r.put(own, host.SectionInstances, string(i.ID), nil) },
		"stopped":    func(r *rig, i host.Instance) { i.Power = host.PowerStop; r.putInstance(i) },
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan endless, 8)
			r := &rig{desk: newDesk(t), network: &quietNetwork{}, state: t.TempDir(), world: fake.NewWorld(fake.Options{})}
			a, err := newAgent(Options{
				ID: hostID, StateDir: r.state, Network: r.network, Log: obstest.Logger(t),
				FetchImage: func(context.Context, string, uint64) (io.ReadCloser, error) {
					e := endless{make(chan struct{})}
					asked <- e
					return e, nil
				},
			}.withDefaults())
			if err != nil {
				t.Fatal(err)
			}
			a.link, a.driver, r.agent = r.desk, r.world.Driver(), a
			stop := a.start(t.Context())
			defer stop()
			i := instance(1, nil)
			r.give(func() { r.putInterface(1); r.putInstance(i) })
			download := <-asked
			r.give(func() { r.putInterface(2) })
			select {
			case <-download.closed:
				t.Error("a document about another guest ended the download")
			default:
			}
			r.give(func() { change(r, i) })
			<-download.closed
			r.until("acknowledged", func() bool { return r.free(1, 2, 2) })
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, state := range r.history[string(i.ID)] {
				if state == host.VMFailed.String() {
					t.Errorf("reported %v", r.history[string(i.ID)])
				}
			}
			if s := a.stats(); s.FailedStarts != 0 {
				t.Errorf("%d failed starts", s.FailedStarts)
			}
		})
	}
}

// TestTokenKey: a key that a power loss has spoilt is made anew, and a good one is kept.
func TestTokenKey(t *testing.T) {
	state := t.TempDir()
	first, err := tokenKey(state)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := tokenKey(state); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the next agent has another key: %v", err)
	}
	for name, spoilt := range map[string][]byte{"empty": {}, "torn": first[:3], "zeros": make([]byte, metadata.KeyBytes)} {
		if err := os.WriteFile(filepath.Join(state, tokenKeyFile), spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := tokenKey(state)
		if err != nil || len(key) != metadata.KeyBytes || bytes.HasPrefix(key, spoilt) && len(spoilt) > 0 || bytes.Equal(key, first) {
			t.Errorf("%s: key %x, %v", name, key, err)
		}
		if kept, err := tokenKey(state); err != nil || !bytes.Equal(kept, key) {
			t.Errorf("%s: the new key is not kept: %v", name, err)
		}
	}
}
