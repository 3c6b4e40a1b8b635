package guest

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Table is a Directory filled from a host's desired state. The zero value is not usable; make one with NewTable. Readers
// never wait for Set.
type Table struct {
	source  func(netip.Addr) (host.Interface, bool)
	mtu     int
	current atomic.Pointer[index]
}

var _ Directory = (*Table)(nil)

// index is one state, never changed once it is current.
type index struct {
	instances  map[ids.Instance]host.Instance
	interfaces map[ids.Instance][]host.Interface
	addresses  map[ids.VPC]map[netip.Addr]host.Mapping
	names      map[ids.VPC]map[ids.Instance]netip.Addr
}

// NewTable returns an empty table. source turns a request's source address into the interface that it stands for, and
// mtu is that of the host's guests in bytes.
func NewTable(source func(netip.Addr) (host.Interface, bool), mtu int) *Table {
	t := &Table{source: source, mtu: mtu}
	t.current.Store(&index{})
	return t
}

// Set replaces what the table knows.
func (t *Table) Set(instances []host.Instance, interfaces []host.Interface, mappings map[ids.VPC][]host.Mapping) {
	x := &index{
		instances:  make(map[ids.Instance]host.Instance, len(instances)),
		interfaces: make(map[ids.Instance][]host.Interface, len(instances)),
		addresses:  make(map[ids.VPC]map[netip.Addr]host.Mapping, len(mappings)),
		names:      make(map[ids.VPC]map[ids.Instance]netip.Addr, len(mappings)),
	}
	for _, i := range instances {
		x.instances[i.ID] = i
	}
	for _, n := range interfaces {
		x.interfaces[n.Instance] = append(x.interfaces[n.Instance], n)
	}
	for _, list := range x.interfaces {
		slices.SortFunc(list, func(a, b host.Interface) int { return a.DeviceIndex - b.DeviceIndex })
	}
	for vpc, list := range mappings {
		x.addMappings(vpc, list)
	}
	t.current.Store(x)
}

func (x *index) addMappings(vpc ids.VPC, list []host.Mapping) {
	addresses, names := make(map[netip.Addr]host.Mapping, len(list)), make(map[ids.Instance]netip.Addr, len(list))
	for _, m := range list {
		address, err := m.Address()
		if err != nil {
			continue // the data path refuses it too, and says so
		}
		addresses[address] = m
		names[m.Instance] = address
	}
	x.addresses[vpc], x.names[vpc] = addresses, names
}

// Guest implements Directory.
func (t *Table) Guest(source netip.Addr) (Guest, bool) {
	n, ok := t.source(source)
	if !ok {
		return Guest{}, false
	}
	x := t.current.Load()
	i, ok := x.instances[n.Instance]
	if !ok {
		return Guest{}, false
	}
	mtu := n.MTU
	if mtu == 0 {
		mtu = t.mtu
	}
	return Guest{Interface: n, Instance: i, Interfaces: x.interfaces[n.Instance], MTU: mtu}, true
}

// Mapped implements Directory.
func (t *Table) Mapped(vpc ids.VPC, address netip.Addr) (host.Mapping, bool) {
	m, ok := t.current.Load().addresses[vpc][address]
	return m, ok
}

// Address implements Directory.
func (t *Table) Address(vpc ids.VPC, instance ids.Instance) (netip.Addr, bool) {
	a, ok := t.current.Load().names[vpc][instance]
	return a, ok
}
