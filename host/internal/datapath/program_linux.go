package datapath

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// object is compiled from bpf/ by "go generate" and committed: nobody needs a compiler. TestObjectIsFresh compares.
//
//go:embed bpf/datapath.o
var object []byte

// programs and maps of the object, by their names in it.
type programs struct {
	FromGuest   *ebpf.Program `ebpf:"from_guest"`
	FromNet     *ebpf.Program `ebpf:"from_net"`
	FromService *ebpf.Program `ebpf:"from_service"`
	DropAll     *ebpf.Program `ebpf:"drop_all"`

	Config      *ebpf.Map `ebpf:"config"`
	Slots       *ebpf.Map `ebpf:"slots"`
	Ports       *ebpf.Map `ebpf:"ports"`
	Locals      *ebpf.Map `ebpf:"locals"`
	Directory   *ebpf.Map `ebpf:"directory"`
	Pages       *ebpf.Map `ebpf:"pages"`
	Hosts       *ebpf.Map `ebpf:"hosts"`
	Underlays   *ebpf.Map `ebpf:"underlays"`
	Policy      *ebpf.Map `ebpf:"policy"`
	PortClasses *ebpf.Map `ebpf:"port_classes"`
	CIDRs       *ebpf.Map `ebpf:"cidrs"`
	RuleSets    *ebpf.Map `ebpf:"rule_sets"`
	Flows       *ebpf.Map `ebpf:"port_flows"` // of each port a table
	HalfOpen    *ebpf.Map `ebpf:"port_half_open"`
	Fragments   *ebpf.Map `ebpf:"port_fragments"`
	Counters    *ebpf.Map `ebpf:"counters"`
	LastSeen    *ebpf.Map `ebpf:"last_seen"`

	tables map[string]*ebpf.MapSpec // what a port's table is, by the name of the map that holds it
}

// load loads the programs onto the maps pinned in dir, and pins those that are missing there.
func load(dir string) (*programs, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise locked memory limit: %w", err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read data path object: %w", err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinByName
	}
	loaded := &programs{tables: map[string]*ebpf.MapSpec{}}
	for name, m := range spec.Maps {
		if m.InnerMap != nil {
			loaded.tables[name] = m.InnerMap
		}
	}
	err = spec.LoadAndAssign(loaded, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return nil, fmt.Errorf("load data path: maps pinned in %s are of another build; end the guests and remove the directory: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load data path into the kernel (Linux 6.1 or later is needed): %w", err)
	}
	return loaded, nil
}

func (p *programs) close() {
	for _, program := range []*ebpf.Program{p.FromGuest, p.FromNet, p.FromService, p.DropAll} {
		program.Close()
	}
	for _, m := range []*ebpf.Map{
		p.Config, p.Slots, p.Ports, p.Locals, p.Directory, p.Pages, p.Hosts, p.Underlays, p.Policy, p.PortClasses, p.CIDRs,
		p.RuleSets, p.Flows, p.HalfOpen, p.Fragments, p.Counters, p.LastSeen,
	} {
		m.Close()
	}
}

// ensurePinDir makes dir a place for pins and returns the directory of this layout in it.
func ensurePinDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make pin directory: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("look at pin directory %s: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return "", fmt.Errorf("mount BPF file system on %s: %w", dir, err)
		}
	}
	pins := filepath.Join(dir, layoutVersion)
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return "", fmt.Errorf("make pin directory: %w", err)
	}
	return pins, nil
}

// removePinDir removes the pins, and the file system when it is mounted on dir itself.
func removePinDir(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, layoutVersion)); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	var here, above unix.Stat_t
	if unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return nil
}
