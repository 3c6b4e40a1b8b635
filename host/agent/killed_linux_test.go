package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Stages of a start, in order. The agent's own come first, then the driver's.
var stages = []string{"named", "ports", "specified", "spawned", "recorded", "connected", "runs"}

// dieAt tells TestStartAndDie, in a process of its own, at which stage to die, in which state directory and over which
// images.
const dieAt = "NIMBREL_TEST_DIE_AT"

// tapNetwork gives real taps where they can be made; they end with their last holder. A guest's tap has the same name
// whichever agent of its state directory opens it, so one that is still held is refused.
type tapNetwork struct {
	*quietNetwork
	state string
}

func (n tapNetwork) OpenTap(ctx context.Context, in host.Interface, vnet bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(fmt.Sprintf("nb%08x-%d", fingerprint(n.state), in.MAC[5]))
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tap"), nil
}

const testUserCount = 64

// testUsers is the first of the users of the machines of one state directory: no other's, so that tests that run beside
// this one do not take them for theirs.
func testUsers(state string) int { return 0x20000000 + int(fingerprint(state)%(1<<22))*testUserCount }

// fingerprint tells state directories apart where a name has no room for the whole path.
func fingerprint(state string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(state))
	return h.Sum32()
}

// realRig is an agent with real machines. reached is Options.reached.
func realRig(t *testing.T, state, images string, reached func(string)) *rig {
	t.Helper()
	r := &rig{desk: newDesk(t), state: state}
	o := Options{ID: hostID, StateDir: state, ImageSource: images, reached: reached}
	if os.Geteuid() == 0 {
		o.UIDBase, o.UIDCount = testUsers(state), testUserCount
		o.Network = tapNetwork{&quietNetwork{heard: time.Now().Add(time.Hour)}, state}
	}
	a, err := newAgent(o.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	a.link, r.agent = r.desk, a
	r.stop = a.start(t.Context())
	return r
}

// bootImage makes a directory with one image, whose boot sector prints a line and halts.
func bootImage(t *testing.T) (dir, digest string, size int) {
	t.Helper()
	sector, err := os.ReadFile("../internal/vm/qemu/selftest/boot.bin")
	if err != nil {
		t.Fatal(err)
	}
	image := append(sector, make([]byte, 1<<20-len(sector))...)
	sum := sha256.Sum256(image)
	dir, digest = t.TempDir(), hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(dir, digest), image, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, digest, len(image)
}

// want gives an agent the documents of one real guest.
func (r *rig) want(n int, digest string, size int) host.Instance {
	i := instance(n, func(i *host.Instance) { i.ImageSHA256, i.ImageBytes = digest, uint64(size) })
	r.give(func() { r.putInterface(n); r.putInstance(i) })
	return i
}

// TestStartAndDie is the child of TestKilledWhileStarting: an agent that is gone at one stage of its guest's start.
func TestStartAndDie(t *testing.T) {
	order := strings.Split(os.Getenv(dieAt), ",")
	if len(order) != 5 {
		return // by itself it is no test
	}
	stage, state, images, digest := order[0], order[1], order[2], order[3]
	n, _ := strconv.Atoi(order[4])
	r := realRig(t, state, images, func(reached string) {
		if reached == stage {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	})
	r.want(n, digest, 1<<20)
	r.until("death", func() bool { return false })
}

// TestKilledWhileStarting kills an agent at every stage of a start, with SIGKILL. Whatever it left, the next agent ends
// up with the guest running in exactly one machine, in the same generation, and never calls it failed.
func TestKilledWhileStarting(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	t.Parallel()
	images, digest, size := bootImage(t)
	state := t.TempDir()
	recallVerdict(t, state)
	for n, stage := range stages {
		n += 200 // guests of no other test's: it looks for their machines among all that run
		t.Run(stage, func(t *testing.T) {
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStartAndDie$")
			child.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%s,%s,%d", dieAt, stage, state, images, digest, n))
			out, _ := child.CombinedOutput()
			if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
				t.Fatalf("the agent was not killed at %s: %v\n%s", stage, child.ProcessState, out)
			}
			r := realRig(t, state, images, nil)
			defer func() { r.stop() }()
			r.until("ready", func() bool { return r.ready })
			i := r.want(n, digest, size)
			r.untilState(i.ID, host.VMRunning)
			r.until("acknowledged", func() bool { return r.free(n, 1, 1) })
			if found := machinesOf(t, i.ID); len(found) != 1 {
				t.Errorf("machines %v, want one", found)
			}
			if line := r.follow(t, i); !strings.Contains(line, "nimbrel-selftest: ok") {
				t.Errorf("console says %q", line)
			}
			r.mu.Lock()
			if s := r.actual[string(i.ID)]; s.Generation != 1 || strings.Contains(strings.Join(r.history[string(i.ID)], " "), "failed") {
				t.Errorf("reported %v, %+v", r.history[string(i.ID)], s)
			}
			r.mu.Unlock()
			i.Power = host.PowerKill // it does not hear the power button
			r.give(func() { r.putInstance(i) })
			r.untilState(i.ID, host.VMStopped)
			r.give(func() { r.put(own, host.SectionInstances, string(i.ID), nil) })
			r.until("terminated", func() bool { return r.free(n, 3, 0) })
			if found := machinesOf(t, i.ID); len(found) != 0 {
				t.Errorf("machines %v are left", found)
			}
		})
	}
}

// machinesOf lists the processes that are machines of a guest.
func machinesOf(t *testing.T, id ids.Instance) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte("guest="+string(id)+"@")) {
			found = append(found, path)
		}
	}
	return found
}
