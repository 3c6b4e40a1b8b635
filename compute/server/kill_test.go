package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store/embed"
)

// A server's process, as far as a launch and a terminate go, is this test binary with killDir in its environment: a whole
// control plane without doors on a store on disk. It says on its standard output what it has acknowledged, and kills
// itself at the log write that killAt counts to from a stage on: what was acknowledged last, a space, a number.
const (
	killDir = "NIMBREL_TEST_KILL_DIR"
	killAt  = "NIMBREL_TEST_KILL_AT"
)

// killHosts is how many fake hosts there are, killToken the launch's client token, killInstances how many it asks for.
const (
	killHosts     = 2
	killToken     = "kill"
	killInstances = 2
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		if err := serveUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// logWrites counts writes and syncs of the store's log once it is armed, and calls at before the one it is set to.
type logWrites struct {
	armed atomic.Bool
	count atomic.Int64
	at    func(n int64)
}

func (l *logWrites) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if l.armed.Load() && strings.HasSuffix(op.Path, ".log") {
			l.at(l.count.Add(1))
		}
	}
	return nil
}

func (l *logWrites) String() string { return "logWrites" }

// serveUntilKilled launches, waits until the instances run, terminates them, and waits for the end of that.
func serveUntilKilled(dir string) error {
	stage, number, _ := strings.Cut(os.Getenv(killAt), " ")
	at, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	writes := &logWrites{at: func(n int64) {
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal comes
		}
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	w, closeStore, err := resume(ctx, dir, errorfs.Wrap(vfs.Default, writes))
	if err != nil {
		return err
	}
	defer closeStore()
	writes.armed.Store(stage == stages[0])
	return lifeAloud(ctx, w, func(line string) {
		fmt.Println(line)
		if stageOf(line) == stage {
			writes.armed.Store(true)
		}
	})
}

// lifeAloud is one launch and one terminate; say hears what was acknowledged, when it was.
func lifeAloud(ctx context.Context, w *computetest.World, say func(string)) error {
	r := w.Request(killInstances)
	r.ClientToken = killToken
	out, err := w.Compute().RunInstances(ctx, w.Account, r)
	if err != nil {
		return err
	}
	list := idsOf(out.Instances)
	say(fmt.Sprint("launched ", joined(list)))
	if err := awaitAll(ctx, w, compute.Running, list); err != nil {
		return err
	}
	say("running")
	if _, err := w.Compute().TerminateInstances(ctx, w.Account, list); err != nil {
		return err
	}
	say("terminating")
	if err := awaitAll(ctx, w, compute.Terminated, list); err != nil {
		return err
	}
	say("terminated")
	return nil
}

func joined(list []ids.Instance) string {
	var text []string
	for _, id := range list {
		text = append(text, string(id))
	}
	slices.Sort(text)
	return strings.Join(text, " ")
}

// awaitAll waits until instances are in a state.
func awaitAll(ctx context.Context, w *computetest.World, s compute.State, list []ids.Instance) error {
	return w.Await(ctx, func() bool {
		found, err := w.Compute().DescribeInstances(ctx, w.Account, list, nil)
		return err == nil && !slices.ContainsFunc(found, func(i *compute.Instance) bool { return i.State != s })
	})
}

// resume opens the world whose furniture is described in dir.
func resume(ctx context.Context, dir string, fs vfs.FS) (*computetest.World, func(), error) {
	raw, err := os.ReadFile(filepath.Join(dir, "furniture"))
	if err != nil {
		return nil, nil, err
	}
	furniture := new(computetest.Furniture)
	if err := json.Unmarshal(raw, furniture); err != nil {
		return nil, nil, err
	}
	return openKept(ctx, dir, fs, furniture)
}

// openKept opens a world on a store in dir/store; the function ends both.
func openKept(ctx context.Context, dir string, fs vfs.FS, furniture *computetest.Furniture) (*computetest.World, func(), error) {
	engine, err := embed.Open(filepath.Join(dir, "store"), embed.Options{FS: fs})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w, err := computetest.Open(ctx, computetest.Options{Engine: engine, Hosts: killHosts, Dir: filepath.Join(dir, "images"), Resume: furniture})
	end := func() {
		cancel()
		w.Wait()
		_ = engine.Close()
	}
	if err != nil {
		end()
		return nil, nil, err
	}
	return w, end, nil
}

// furnished makes a world in a new directory of fs, and leaves it closed.
func furnished(t *testing.T, fs vfs.FS) (dir string, furniture computetest.Furniture) {
	t.Helper()
	dir = t.TempDir()
	w, end, err := openKept(t.Context(), dir, fs, nil)
	if err != nil {
		t.Fatal(err)
	}
	furniture = w.Furniture
	end()
	return dir, furniture
}

// stages are what can have been acknowledged last while there is more to write.
var stages = []string{"nothing", "launched", "running", "terminating"}

// TestKilledAtEveryLogWrite kills the server's process at each write and sync of its log in turn, from the first of a
// launch to the last of a terminate. Stages are counted through by themselves: how many writes each has differs from one
// process to the next.
func TestKilledAtEveryLogWrite(t *testing.T) {
	dir, furniture := furnished(t, vfs.Default)
	raw, err := json.Marshal(furniture)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "furniture"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for _, stage := range stages {
		group.Go(func() {
			const limit = 100
			kills := 0
			for k := 1; k <= limit && !t.Failed(); k++ {
				if killedAt(t, dir, stage, k) != stage {
					break // the process outlived the stage
				}
				kills++
			}
			t.Logf("%d kills when %q was the last thing acknowledged", kills, stage)
			if kills == 0 || kills == limit {
				t.Errorf("%d kills when %q was the last thing acknowledged, want some, and fewer than %d", kills, stage, limit)
			}
		})
	}
	group.Wait()
}

// killedAt lets a process die at its k-th log write from a stage on, and looks at what a new one finds. It returns the last
// thing that the process acknowledged.
func killedAt(t *testing.T, from, stage string, k int) string {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Error(err)
		return ""
	}
	self, err := os.Executable()
	if err != nil {
		t.Error(err)
		return ""
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), killDir+"="+dir, fmt.Sprintf("%s=%s %d", killAt, stage, k))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return ""
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return ""
	}
	said := linesOf(out)
	if err := cmd.Wait(); err != nil && !wasKilled(err) {
		t.Errorf("%s, kill %d: the server ended by itself: %v: %s", stage, k, err, complaint.String())
	}
	verifyAfter(t, fmt.Sprintf("%s, kill %d", stage, k), said, func(ctx context.Context) (*computetest.World, func(), error) {
		return resume(ctx, dir, vfs.Default)
	})
	return lastOf(said)
}

// TestPowerLostAtEveryLogWrite leads the same life once, on a disk that is copied before each write and sync of the log as
// it would be after a loss of power: some of what was not synced is gone.
func TestPowerLostAtEveryLogWrite(t *testing.T) {
	type moment struct {
		disk vfs.FS
		said []string
	}
	var (
		mu      sync.Mutex
		said    []string // mu
		moments []moment // mu
	)
	mem := vfs.NewCrashableMem()
	random := rand.New(rand.NewPCG(1, 1))
	writes := &logWrites{at: func(int64) {
		mu.Lock() // what is said before the copy is made must be in it
		defer mu.Unlock()
		heard := slices.Clone(said)
		for _, unsynced := range []int{0, random.IntN(101)} {
			moments = append(moments, moment{mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: random}), heard})
		}
	}}
	dir, furniture := furnished(t, mem)
	w, end, err := openKept(t.Context(), dir, errorfs.Wrap(mem, writes), &furniture)
	if err != nil {
		t.Fatal(err)
	}
	writes.armed.Store(true)
	err = lifeAloud(t.Context(), w, func(line string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, line)
	})
	writes.armed.Store(false)
	end()
	if err != nil {
		t.Fatal(err)
	}
	if len(moments) < 16 {
		t.Errorf("only %d copies of the disk", len(moments))
	}
	for n, m := range moments {
		verifyAfter(t, fmt.Sprint("copy ", n), m.said, func(ctx context.Context) (*computetest.World, func(), error) {
			return openKept(ctx, dir, m.disk, &furniture)
		})
	}
}

func linesOf(r io.Reader) (said []string) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		said = append(said, lines.Text())
	}
	return said
}

func lastOf(said []string) string {
	if len(said) == 0 {
		return stages[0]
	}
	return stageOf(said[len(said)-1])
}

func stageOf(line string) string {
	stage, _, _ := strings.Cut(line, " ")
	return stage
}

func wasKilled(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// verifyAfter opens what a dead server left. What it had acknowledged is there; what it had not is there whole or not at
// all; the client's retry gives one launch; everything is accounted for; and the life can be led to its end.
func verifyAfter(t *testing.T, name string, said []string, open func(context.Context) (*computetest.World, func(), error)) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	opened, end, err := open(ctx)
	if err != nil {
		t.Errorf("%s: open again: %v", name, err)
		return
	}
	defer end()
	if err := verifyLife(ctx, opened, said); err != nil {
		t.Errorf("%s, after %q: %v", name, said, err)
	}
}

func verifyLife(ctx context.Context, w *computetest.World, said []string) error {
	there, err := w.Compute().DescribeInstances(ctx, w.Account, nil, nil)
	if err != nil {
		return err
	}
	acknowledged := ""
	if len(said) > 0 {
		acknowledged = strings.TrimPrefix(said[0], "launched ")
	}
	switch list := joined(idsOf(there)); {
	case acknowledged != "" && list != acknowledged:
		return fmt.Errorf("acknowledged %q, there is %q", acknowledged, list)
	case len(there) != 0 && len(there) != killInstances:
		return fmt.Errorf("a launch of %d is there as %q", killInstances, list)
	}
	if len(said) >= 3 && slices.ContainsFunc(there, func(i *compute.Instance) bool {
		return i.State != compute.ShuttingDown && i.State != compute.Terminated
	}) {
		return errors.New("an acknowledged terminate is undone")
	}
	if err := clean(ctx, w); err != nil {
		return err
	}
	if err := retried(ctx, w, there); err != nil {
		return err
	}
	return clean(ctx, w)
}

// retried sends the launch again, as a client does that heard no answer, and leads the life to its end.
func retried(ctx context.Context, w *computetest.World, there []*compute.Instance) error {
	r := w.Request(killInstances)
	r.ClientToken = killToken
	again, err := w.Compute().RunInstances(ctx, w.Account, r)
	if err != nil {
		return fmt.Errorf("launch again: %w", err)
	}
	list := idsOf(again.Instances)
	if len(there) > 0 && joined(list) != joined(idsOf(there)) {
		return fmt.Errorf("launch again: %q, there was %q", joined(list), joined(idsOf(there)))
	}
	if _, err := w.Compute().TerminateInstances(ctx, w.Account, list); err != nil {
		return fmt.Errorf("terminate: %w", err)
	}
	if err := awaitAll(ctx, w, compute.Terminated, list); err != nil {
		return fmt.Errorf("wait for the end: %w", err)
	}
	all, err := w.Compute().DescribeInstances(ctx, w.Account, nil, nil)
	if err != nil {
		return err
	}
	if len(all) != killInstances {
		return fmt.Errorf("%d instances were ever made, want %d", len(all), killInstances)
	}
	hosts, err := w.Compute().Hosts(ctx)
	for _, h := range hosts {
		if h.Instances != 0 {
			return fmt.Errorf("host %s holds %d instances at the end", h.ID, h.Instances)
		}
	}
	return err
}

// clean runs the invariant checker.
func clean(ctx context.Context, w *computetest.World) error {
	report, err := w.Check(ctx)
	if err == nil && !report.Clean() {
		err = fmt.Errorf("check: %+v", report.Findings)
	}
	return err
}
