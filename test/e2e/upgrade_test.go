package e2e

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestFakeUpgradeUnderLoad stops the server as a package upgrade does and starts another build of it in its place, again
// and again, while clients launch and terminate. Clients send again what was not answered, as AWS's do: then every call
// succeeds, one launch comes of each token, and what was acknowledged is there.
func TestFakeUpgradeUnderLoad(t *testing.T) {
	t.Parallel()
	if err := build("nimbrel-next", "./cmd/nimbrel", "next"); err != nil {
		t.Fatal(err)
	}
	c := newCloud(t, claimPlace(t))
	c.up("--fake", "--hosts", "4", "--image", c.disk())
	api, err := openClient(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	load := &load{api: api, image: c.image()}
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	const many = 6
	for n := range many {
		clients.Go(func() { load.run(ctx, n) })
	}
	const upgrades = 6
	for n := range upgrades {
		before := load.launched.Load()
		c.eventually("clients launch", func() error {
			return expect(load.launched.Load() >= before+many || load.failed() > 0, "not yet")
		})
		if load.failed() > 0 {
			break
		}
		c.upgrade([]string{"nimbrel-next", "nimbrel"}[n%2])
	}
	before := load.launched.Load()
	c.eventually("clients launch after the last upgrade", func() error {
		return expect(load.launched.Load() >= before+many || load.failed() > 0, "not yet")
	})
	cancel()
	clients.Wait()
	load.compare(c)
	c.checkClean()
	t.Logf("%d launches over %d upgrades; %d calls were sent again", load.launched.Load(), upgrades, load.again.Load())
	if load.again.Load() == 0 {
		t.Error("no call met a server that was away: the load tests nothing")
	}
}

// TestFakeLaunchAtOnceAfterKill kills the server again and again, with its agents alive, and launches as soon as the next
// one answers at all, before the agents are back.
func TestFakeLaunchAtOnceAfterKill(t *testing.T) {
	c := newCloud(t, claimPlace(t))
	c.up("--fake", "--hosts", "3", "--image", c.disk())
	api, err := openClient(c.dir())
	if err != nil {
		t.Fatal(err)
	}
	load := &load{api: api, image: c.image()}
	const kills, many = 4, 4
	for n := range kills {
		c.kill("server")
		var clients sync.WaitGroup
		for k := range many {
			clients.Go(func() { load.launch(fmt.Sprintf("kill-%d-%d", n, k)) })
		}
		r := c.start(exec.Command(nimbrelPath(), "dev", "up", "--fake", "--hosts", "3"))
		clients.Wait()
		if r.status != 0 {
			t.Fatal(r)
		}
	}
	if load.launched.Load() != kills*many || load.again.Load() == 0 {
		t.Errorf("%d launches after %d calls that met no server, want %d after some", load.launched.Load(), load.again.Load(), kills*many)
	}
	load.compare(c)
	for id := range load.ended {
		c.awaitState(id, "running")
	}
	c.checkClean()
}

// upgrade ends the server and starts it from another file.
func (c *cloud) upgrade(binary string) {
	c.t.Helper()
	path := filepath.Join(binaries, binary)
	if err := syscall.Kill(c.daemon("server").PID, syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the server has ended", func() error { return expect(!c.daemon("server").Running, "it runs") })
	r := c.start(exec.Command(path, "dev", "up", "--fake", "--hosts", "4"))
	if r.status != 0 {
		c.t.Fatal(r)
	}
	if exe, err := os.Readlink("/proc/" + strconv.Itoa(c.daemon("server").PID) + "/exe"); err == nil && exe != path {
		c.t.Fatalf("the server runs %s, want %s", exe, path)
	}
}

// load is what the clients have done.
type load struct {
	api             *client
	image           string
	launched, again atomic.Int64

	mu       sync.Mutex
	ended    map[string]bool // mu; acknowledged instances: was the end of it acknowledged as well?
	problems []string        // mu
}

// run launches and terminates until ctx ends; a call that is under way then is finished. Hosts end guests only while they
// have a server, so a client that is ahead of them by many waits: what it has terminated takes room until then.
func (l *load) run(ctx context.Context, client int) {
	const ahead = 20
	var ending []string
	for n := 0; ctx.Err() == nil; n++ {
		if len(ending) == ahead {
			if err := l.awaitEnd(ctx, ending); err != nil {
				l.note("await the end of %v: %v", ending, err)
				return
			}
			ending = ending[:0]
		}
		id := l.launch(fmt.Sprintf("load-%d-%d", client, n))
		if id == "" {
			return
		}
		if n < 5 {
			continue // stays; the account has room for 64
		}
		if _, err := l.call("TerminateInstances", "InstanceId.1", id); err != nil {
			l.note("terminate %s: %v", id, err)
			return
		}
		l.mark(id, true)
		ending = append(ending, id)
	}
}

// awaitEnd waits until no instance of ids is on a host, or until ctx ends.
func (l *load) awaitEnd(ctx context.Context, ids []string) error {
	var pairs []string
	for n, id := range ids {
		pairs = append(pairs, fmt.Sprintf("InstanceId.%d", n+1), id)
	}
	return within(eventLimit, func() error {
		if ctx.Err() != nil {
			return nil
		}
		raw, err := l.call("DescribeInstances", pairs...)
		if err != nil {
			return err
		}
		left := strings.Count(string(raw), "<name>shutting-down</name>")
		return expect(left == 0, "%d are shutting down", left)
	})
}

// launch launches one instance; "" when that failed.
func (l *load) launch(token string) string {
	raw, err := l.call("RunInstances", "ImageId", l.image, "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "ClientToken", token)
	var out runAnswer
	if err == nil {
		err = xml.Unmarshal(raw, &out)
	}
	if err != nil || len(out.Instances) != 1 {
		l.note("launch: %v %v", out.Instances, err)
		return ""
	}
	l.launched.Add(1)
	l.mark(out.Instances[0].ID, false)
	return out.Instances[0].ID
}

func (l *load) mark(id string, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended == nil {
		l.ended = map[string]bool{}
	}
	if _, known := l.ended[id]; known && !ended {
		l.problems = append(l.problems, id+" was launched twice")
	}
	l.ended[id] = ended
}

func (l *load) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func (l *load) failed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.problems)
}

// call sends a request until it is answered by other than a 5xx status, as AWS's SDKs do. That there is no capacity has
// such a status too, and is an answer here: a server counts on its hosts from its first moment.
func (l *load) call(action string, pairs ...string) (raw []byte, err error) {
	late := within(eventLimit, func() error {
		raw, err = l.api.call(action, pairs...)
		var refusal *apiError
		if err == nil || (errors.As(err, &refusal) && (!strings.HasPrefix(refusal.Status, "5") || refusal.Code == "InsufficientInstanceCapacity")) {
			return nil
		}
		l.again.Add(1)
		return err
	})
	return raw, errors.Join(late, err)
}

// compare looks for what was acknowledged and is not so, and for what nobody was told of.
func (l *load) compare(c *cloud) {
	c.t.Helper()
	states := map[string]string{}
	for _, v := range c.instances() {
		states[v.InstanceId] = v.State
	}
	for id, ended := range l.ended {
		switch s := states[id]; {
		case s == "":
			c.t.Errorf("%s was acknowledged and is not there", id)
		case ended && s != "shutting-down" && s != "terminated":
			c.t.Errorf("%s is %s; its termination was acknowledged", id, s)
		}
		delete(states, id)
	}
	if len(states) > 0 {
		c.t.Errorf("instances that no client was told of: %v", states)
	}
	if len(l.problems) > 0 {
		c.t.Errorf("calls failed:\n%s", strings.Join(l.problems, "\n"))
	}
}
