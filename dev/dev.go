// Package dev brings up a whole cloud on one machine: the server and each host's agent as separate processes, and on
// Linux as root a network of namespaces between them.
//
// Up does what is missing and nothing else, so it also resumes after a failure, an interrupted run or a reboot. Down ends
// every process and removes every namespace, link, mount and file that Up and its processes made. Both hold the state
// directory's lock.
//
// Deliberately absent: restarting what dies while the cloud is up (run Up again), and any knowledge of the cloud's
// insides: dev starts commands and asks the operators' API.
package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/nimbrel/nimbrel/dev/internal/daemon"
	"github.com/nimbrel/nimbrel/dev/internal/fabric"
	"github.com/nimbrel/nimbrel/internal/statedir"
)

// Plan is what a one-machine cloud consists of. It is fixed by the first Up and kept in the state directory.
type Plan struct {
	Hosts    int          `json:"hosts"`
	Extra    int          `json:"fakeHosts,omitempty"` // hosts that pretend, beside real ones
	Fake     bool         `json:"fake"`                // hosts pretend; nothing needs root
	Zones    int          `json:"zones"`               // that fake hosts are spread over; each real host is a zone of its own
	Region   string       `json:"region"`
	Listen   string       `json:"listen"`  // EC2 API
	Metrics  string       `json:"metrics"` // metrics, health and profiles
	Link     string       `json:"link"`    // host link, when fake; real hosts dial the fabric's address
	Underlay netip.Prefix `json:"underlay"`
	Prefix   string       `json:"prefix"` // of namespace and link names
	VCPUs    int          `json:"vcpus"`  // per host
	MemoryMi int          `json:"memoryMib"`
	LinkPort int          `json:"linkPort"`
}

// Defaults of a Plan, and what each side of it needs.
const (
	defaultHosts  = 2
	defaultZones  = 3
	defaultRegion = "us-nimbrel-1"
	// DefaultPort is the EC2 API's; the host link and metrics have the two after it.
	DefaultPort = 8773
	// DefaultPrefix begins the names of namespaces and links, and DefaultUnderlay is the hosts' network: addresses that
	// RFC 2544 sets aside for such uses.
	DefaultPrefix   = "nb"
	DefaultUnderlay = "198.18.77.0/24"
	// reservedMemoryMi is left to the machine itself.
	reservedMemoryMi = 2048
	// emulatedVCPUs is how many vCPUs one processor carries.
	emulatedVCPUs = 4
	maxFakeHosts  = 256
	// fakeVCPUs and fakeMemoryMi are what a fake host offers.
	fakeVCPUs    = 64
	fakeMemoryMi = 256 << 10
	maxZones     = 16 // the server's
)

// Cloud is a one-machine cloud in a state directory.
type Cloud struct {
	Dir    string
	Binary string // the nimbrel executable
	// Progress receives one line for each step; nil is silence.
	Progress func(format string, args ...any)
}

// CanBeReal says whether this machine and user can run real hosts, and if not, why.
func CanBeReal() (bool, string) {
	switch {
	case runtime.GOOS != "linux":
		return false, "this is not Linux"
	case os.Geteuid() != 0:
		return false, "not root (use sudo for real virtual machines)"
	}
	return true, ""
}

// Places says where a cloud is on the machine. Two clouds whose places and state directories differ do not meet.
type Places struct {
	Port     int // EC2 API; the host link and metrics have the next two
	Prefix   string
	Underlay netip.Prefix
}

// DefaultPlan is a plan for this machine.
func DefaultPlan(fake bool, hosts int, at Places) Plan {
	local := func(offset int) string { return fmt.Sprintf("127.0.0.1:%d", at.Port+offset) }
	p := Plan{
		Hosts: hosts, Fake: fake, Zones: defaultZones, Region: defaultRegion,
		Listen: local(0), Link: local(1), Metrics: local(2), LinkPort: at.Port + 1,
		Underlay: at.Underlay, Prefix: at.Prefix,
		VCPUs: fakeVCPUs, MemoryMi: fakeMemoryMi,
	}
	if !fake {
		share := max(1, hosts) // Validate refuses fewer
		p.VCPUs = max(1, runtime.NumCPU()*emulatedVCPUs/share)
		p.MemoryMi = max(256, (availableMemoryMi()-reservedMemoryMi)/share)
	}
	return p
}

// Validate reports the first thing wrong with a plan.
func (p Plan) Validate() error {
	if p.Fake {
		if p.Extra != 0 {
			return errors.New("fake hosts beside fake hosts: say how many with --hosts alone")
		}
		if p.Hosts < 1 || p.Hosts > maxFakeHosts || p.Zones < 1 || p.Zones > maxZones {
			return fmt.Errorf("%d fake hosts in %d zones: want 1 to %d hosts and 1 to %d zones", p.Hosts, p.Zones, maxFakeHosts, maxZones)
		}
		return nil
	}
	if p.Extra < 0 || p.Extra > maxFakeHosts || (p.Extra > 0 && (p.Zones < 1 || p.zoneCount() > maxZones)) {
		return fmt.Errorf("%d fake hosts in %d zones beside %d real hosts: want up to %d hosts, and up to %d zones in all, since each real host is one", p.Extra, p.Zones, p.Hosts, maxFakeHosts, maxZones)
	}
	if p.Hosts < 1 || p.Hosts > maxZones {
		return fmt.Errorf("%d hosts: want 1 to %d, since each is a zone of its own", p.Hosts, maxZones)
	}
	return p.fabric().Validate()
}

func (p Plan) fabric() fabric.Plan {
	return fabric.Plan{Prefix: p.Prefix, Underlay: p.Underlay, Hosts: p.Hosts}
}

// zone is the zone of host index, counted from 1: us-nimbrel-1a and so on.
func (p Plan) zone(index int) string {
	letter := index - 1
	switch {
	case p.Fake:
		letter %= p.Zones
	case index > p.Hosts: // their zones come after those of the real hosts
		letter = p.Hosts + (index-p.Hosts-1)%p.Zones
	}
	return p.Region + string(rune('a'+letter))
}

// zoneCount is how many zones the cloud has.
func (p Plan) zoneCount() int {
	if p.Fake {
		return p.Zones
	}
	return p.Hosts + min(p.Zones, p.Extra)
}

// hosts is how many there are of both kinds; the real ones come first.
func (p Plan) hosts() int { return p.Hosts + p.Extra }

// pretends says whether host index, counted from 1, is a fake one.
func (p Plan) pretends(index int) bool { return p.Fake || index > p.Hosts }

// offer is what host index has for guests.
func (p Plan) offer(index int) (vcpus, memoryMi int) {
	if p.pretends(index) {
		return fakeVCPUs, fakeMemoryMi
	}
	return p.VCPUs, p.MemoryMi
}

// uidBase is the first of the users that guests of host index run as: ranges of a cloud's hosts and of two clouds do not
// overlap, and lie above what login.defs(5) and user namespaces give out.
func (p Plan) uidBase(index int) int {
	const first, perCloud, perHost = 1 << 28, 1 << 15, 1000
	return first + p.LinkPort*perCloud + index*perHost
}

// linkAddress is where agents reach the server.
func (p Plan) linkAddress() string {
	if p.Fake {
		return p.Link
	}
	return netip.AddrPortFrom(p.fabric().MachineAddress(), uint16(p.LinkPort)).String()
}

func (c *Cloud) daemons() daemon.Dir {
	return daemon.Dir{Run: filepath.Join(c.Dir, "daemons"), Log: c.LogDir()}
}

// LogDir is where the cloud's processes log.
func (c *Cloud) LogDir() string { return filepath.Join(c.Dir, "log") }

func (c *Cloud) hostDir(index int) string {
	return filepath.Join(c.Dir, "hosts", hostName(index))
}

func hostName(index int) string { return fmt.Sprintf("host-%d", index) }

func (c *Cloud) socket() string { return statedir.OperatorSocket(c.Dir) }

func (c *Cloud) planPath() string { return filepath.Join(c.Dir, "dev.json") }

// loadPlan returns the plan of a cloud that was brought up; os.ErrNotExist when there is none.
func (c *Cloud) loadPlan() (Plan, error) {
	raw, err := os.ReadFile(c.planPath())
	if errors.Is(err, os.ErrPermission) {
		return Plan{}, fmt.Errorf("the cloud in %s was brought up by another user, with sudo perhaps: use sudo too (%w)", c.Dir, err)
	}
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return Plan{}, fmt.Errorf("read %s: %w", c.planPath(), err)
	}
	return p, p.Validate()
}

// ensurePlan keeps the first plan. Another one later is refused: parts of the cloud would follow each.
// places says that the caller named where the cloud is to be.
func (c *Cloud) ensurePlan(want Plan, places bool) (Plan, error) {
	have, err := c.loadPlan()
	if err == nil {
		if places && (have.Listen != want.Listen || have.Prefix != want.Prefix || have.Underlay != want.Underlay) {
			return Plan{}, fmt.Errorf("the cloud in %s listens at %s, with names %s… and hosts in %s, not at %s, %s…, %s: run `nimbrel dev down` first", c.Dir, have.Listen, have.Prefix, have.Underlay, want.Listen, want.Prefix, want.Underlay)
		}
		if have.Extra != want.Extra {
			return Plan{}, fmt.Errorf("the cloud in %s has %d fake hosts beside its real ones, not %d: run `nimbrel dev down` first", c.Dir, have.Extra, want.Extra)
		}
		if have.Fake != want.Fake || have.Hosts != want.Hosts {
			return Plan{}, fmt.Errorf("the cloud in %s has %d hosts (fake: %v), not %d (fake: %v): run `nimbrel dev down` first", c.Dir, have.Hosts, have.Fake, want.Hosts, want.Fake)
		}
		return have, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return Plan{}, err
	}
	if err := want.Validate(); err != nil {
		return Plan{}, err
	}
	raw, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		return Plan{}, err
	}
	return want, os.WriteFile(c.planPath(), append(raw, '\n'), 0o600)
}

func (c *Cloud) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(format, args...)
	}
}
