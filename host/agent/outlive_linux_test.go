package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/hosttest/standin"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
	"github.com/nimbrel/nimbrel/internal/ids"
)

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
}

// pidOf is the process of a guest's machine.
func pidOf(t *testing.T, dir string) int {
	t.Helper()
	p, found := vm.ReadProcess(dir)
	if !found {
		t.Fatalf("no process is recorded in %s", dir)
	}
	return p.PID
}

func lives(pid int) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(state, []byte(") Z "))
}

// again stops an agent and starts the next one over its directory, images and documents. The fresh desk knows nothing of
// what was said to the one before.
func (r *rig) again(images string) *rig {
	r.t.Helper()
	r.stop()
	next := realRig(r.t, r.state, images, nil)
	r.mu.Lock()
	maps.Copy(next.views, r.views)
	r.mu.Unlock()
	next.give(func() {})
	r.t.Cleanup(next.stop)
	return next
}

// verdict is what the accelerator's self-test finds on this machine. It is run once for all tests.
var verdict = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "verdict-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	d, err := qemu.New(qemu.Options{StateDir: dir})
	if err == nil {
		_, err = d.Probe(context.Background())
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, verdictFile))
})

// verdictFile is where an agent looks for the verdict in its state directory.
const verdictFile = "accelerator.json"

// recallVerdict spares an agent the self-test.
func recallVerdict(t *testing.T, state string) {
	t.Helper()
	found, err := verdict()
	if err == nil {
		err = os.WriteFile(filepath.Join(state, verdictFile), found, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// outliving is a realRig whose agent and machines end with the test.
func outliving(t *testing.T, state, images string) *rig {
	t.Helper()
	recallVerdict(t, state)
	t.Cleanup(func() {
		o := Options{ID: hostID, StateDir: state}
		if os.Geteuid() == 0 {
			o.UIDBase, o.UIDCount = testUsers(state), testUserCount
		}
		if err := Purge(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
	r := realRig(t, state, images, nil)
	t.Cleanup(r.stop) // before the purge; it may be stopped twice
	return r
}

// TestHostBootsAnew: after a reboot there are directories and no processes. Guests are told as ended with their host, not
// as crashed, and are started again with the disks and records that they had.
func TestHostBootsAnew(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, digest, size := bootImage(t)
	r := outliving(t, t.TempDir(), images)
	i := r.want(1, digest, size)
	r.untilState(i.ID, host.VMRunning)
	r.until("acknowledged", func() bool { return r.free(1, 1, 1) })
	r.stop()
	p, _ := vm.ReadProcess(r.dir(i.ID))
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.BootID, p.PID = "00000000-0000-4000-8000-000000000000", os.Getpid() // pids begin anew: this one is somebody else's now
	if err := vm.WriteProcess(r.dir(i.ID), p); err != nil {
		t.Fatal(err)
	}
	disk, err := os.Stat(vm.DiskPath(r.dir(i.ID)))
	if err != nil {
		t.Fatal(err)
	}
	record, _ := os.ReadFile(filepath.Join(r.dir(i.ID), recordFile))

	r = r.again(images)
	if s := r.untilState(i.ID, host.VMFailed); s.Code != host.CodeHostRestarted {
		t.Errorf("after a reboot: %+v, want code %s", s, host.CodeHostRestarted)
	}
	i.Generation = 2
	r.give(func() { r.putInstance(i) })
	r.until("runs again", func() bool { s := r.actual[string(i.ID)]; return s.State == host.VMRunning && s.Generation == 2 })
	if now, err := os.Stat(vm.DiskPath(r.dir(i.ID))); err != nil || !os.SameFile(now, disk) {
		t.Errorf("another disk: %v", err)
	}
	if now, _ := os.ReadFile(filepath.Join(r.dir(i.ID), recordFile)); !bytes.Equal(now, record) {
		t.Errorf("record %s, was %s", now, record)
	}
}

// TestHang: a machine whose process does not answer stays running and becomes impaired, holds up no other guest's adoption
// by the next agent, is well again when it answers, and is ended by force when it does not.
func TestHang(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, digest, size := bootImage(t)
	r := outliving(t, t.TempDir(), images)
	i, other := r.want(1, digest, size), r.want(2, digest, size)
	started := r.untilState(i.ID, host.VMRunning)
	r.untilState(other.ID, host.VMRunning)
	pid := pidOf(t, r.dir(i.ID))
	signal := func(s unix.Signal) {
		t.Helper()
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	signal(unix.SIGSTOP)
	t.Cleanup(func() { unix.Kill(pid, unix.SIGCONT) })
	impaired := func(r *rig) func() bool {
		return func() bool {
			s := r.actual[string(i.ID)]
			return s.State == host.VMRunning && s.Reach == host.ReachImpaired && strings.Contains(s.Reason, "not answer") && s.StartedMs == started.StartedMs
		}
	}
	r.give(func() {})
	r.until("the hang is told", impaired(r))

	begun := time.Now()
	r = r.again(images)
	r.until("ready", func() bool { return r.ready })
	t.Logf("everything is adopted after %v", time.Since(begun))
	r.until("the hang is told by the next agent", impaired(r))
	if s := r.untilState(other.ID, host.VMRunning); s.Reach != host.ReachOK {
		t.Errorf("the other guest: %+v", s)
	}
	signal(unix.SIGCONT)
	r.until("well again", func() bool {
		s := r.actual[string(i.ID)]
		return s.State == host.VMRunning && s.Reach == host.ReachOK && s.Reason == ""
	})
	signal(unix.SIGSTOP)
	i.Power = host.PowerKill
	r.give(func() { r.putInstance(i) })
	if s := r.untilState(i.ID, host.VMStopped); s.Code != host.CodeUserShutdown {
		t.Errorf("ended by force: %+v", s)
	}
	if lives(pid) {
		t.Error("the machine lives")
	}
}

// TestPausedMachines: a machine that QEMU has stopped by itself is no crash and no stop: it runs, impaired, and the reason
// says what QEMU says.
func TestPausedMachines(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, _, _ := bootImage(t)
	state := t.TempDir()
	statuses := []string{"internal-error", "io-error", "paused", "running"}
	for n, status := range statuses {
		if err := standin.Lay(state, instance(n, nil).ID); err != nil {
			t.Fatal(err)
		}
		if err := standin.SetStatus(state, instance(n, nil).ID, status); err != nil {
			t.Fatal(err)
		}
	}
	r := outliving(t, state, images)
	r.give(func() {
		for n := range statuses {
			r.putInterface(n)
			r.putInstance(instance(n, nil))
		}
	})
	for n, status := range statuses {
		r.until(status+" is told", func() bool {
			s := r.actual[string(instance(n, nil).ID)]
			if status == "running" {
				return s.State == host.VMRunning && s.Reach == host.ReachOK && s.Reason == ""
			}
			return s.State == host.VMRunning && s.Reach == host.ReachImpaired && strings.Contains(s.Reason, status) && s.Code == ""
		})
	}
}

// damages are what can become of a file.
var damages = map[string]func(path string) error{
	"empty":   func(path string) error { return os.Truncate(path, 0) },
	"garbage": func(path string) error { return os.WriteFile(path, []byte("\x00\xff{]garbage"), 0o600) },
	"missing": os.Remove,
	"a directory": func(path string) error {
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Mkdir(path, 0o700)
	},
}

// TestDamagedDirectory spoils each file of a guest's directory in each way while no agent runs. Whatever it is, the next
// agent ends no machine for it, calls none failed or stopped, and takes the guest back once the file is put right.
// Terminated meanwhile, the guest is quarantined or properly gone, never forgotten.
func TestDamagedDirectory(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, _, _ := bootImage(t)
	type victim struct {
		i          host.Instance
		what, path string
		content    []byte
		pid        int
	}
	state := t.TempDir()
	var victims []victim
	for _, name := range []string{recordFile, "spec.json", "process.json", "lock", "qmp.sock", "console.log"} {
		for how := range damages {
			i := instance(100+len(victims), func(i *host.Instance) { i.Interfaces = nil })
			if err := standin.Lay(state, i.ID); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(state, guestsFolder, string(i.ID))
			v := victim{i: i, what: name + " " + how, path: filepath.Join(dir, name), pid: pidOf(t, dir)}
			v.content, _ = os.ReadFile(v.path)
			if name == "console.log" || name == "lock" {
				os.WriteFile(v.path, nil, 0o600)
			}
			victims = append(victims, v)
		}
	}
	settled := func(r *rig, what string, allowed ...host.VMState) {
		t.Helper()
		for _, v := range victims {
			r.until(v.what+" "+what, func() bool {
				s := r.actual[string(v.i.ID)]
				for _, state := range allowed {
					if s.State == state {
						return true
					}
				}
				return false
			})
			if !lives(v.pid) {
				t.Errorf("%s: the machine was ended", v.what)
			}
			for _, state := range r.history[string(v.i.ID)] {
				if state == host.VMFailed.String() || state == host.VMStopped.String() || state == host.VMPreparing.String() {
					t.Errorf("%s: reported %v", v.what, r.history[string(v.i.ID)])
				}
			}
		}
	}
	r := outliving(t, state, images)
	r.give(func() {
		for _, v := range victims {
			r.putInstance(v.i)
		}
	})
	settled(r, "runs at first", host.VMRunning)
	r.stop()
	moved := map[string]string{} // a socket cannot be written anew, but moved back
	for _, v := range victims {
		name, how, _ := strings.Cut(v.what, " ")
		if name == "qmp.sock" {
			moved[v.path] = v.path + ".kept"
			if err := os.Link(v.path, moved[v.path]); err != nil {
				t.Fatal(err)
			}
			if how != "missing" && how != "a directory" {
				os.Remove(v.path)
				os.WriteFile(v.path, nil, 0o600)
			}
		}
		if err := damages[how](v.path); err != nil {
			t.Fatal(err)
		}
	}
	r = r.again(images)
	r.until("ready", func() bool { return r.ready })
	settled(r, "after the damage", host.VMRunning, host.VMQuarantined)
	for _, v := range victims {
		os.RemoveAll(v.path)
		if kept, isSocket := moved[v.path]; isSocket {
			os.Rename(kept, v.path)
		} else if v.content != nil {
			os.WriteFile(v.path, v.content, 0o600)
		}
	}
	r.give(func() {})
	settled(r, "after the repair", host.VMRunning)
	r.give(func() {
		for _, v := range victims {
			r.put(own, host.SectionInstances, string(v.i.ID), nil)
		}
	})
	for _, v := range victims {
		r.until(v.what+" is terminated", func() bool { _, there := r.actual[string(v.i.ID)]; return !there })
		if lives(v.pid) {
			t.Errorf("%s: terminated, and the machine lives", v.what)
		}
	}
}

// TestTerminatedWhileDamaged: a guest whose records cannot be read is not ended by a document either; what it holds stays
// taken.
func TestTerminatedWhileDamaged(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, _, _ := bootImage(t)
	state := t.TempDir()
	i := instance(1, nil)
	if err := standin.Lay(state, i.ID); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(state, guestsFolder, string(i.ID))
	pid := pidOf(t, dir)
	good, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := outliving(t, state, images)
	r.give(func() { r.putInterface(1); r.putInstance(i) })
	r.untilState(i.ID, host.VMQuarantined)
	r.give(func() {
		r.put(own, host.SectionInstances, string(i.ID), nil)
		r.put(own, host.SectionInterfaces, string(interfaceID(1)), nil)
	})
	r.until("acknowledged", func() bool { return r.applied[own+"#instances"] == 2 })
	r.mu.Lock()
	if f := r.failed[host.SectionInstances][string(i.ID)]; f.Key == "" {
		t.Errorf("acknowledged as gone: %v", r.failed)
	}
	r.mu.Unlock()
	if s := r.untilState(i.ID, host.VMQuarantined); s.Reason == "" || !lives(pid) {
		t.Errorf("%+v; the machine lives: %v", s, lives(pid))
	}
	if err := os.WriteFile(filepath.Join(dir, recordFile), good, 0o600); err != nil { // a person has put it right
		t.Fatal(err)
	}
	r.give(func() {})
	r.until("gone", func() bool { return r.free(1, 2, 2) })
	if lives(pid) {
		t.Error("the machine lives")
	}
}

// TestMachineWithoutDirectory: a machine that nothing on disk tells of is found, shown and left alone, and no second one is
// started beside it.
func TestMachineWithoutDirectory(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: a host's machines are told by their users")
	}
	images, digest, size := bootImage(t)
	r := outliving(t, t.TempDir(), images)
	i := r.want(220, digest, size) // no other test's: its machines are looked for among all that run
	r.untilState(i.ID, host.VMRunning)
	r.stop()
	pid, away := pidOf(t, r.dir(i.ID)), filepath.Join(t.TempDir(), "away")
	if err := os.Rename(r.dir(i.ID), away); err != nil {
		t.Fatal(err)
	}
	r = r.again(images)
	if s := r.untilState(i.ID, host.VMQuarantined); !strings.Contains(s.Reason, fmt.Sprint(pid)) {
		t.Errorf("quarantined because of %q", s.Reason)
	}
	r.give(func() { r.put(own, host.SectionInstances, string(i.ID), nil) })
	r.until("acknowledged", func() bool { return r.applied[own+"#instances"] == 2 })
	r.mu.Lock()
	if f := r.failed[host.SectionInstances][string(i.ID)]; f.Key == "" {
		t.Error("acknowledged as gone")
	}
	r.mu.Unlock()
	if found := machinesOf(t, i.ID); len(found) != 1 || !lives(pid) {
		t.Errorf("machines %v, want %d alone", found, pid)
	}
	if err := os.Rename(away, r.dir(i.ID)); err != nil {
		t.Fatal(err)
	}
	r.give(func() {})
	r.until("gone", func() bool { return r.free(220, 2, 0) })
	if lives(pid) {
		t.Error("the machine lives")
	}
}

// TestMissingDisk: a guest whose disk is gone is not given an empty one in its place.
func TestMissingDisk(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, digest, size := bootImage(t)
	r := outliving(t, t.TempDir(), images)
	i := r.want(1, digest, size)
	r.untilState(i.ID, host.VMRunning)
	i.Power = host.PowerKill
	r.give(func() { r.putInstance(i) })
	r.untilState(i.ID, host.VMStopped)
	away := filepath.Join(t.TempDir(), "disk")
	if err := os.Rename(vm.DiskPath(r.dir(i.ID)), away); err != nil {
		t.Fatal(err)
	}
	i.Power, i.Generation = host.PowerRun, 2
	r.give(func() { r.putInstance(i) })
	if s := r.untilState(i.ID, host.VMFailed); !strings.Contains(s.Reason, "put") {
		t.Errorf("failed because of %q", s.Reason)
	}
	if _, err := os.Stat(vm.DiskPath(r.dir(i.ID))); err == nil {
		t.Error("another disk was made")
	}
	if err := os.Rename(away, vm.DiskPath(r.dir(i.ID))); err != nil {
		t.Fatal(err)
	}
	i.Generation = 3
	r.give(func() { r.putInstance(i) })
	r.until("runs with its disk", func() bool { s := r.actual[string(i.ID)]; return s.State == host.VMRunning && s.Generation == 3 })
}

// TestDowngrade: records that a newer agent has added to are read by this one, and its guests go on.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	images, digest, size := bootImage(t)
	r := outliving(t, t.TempDir(), images)
	i := r.want(1, digest, size)
	r.untilState(i.ID, host.VMRunning)
	r.until("acknowledged", func() bool { return r.free(1, 1, 1) })
	r.stop()
	pid := pidOf(t, r.dir(i.ID))
	for _, name := range []string{recordFile, "spec.json", "process.json"} {
		path := filepath.Join(r.dir(i.ID), name)
		b, err := os.ReadFile(path)
		var content map[string]any
		if err == nil {
			err = json.Unmarshal(b, &content)
		}
		content["later"] = map[string]any{"release": 9}
		if b, err = json.Marshal(content); err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir(i.ID), "later.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = r.again(images)
	if s := r.untilState(i.ID, host.VMRunning); s.Generation != 1 || !lives(pid) {
		t.Errorf("%+v", s)
	}
	r.give(func() { r.put(own, host.SectionInstances, string(i.ID), nil) })
	r.until("terminated", func() bool { return r.free(1, 2, 0) })
	if _, err := os.Stat(r.dir(i.ID)); err == nil || lives(pid) {
		t.Error("something is left")
	}
}

// TestDiskFull: on a full disk a new guest is refused for a reason that can be read, running ones and their records are
// untouched by this agent and by the next, and with room again it goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	images, digest, size := bootImage(t)
	state := t.TempDir()
	if err := unix.Mount("nimbrel-test", state, "tmpfs", 0, "size=12m"); err != nil {
		t.Skip("no file system can be mounted: ", err)
	}
	t.Cleanup(func() { unix.Unmount(state, unix.MNT_DETACH) })
	r := outliving(t, state, images)
	first := r.want(1, digest, size)
	r.untilState(first.ID, host.VMRunning)
	filler := filepath.Join(state, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, block))
		}
	}
	file.Close()
	second := r.want(2, digest, size)
	if s := r.untilState(second.ID, host.VMFailed); !strings.Contains(s.Reason, "no space") {
		t.Errorf("refused because of %q", s.Reason)
	}
	r = r.again(images)
	if s := r.untilState(first.ID, host.VMRunning); s.Generation != 1 || !lives(pidOf(t, r.dir(first.ID))) {
		t.Errorf("the running guest: %+v", s)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	second.Generation = 2 // the user starts it again
	r.give(func() { r.putInstance(second) })
	r.until("the second runs", func() bool { return r.actual[string(second.ID)].State == host.VMRunning })
	r.give(func() { r.put(own, host.SectionInstances, string(ids.Instance(first.ID)), nil) })
	r.until("the first is terminated", func() bool { return r.free(1, 4, 0) })
}
