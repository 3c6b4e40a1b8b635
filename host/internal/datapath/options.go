package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Errors that callers tell apart.
var (
	ErrUnsupported = errors.New("the data path needs Linux")
	ErrNoPort      = errors.New("no port for that interface")
	ErrTapOpen     = errors.New("the interface's tap is open")
	ErrNoSlot      = errors.New("all ports of the host are in use")
)

// AttachMode is how programs are put on devices.
type AttachMode uint8

const (
	AttachAuto   AttachMode = iota // TCX where the kernel has it (6.6), else clsact
	AttachTCX                      // refused on older kernels
	AttachClsact                   // for tests of what older kernels do
)

// Options say where a host's data path lives. All paths are absolute.
type Options struct {
	// Underlay is the path of the network namespace that has UnderlayDevice; "" is the agent's own.
	Underlay        string
	UnderlayDevice  string
	UnderlayAddress netip.Addr // IPv4, of UnderlayDevice; what other hosts have in their mappings
	// Dataplane and Service are paths of namespaces of our own, below /run/netns by custom. They are made when absent.
	Dataplane string
	Service   string
	// PinDir is where maps and links are pinned, a directory of this host's alone. A BPF file system is mounted on it
	// unless it lies on one.
	PinDir    string
	MTU       int // of guests; 0 is the underlay device's less host.EncapsulationCost, and it may not be more
	VXLANPort int // 0 is 4789
	Attach    AttachMode
}

// Validate checks what can be checked without the system.
func (o Options) Validate() error {
	for name, path := range map[string]string{"Dataplane": o.Dataplane, "Service": o.Service, "PinDir": o.PinDir} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("validate data path options: %s %q is no absolute path", name, path)
		}
	}
	if o.UnderlayDevice == "" || strings.ContainsAny(o.UnderlayDevice, "/ ") {
		return fmt.Errorf("validate data path options: underlay device %q", o.UnderlayDevice)
	}
	if !o.UnderlayAddress.Is4() {
		return fmt.Errorf("validate data path options: underlay address %s is not IPv4", o.UnderlayAddress)
	}
	if o.Dataplane == o.Service || o.Dataplane == o.Underlay || o.Service == o.Underlay {
		return errors.New("validate data path options: the three namespaces must differ")
	}
	return nil
}

// State is everything the data path is to do, as the host's desired documents have it.
type State struct {
	Ports   []Port
	Orphans []ids.Interface // whose open ports are cut off: nothing passes, and their addresses are others'
	VPCs    []VPCState
	Hosts   []host.FleetHost
}

// Port is an interface of a guest on this host.
type Port struct {
	Interface host.Interface
	HopLimit  int // of metadata answers, 1 to 64; 0 is 1
}

// VPCState is what the host must know of a VPC to send and receive in it.
type VPCState struct {
	VNI        uint32
	Mappings   []host.Mapping
	Identities []host.Identity
	Groups     []host.Group
}

// groupsOf picks the groups that a set names. A group that is not known yet allows nothing, and is reported.
func (v *VPCState) groupsOf(set []ids.SecurityGroup) ([]host.Group, error) {
	var out []host.Group
	var errs []error
	for _, id := range set {
		found := false
		for _, group := range v.Groups {
			if group.ID == id {
				out, found = append(out, group), true
			}
		}
		if !found {
			errs = append(errs, fmt.Errorf("look up group %s in VPC %d: not known on this host yet", id, v.VNI))
		}
	}
	return out, errors.Join(errs...)
}
