package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/host/internal/policy"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// port is an open tap.
type port struct {
	slot   uint32
	record portRecord
	known  bool // desired is filled: false after a restart, until the first Apply
	want   Port
	orphan bool // cut off: not known, and no address reaches it
}

func (p *port) id() ids.Interface   { return ids.Interface(text(p.record.ID[:])) }
func (p *port) deviceName() string  { return text(p.record.Device[:]) }
func (p *port) pin() string         { return fmt.Sprintf("link-port-%d", p.slot) }
func (p *port) address() addressKey { return addressKey{VNI: p.record.VNI, Address: p.record.Address} }

func text(field []byte) string { return strings.TrimRight(string(field), "\x00") }

// tapName is unique on a host: 12 of an interface id's 17 digits, which are random.
func tapName(id ids.Interface) string { return "tap" + string(id)[len(id)-12:] }

// recordOf is what the kernel is to know of an interface, without what only the port's life adds: device, epoch, rule sets.
func (d *Datapath) recordOf(want Port) (portRecord, error) {
	in := &want.Interface
	if err := in.Validate(); err != nil {
		return portRecord{}, err
	}
	address, _ := in.Address()
	subnet, err := netip.ParsePrefix(in.SubnetCIDR)
	if err != nil {
		return portRecord{}, fmt.Errorf("parse subnet of %s: %w", in.ID, err)
	}
	mtu := d.mtu
	if in.MTU > 0 {
		mtu = min(in.MTU, d.mtu)
	}
	record := portRecord{
		VNI:      in.VNI,
		Address:  address.As4(),
		Subnet:   subnet.Masked().Addr().As4(),
		Identity: in.Identity,
		MTU:      uint16(mtu),
		Hops:     uint8(min(max(want.HopLimit, 1), 64)),
		MAC:      in.MAC,
	}
	if in.SourceDestCheck {
		record.Flags |= flagSourceCheck
	}
	if len(in.VPCCIDRs) > 0 {
		block, err := netip.ParsePrefix(in.VPCCIDRs[0])
		if err != nil || !block.Addr().Is4() {
			return portRecord{}, fmt.Errorf("parse VPC block of %s: %q is not IPv4", in.ID, in.VPCCIDRs[0])
		}
		base := block.Masked().Addr().As4()
		binary.BigEndian.PutUint32(record.VPCResolver[:], binary.BigEndian.Uint32(base[:])+2)
	}
	copy(record.ID[:], in.ID)
	return record, nil
}

// refresh gives the ports what the desired state says, and the rule sets of the plan.
func (d *Datapath) refresh(p *plan) (map[uint32]portRecord, error) {
	records := map[uint32]portRecord{}
	var errs []error
	for _, open := range d.ports {
		records[open.slot] = open.record
		if !open.known {
			continue
		}
		record, err := d.recordOf(open.want)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		vpc := d.state.vpcOf(record.VNI)
		var ingress, egress error
		record.Ingress, ingress = d.rules.setFor(p, vpc, open.want.Interface.Groups, policy.Ingress)
		record.Egress, egress = d.rules.setFor(p, vpc, open.want.Interface.Groups, policy.Egress)
		errs = append(errs, ingress, egress)
		record.Ifindex, record.Epoch, record.Device = open.record.Ifindex, open.record.Epoch, open.record.Device
		records[open.slot] = record
	}
	return records, errors.Join(errs...)
}

// cutOff makes orphans of open ports. Their flows end with their tables, once nothing lets new ones begin.
func (d *Datapath) cutOff(orphans []ids.Interface) error {
	var errs []error
	for _, id := range orphans {
		open := d.portOf(id)
		if open == nil || open.orphan {
			continue
		}
		open.known, open.orphan = false, true
		cut := open.record
		cut.Ingress, cut.Egress = 0, 0
		err := d.programs.Ports.Put(open.slot, cut)
		if err == nil {
			open.record = cut
			err = errors.Join(d.programs.dropTables(open.slot), d.programs.giveTables(open.slot))
		}
		if err != nil {
			open.orphan = false // the next Apply tries again
			errs = append(errs, fmt.Errorf("cut off port of %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// keepRules lists in the plan what ports refer to whose desired state is not known yet.
func (d *Datapath) keepRules(p *plan) {
	held := map[uint32]bool{}
	for _, open := range d.ports {
		if !open.known {
			held[open.record.Ingress], held[open.record.Egress] = true, true
		}
	}
	for digest, number := range d.rules.numbers.content {
		if held[number] {
			p.numbers[digest] = number
		}
	}
	for key, value := range d.rules.policy.content {
		if held[key.Set] {
			p.policy[key] = value
		}
	}
	for key, value := range d.rules.classes.content {
		if held[key.Set] {
			p.classes[key] = value
		}
	}
	for key, value := range d.rules.cidrs.content {
		if held[key.Set] {
			p.cidrs[key] = value
		}
	}
}

// setPorts writes changed records and moves addresses with them.
func (d *Datapath) setPorts(records map[uint32]portRecord) error {
	locals := map[addressKey]uint32{}
	for _, open := range d.ports {
		record := records[open.slot]
		if record != open.record || d.unwritten[open.slot] {
			if err := d.programs.Ports.Put(open.slot, record); err != nil {
				return fmt.Errorf("write port %s: %w", open.id(), err)
			}
			open.record = record
			delete(d.unwritten, open.slot)
		}
		if !open.orphan {
			locals[open.address()] = open.slot
		}
		if err := d.slots.put(record.Ifindex, open.slot); err != nil {
			return err
		}
	}
	return errors.Join(d.locals.add(locals), d.locals.trim(locals))
}

// freeSlot is the slot that was free the longest by number: the next after the last one used, going round.
func (d *Datapath) freeSlot() (uint32, error) {
	for step := uint32(1); step < maxPorts; step++ {
		slot := (d.lastSlot+step-1)%(maxPorts-1) + 1
		if d.portAt(slot) == nil {
			d.lastSlot = slot
			return slot, nil
		}
	}
	return 0, ErrNoSlot
}

func (d *Datapath) portAt(slot uint32) *port {
	index := slices.IndexFunc(d.ports, func(p *port) bool { return p.slot == slot })
	if index < 0 {
		return nil
	}
	return d.ports[index]
}

func (d *Datapath) portOf(id ids.Interface) *port {
	index := slices.IndexFunc(d.ports, func(p *port) bool { return p.id() == id })
	if index < 0 {
		return nil
	}
	return d.ports[index]
}

// release takes a port out of the kernel's tables. Its slot has the next user's epoch from here on: no program ever sees
// the old one beside the next user's device.
func (d *Datapath) release(open *port) error {
	d.epochs[open.slot] = open.record.Epoch + 1
	blank := portRecord{Epoch: d.epochs[open.slot]}
	err := errors.Join(
		d.slots.delete(open.record.Ifindex),
		d.forgetLocal(open),
		d.programs.Ports.Put(open.slot, blank),
		d.programs.dropTables(open.slot),
		d.programs.LastSeen.Put(open.slot, seenRecord{}),
		d.retire(open.slot),
		d.unpin(open.pin()),
	)
	d.ports = slices.DeleteFunc(d.ports, func(p *port) bool { return p == open })
	if err != nil {
		return fmt.Errorf("release port of %s: %w", open.id(), err)
	}
	return nil
}

// forgetLocal takes a port's address away, unless it is another port's by now.
func (d *Datapath) forgetLocal(open *port) error {
	if d.locals.content[open.address()] != open.slot {
		return nil
	}
	return d.locals.delete(open.address())
}

// adoptPorts finds the taps that an earlier agent opened. Those whose device is gone are released. One that its address does
// not lead to was cut off, or not ready yet: until the first Apply it stays so.
func (d *Datapath) adoptPorts() error {
	for slot := uint32(1); slot < maxPorts; slot++ {
		var record portRecord
		if err := d.programs.Ports.Lookup(slot, &record); err != nil {
			return fmt.Errorf("read port %d: %w", slot, err)
		}
		d.epochs[slot] = record.Epoch
		if record.Ifindex == 0 {
			continue
		}
		open := &port{slot: slot, record: record}
		open.orphan = d.locals.content[open.address()] != slot
		d.ports = append(d.ports, open)
		device, err := d.dataplane.links.LinkByIndex(int(record.Ifindex))
		if err != nil || device.Attrs().Name != open.deviceName() {
			if err := d.release(open); err != nil {
				return err
			}
			continue
		}
		if err := d.attach(device, d.programs.FromGuest, open.pin()); err != nil {
			return err
		}
	}
	return nil
}
