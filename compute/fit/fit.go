// Package fit answers "does it fit" once: a guard value over a host's counters of what is left.
//
// The chooser evaluates the guard on its own view of the counters, the transactor evaluates the same value on the truth.
// Both therefore agree on what fitting means, and a stale view costs a worse choice, never a wrong one.
//
// A counter holds what is left, with bound 0. Capacity that grows or shrinks is an Add of the difference; a drain is an
// Add of -DrainWeight to the slots, so that launches in flight meet it at their commit. Pure.
package fit

import (
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store/guard"
	"github.com/nimbrel/nimbrel/store/tuple"
)

const (
	// SlotsPerHost bounds the instances of one host.
	SlotsPerHost = 1000
	// DrainWeight is taken from a draining host's slots; more than any host has.
	DrainWeight = 1 << 32
	// unbounded is above every counter; capacity may be added up to it.
	unbounded = 1 << 40
)

// Resource is one dimension of capacity. The values are stored: append only.
type Resource string

const (
	VCPU   Resource = "vcpu"
	Memory Resource = "memory" // MiB
	Disk   Resource = "disk"   // GiB
	Slots  Resource = "slots"  // instances
)

// Resources lists every dimension in the order in which a guard checks them.
var Resources = [...]Resource{VCPU, Memory, Disk, Slots}

// Size is an amount of every resource.
type Size struct {
	VCPUs     int64 `cbor:"1,keyasint,omitempty"`
	MemoryMiB int64 `cbor:"2,keyasint,omitempty"`
	DiskGiB   int64 `cbor:"3,keyasint,omitempty"`
	Slots     int64 `cbor:"4,keyasint,omitempty"`
}

// Of is what an instance takes of its host: what the guest gets, and the overhead of its machine.
func Of(t compute.InstanceType, rootDiskGiB int) Size {
	return Size{int64(t.VCPUs), int64(t.MemoryMiB) + compute.GuestOverheadMiB, int64(rootDiskGiB), 1}
}

// In is the amount of one resource.
func (s Size) In(r Resource) int64 {
	switch r {
	case VCPU:
		return s.VCPUs
	case Memory:
		return s.MemoryMiB
	case Disk:
		return s.DiskGiB
	}
	return s.Slots
}

// With is s with n as the amount of one resource.
func (s Size) With(r Resource, n int64) Size {
	switch r {
	case VCPU:
		s.VCPUs = n
	case Memory:
		s.MemoryMiB = n
	case Disk:
		s.DiskGiB = n
	case Slots:
		s.Slots = n
	}
	return s
}

// Sub is s less o, in every resource.
func (s Size) Sub(o Size) Size {
	return Size{s.VCPUs - o.VCPUs, s.MemoryMiB - o.MemoryMiB, s.DiskGiB - o.DiskGiB, s.Slots - o.Slots}
}

// Add is the sum, in every resource.
func (s Size) Add(o Size) Size {
	return Size{s.VCPUs + o.VCPUs, s.MemoryMiB + o.MemoryMiB, s.DiskGiB + o.DiskGiB, s.Slots + o.Slots}
}

// Split separates a difference into what is more and what is less, both not negative.
func (s Size) Split() (more, less Size) {
	for _, r := range Resources {
		n := s.In(r)
		more, less = more.With(r, max(n, 0)), less.With(r, max(-n, 0))
	}
	return more, less
}

// LeftKey is the row that counts what is left of a host's resource.
func LeftKey(h ids.Host, r Resource) []byte { return AppendLeftKey(nil, h, r) }

// AppendLeftKey appends LeftKey.
func AppendLeftKey(dst []byte, h ids.Host, r Resource) []byte {
	dst = tuple.AppendText(tuple.AppendText(dst, "compute"), "left")
	return tuple.AppendText(tuple.AppendText(dst, string(h)), string(r))
}

// Take is the guard that holds when need fits on the host, and then takes it.
func Take(h ids.Host, need Size) guard.Guard { return change(h, Size{}.Sub(need), 0) }

// Return gives back what a placement held. It holds always.
func Return(h ids.Host, held Size) guard.Guard { return change(h, held, -unbounded) }

// Resize changes what a host has by the difference. Below what is used a counter turns negative, and nothing fits until
// it is positive again.
func Resize(h ids.Host, difference Size) guard.Guard { return change(h, difference, -unbounded) }

func change(h ids.Host, by Size, min int64) guard.Guard {
	var parts []guard.Guard
	for _, r := range Resources {
		if n := by.In(r); n != 0 {
			parts = append(parts, guard.Add{Key: LeftKey(h, r), Delta: n, Min: min, Max: unbounded})
		}
	}
	return guard.All(parts...)
}
