package convert

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Arena lends the memory of which converted instances are made: dozens of small values each, a thousand instances a page.
// Reset takes back all that was lent. The zero value is ready; it serves one caller at a time.
type Arena struct {
	texts   slab[string]
	numbers slab[int32]
	times   slab[time.Time]

	reservations slab[ec2gen.Reservation]
	instances    slab[ec2gen.Instance]
	placements   slab[ec2gen.Placement]
	reasons      slab[ec2gen.StateReason]
	processors   slab[ec2gen.CpuOptions]
	metadata     slab[ec2gen.InstanceMetadataOptionsResponse]
	groups       slab[ec2gen.GroupIdentifier]
	tagged       slab[ec2gen.Tag]
	interfaces   slab[ec2gen.InstanceNetworkInterface]
	attachments  slab[ec2gen.InstanceNetworkInterfaceAttachment]
	addresses    slab[ec2gen.InstancePrivateIpAddress]
	devices      slab[ec2gen.InstanceBlockDeviceMapping]
	disks        slab[ec2gen.EbsInstanceBlockDevice]

	keys []string // of the tags that are being sorted
}

// Reset takes back everything that the arena has lent: it will be overwritten.
func (a *Arena) Reset() {
	a.texts.reset()
	a.numbers.reset()
	a.times.reset()
	a.reservations.reset()
	a.instances.reset()
	a.placements.reset()
	a.reasons.reset()
	a.processors.reset()
	a.metadata.reset()
	a.groups.reset()
	a.tagged.reset()
	a.interfaces.reset()
	a.attachments.reset()
	a.addresses.reset()
	a.devices.reset()
	a.disks.reset()
}

// slab is memory for values of one type. What is full is left to those who hold pointers into it, and twice as much begun.
type slab[T any] struct{ used []T }

func (s *slab[T]) reset() { s.used = s.used[:0] }

func (s *slab[T]) put(v T) *T {
	s.grow(1)
	s.used = append(s.used, v)
	return &s.used[len(s.used)-1]
}

// list lends n values that lie together. What is in them is left from earlier.
func (s *slab[T]) list(n int) []T {
	s.grow(n)
	at := len(s.used)
	s.used = s.used[:at+n]
	return s.used[at : at+n : at+n]
}

func (s *slab[T]) grow(n int) {
	if cap(s.used)-len(s.used) < n {
		s.used = make([]T, 0, max(n, 2*cap(s.used), 8))
	}
}

// lend makes an optional text of any text-like value; always present, also when empty.
func lend[T ~string](a *Arena, v T) *string {
	if v == "" {
		return nothing
	}
	return a.texts.put(string(v))
}

// lendPresent is lend, but absent when empty.
func lendPresent[T ~string](a *Arena, v T) *string {
	if v == "" {
		return nil
	}
	return a.texts.put(string(v))
}

func (a *Arena) number(v int) *int32 { return a.numbers.put(int32(v)) }

// instant is absent for the zero time.
func (a *Arena) instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return a.times.put(t.UTC())
}

// address is absent when there is none.
func (a *Arena) address(v netip.Addr) *string {
	if !v.IsValid() {
		return nil
	}
	return a.texts.put(v.String())
}

// tags lists tags by key.
func (a *Arena) tags(tags map[string]string) []ec2gen.Tag {
	a.keys = a.keys[:0]
	for key := range tags {
		a.keys = append(a.keys, key)
	}
	slices.Sort(a.keys)
	list := a.tagged.list(len(tags))
	for i, key := range a.keys {
		list[i] = ec2gen.Tag{Key: lend(a, key), Value: lend(a, tags[key])}
	}
	return list
}

func (a *Arena) identifiers(n GroupNames, groups []ids.SecurityGroup) []ec2gen.GroupIdentifier {
	list := a.groups.list(len(groups))
	for i, id := range groups {
		list[i] = ec2gen.GroupIdentifier{GroupId: lend(a, id), GroupName: lend(a, n.of(id))}
	}
	return list
}
