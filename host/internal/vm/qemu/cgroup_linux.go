package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupParent = "nimbrel"
	periodUs     = 100_000
)

// setting is one value written to one control file.
type setting struct{ file, value string }

// cgroups is the version of control groups in use, and where a guest's are.
type cgroups struct {
	unified bool
	mounts  []string // one per controller in version 1; the one tree in version 2
}

// findCgroups looks at what is mounted. A machine with neither memory nor cpu control is an error; the caller goes on
// without limits and says so.
func findCgroups() (*cgroups, error) {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		c := &cgroups{unified: true, mounts: []string{cgroupMount}}
		return c, c.enable()
	}
	c := &cgroups{mounts: []string{filepath.Join(cgroupMount, "memory"), filepath.Join(cgroupMount, "cpu")}}
	for _, mount := range c.mounts {
		if err := os.MkdirAll(filepath.Join(mount, cgroupParent), 0o755); err != nil {
			return nil, fmt.Errorf("find control groups: %w", err)
		}
		if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err != nil {
			return nil, fmt.Errorf("find control groups: %w", err)
		}
	}
	return c, nil
}

// enable hands the controllers down to our subtree.
func (c *cgroups) enable() error {
	mount := c.mounts[0]
	parent := filepath.Join(mount, cgroupParent)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("find control groups: %w", err)
	}
	for _, dir := range []string{mount, parent} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +cpu"), 0o600); err != nil {
			return fmt.Errorf("enable control groups: %w", err)
		}
	}
	return nil
}

// limits are a guest's settings: its memory with QEMU's overhead and slack for buffers, its processors with half of one
// for device emulation, and a share of a busy machine in proportion to its processors.
func (c *cgroups) limits(vcpus, memoryMiB int) []setting {
	bytes := fmt.Sprint((memoryMiB + host.GuestOverheadMiB + memoryMiB/20 + 96) << 20)
	quota := vcpus*periodUs + periodUs/2
	if c.unified {
		return []setting{{"memory.max", bytes}, {"cpu.max", fmt.Sprint(quota, " ", periodUs)}, {"cpu.weight", fmt.Sprint(min(100*vcpus, 10_000))}}
	}
	return []setting{{"memory.limit_in_bytes", bytes}, {"cpu.cfs_period_us", fmt.Sprint(periodUs)}, {"cpu.cfs_quota_us", fmt.Sprint(quota)}, {"cpu.shares", fmt.Sprint(1024 * vcpus)}}
}

// confine puts a machine's process into a group of its own. c may be nil.
func (c *cgroups) confine(spec vm.Spec, pid int) error {
	if c == nil {
		return nil
	}
	var errs []error
	for _, mount := range c.mounts {
		dir := filepath.Join(mount, cgroupParent, string(spec.ID))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("limit guest %s: %w", spec.ID, err)
		}
		if c.unified { // the parent went with its last guest, and its controllers with it; now that it has a child it stays
			if err := c.enable(); err != nil {
				return fmt.Errorf("limit guest %s: %w", spec.ID, err)
			}
		}
		for _, s := range c.limits(spec.VCPUs, spec.MemoryMiB) {
			err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o600)
			if err != nil && (c.unified || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)) {
				errs = append(errs, err) // in version 1 a file is absent in the other controller's tree, and cannot be made
			}
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0o600))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("limit guest %s: %w", spec.ID, err)
	}
	return nil
}

// Newer kernels let go of a dead process's group only after its last switch off a processor, shortly after its end shows.
const (
	removeAttempts = 20
	removePause    = 10 * time.Millisecond
)

// remove takes a guest's groups away, and the parent with the last. The process has ended.
func (c *cgroups) remove(id ids.Instance) {
	if c == nil {
		return
	}
	for _, mount := range c.mounts {
		dir := filepath.Join(mount, cgroupParent, string(id))
		for range removeAttempts {
			if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(removePause)
		}
		os.Remove(filepath.Join(mount, cgroupParent)) // fails while another guest's is there
	}
}
