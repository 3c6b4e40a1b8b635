package tool

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/client"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("NIMBREL_TEST_SERVE"); dir != "" {
		c := Command(Options{})
		c.SetArgs([]string{"serve", dir, "--listen", "unix:" + dir + ".sock"})
		if err := c.ExecuteContext(context.Background()); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func spawn(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "NIMBREL_TEST_SERVE="+dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestKilledServer kills a server's process under load, again and again: what was acknowledged is there, nothing twice.
func TestKilledServer(t *testing.T) {
	const clients, kills, size = 8, 5, 1 << 20
	dir := filepath.Join(t.TempDir(), "s")
	process := spawn(t, dir)
	defer func() { _ = process.Process.Kill(); _ = process.Wait() }()
	c := client.New(t.Context(), client.Options{Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", dir+".sock")
	}})
	defer c.Close()
	db := store.New(c, store.Options{Tenant: "t"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pool := store.Prefix("pool")
	if _, err := db.Transact(ctx, func(tx *store.Tx) error { tx.CreatePool(pool, size); return nil }); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	taken := map[uint64]bool{}
	enough := make(chan struct{})
	progress := make(chan struct{}, 1)
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				var e store.Slot
				r, err := db.Transact(ctx, func(tx *store.Tx) error {
					tx.Add(store.Key("n"), 1, 0, size)
					e = tx.Take(pool)
					return nil
				})
				if err != nil {
					t.Errorf("transact: %v", err)
					return
				}
				mu.Lock()
				if taken[r.Element(e)] {
					t.Errorf("element %d was handed out twice", r.Element(e))
				}
				taken[r.Element(e)] = true
				mu.Unlock()
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range kills {
		for range 50 {
			select {
			case <-progress:
			case <-ctx.Done():
				t.Fatal("no progress")
			}
		}
		if err := process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait() // it was killed
		process = spawn(t, dir)
	}
	close(enough)
	group.Wait()
	err := db.View(ctx, func(r store.Reader) error {
		n, _, err := r.Get(ctx, store.Prefix("n"))
		if err != nil {
			return err
		}
		all, err := store.PoolTaken(ctx, r, pool)
		if int(n.Int) != len(taken) || len(all) != len(taken) {
			t.Errorf("counted %d, taken %d, acknowledged %d", n.Int, len(all), len(taken))
		}
		for _, e := range all {
			if !taken[e] {
				t.Errorf("element %d is gone and nobody has it", e)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d acknowledged over %d kills", len(taken), kills)
	if out, err := run("put", "--connect", "unix:"+dir+".sock", "--tenant", "t", "a", "--int", "4"); err != nil || !strings.Contains(out, "version") {
		t.Errorf("put: %q %v", out, err)
	}
	if out, err := run("get", "--connect", "unix:"+dir+".sock", "--tenant", "t", "a"); err != nil || !strings.Contains(out, `"value":4`) {
		t.Errorf("get: %q %v", out, err)
	}
	for _, other := range []string{"watch", "stats", "verify"} { // not of another store than the one named
		if _, err := run(other, "--connect", "unix:"+dir+".sock"); err == nil || !strings.Contains(err.Error(), "unknown flag: --connect") {
			t.Errorf("%s: %v", other, err)
		}
	}
}
