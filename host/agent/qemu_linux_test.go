package agent

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qemu"
)

// TestRealMachine takes a disk image through the whole agent: fetched, verified, overlaid, booted by its firmware, seen on
// its console, kept through an agent's restart, terminated. The image is one boot sector that prints a line and halts.
func TestRealMachine(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	source, digest, size := bootImage(t)
	r := &rig{desk: newDesk(t), state: t.TempDir()}
	boot := func() {
		o := Options{ID: hostID, StateDir: r.state, ImageSource: source}
		if os.Geteuid() == 0 {
			o.UIDBase, o.UIDCount = 64200, 4
		}
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		var err error
		if r.agent, err = newAgent(o.withDefaults()); err != nil {
			t.Fatal(err)
		}
		r.agent.link = r.desk
		r.stop = r.agent.start(t.Context())
	}
	boot()
	t.Cleanup(func() { r.stop() })
	i := instance(1, func(i *host.Instance) {
		i.DeleteRootOnTermination, i.RootVolume = false, "vol-00000000000000001"
		i.ImageSHA256, i.ImageBytes, i.Interfaces = digest, uint64(size), nil
	})
	r.give(func() { r.putInstance(i) })
	started := r.untilState(i.ID, host.VMRunning)
	if line := r.follow(t, i); !strings.Contains(line, "nimbrel-selftest: ok") {
		t.Errorf("console says %q", line)
	}

	r.agent.trimImages(time.Now().Add(48 * time.Hour))
	if _, err := os.Stat(filepath.Join(r.state, "images", i.ImageSHA256)); err != nil {
		t.Errorf("the image of a running guest: %v", err)
	}
	r.stop()
	r.change(func() { r.ready = false; clear(r.actual) })
	boot()
	r.until("ready", func() bool { return r.ready })
	if s := r.untilState(i.ID, host.VMRunning); s.StartedMs != started.StartedMs {
		t.Errorf("started at %d, was %d: the machine was disturbed", s.StartedMs, started.StartedMs)
	}
	r.give(func() { r.put(own, host.SectionInstances, string(i.ID), nil) })
	r.until("terminated", func() bool { return r.free(1, 2, 0) })
	if _, err := os.Stat(r.dir(i.ID)); err == nil {
		t.Error("directory is left")
	}

	kept := filepath.Join(r.state, "images", i.ImageSHA256)
	later := time.Now().Add(48 * time.Hour)
	r.agent.trimImages(later)
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the image under a kept disk: %v", err)
	}
	if err := os.Remove(filepath.Join(r.state, volumesFolder, "vol-00000000000000001.base")); err != nil {
		t.Fatal(err)
	}
	r.agent.trimImages(later)
	if _, err := os.Stat(kept); err == nil {
		t.Error("an unused image is left")
	}
}

// follow reads the console stream to the end of its first line with text.
func (r *rig) follow(t *testing.T, i host.Instance) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		r.agent.serveConsole(t.Context(), theirs, host.Encode(host.ConsoleRequest{Instance: i.ID, Follow: true}))
		theirs.Close()
	}()
	ours.SetReadDeadline(time.Now().Add(time.Minute))
	var got strings.Builder
	for b := make([]byte, 256); !strings.Contains(got.String(), "ok\n"); {
		n, err := ours.Read(b)
		got.Write(b[:n])
		if err != nil {
			t.Fatalf("console: %v after %q", err, got.String())
		}
	}
	return got.String()
}

// TestPurge ends the guests of a host whose agent is gone.
func TestPurge(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	o := Options{ID: hostID, StateDir: t.TempDir()}
	if err := Purge(t.Context(), Options{StateDir: filepath.Join(o.StateDir, "absent")}); err != nil {
		t.Errorf("purge of nothing: %v", err)
	}
	d, err := qemu.New(qemu.Options{StateDir: o.StateDir})
	if err != nil {
		t.Fatal(err)
	}
	spec := instance(1, nil)
	dir := filepath.Join(o.StateDir, guestsFolder, string(spec.ID))
	image := filepath.Join(o.StateDir, "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	machine, err := d.Start(t.Context(), vm.Spec{
		Dir: dir, ID: spec.ID, Generation: 1, VCPUs: 1, MemoryMiB: 32,
		Disk: vm.Disk{Base: image, BaseFormat: "raw", SizeBytes: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	machine.Release()
	if err := Purge(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	again, err := d.Adopt(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	select {
	case <-again.Done():
	case <-time.After(10 * time.Second):
		t.Error("the guest goes on")
	}
}
