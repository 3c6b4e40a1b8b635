package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"golang.org/x/sys/unix"
)

// Port is the interface in a slot. It is false for a free slot, and after a restart until Apply has named the interface.
func (d *Datapath) Port(slot int) (host.Interface, bool) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portAt(uint32(slot))
	if open == nil || !open.known {
		return host.Interface{}, false
	}
	return open.want.Interface, true
}

// InterfaceBySource is the interface that a peer of a service listener is, by the address that the listener sees. A peer
// whose port was closed is nobody, also when its slot has another port.
func (d *Datapath) InterfaceBySource(peer netip.Addr) (host.Interface, bool) {
	slot, generation, ok := slotOf(peer.Unmap())
	if !ok {
		return host.Interface{}, false
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portAt(slot)
	if open == nil || !open.known || generationOfEpoch(open.record.Epoch) != generation {
		return host.Interface{}, false
	}
	return open.want.Interface, true
}

// Counters of an interface, or ErrNoPort.
func (d *Datapath) Counters(id ids.Interface) (Counters, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portOf(id)
	if open == nil {
		return Counters{}, fmt.Errorf("read counters of %s: %w", id, ErrNoPort)
	}
	return d.readCounters(open.slot)
}

// HostCounters are of packets that no port could be told for: forged, unmapped or malformed ones from the tunnel.
func (d *Datapath) HostCounters() (Counters, error) { return d.readCounters(0) }

// Drops sums the counters of all ports, open and released since Open, and those of no port. It never goes back as long as
// the data path is open.
func (d *Datapath) Drops() (Counters, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	total, err := d.readCounters(0)
	if err != nil {
		return Counters{}, err
	}
	total.add(d.released)
	for _, open := range d.ports {
		c, err := d.readCounters(open.slot)
		if err != nil {
			return Counters{}, err
		}
		total.add(c)
	}
	return total, nil
}

// retire keeps a port's counts for Drops and clears them for the slot's next user.
func (d *Datapath) retire(slot uint32) error {
	last, err := d.readCounters(slot)
	if err != nil {
		return err
	}
	d.released.add(last)
	return d.clearCounters(slot)
}

func (d *Datapath) readCounters(slot uint32) (Counters, error) {
	var sums [counters]uint64
	for i := range sums {
		var perCPU []uint64
		if err := d.programs.Counters.Lookup(slot*counters+uint32(i), &perCPU); err != nil {
			return Counters{}, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return countersOf(sums), nil
}

func (d *Datapath) clearCounters(slot uint32) error {
	zero := make([]uint64, ebpf.MustPossibleCPU())
	for i := uint32(0); i < counters; i++ {
		if err := d.programs.Counters.Put(slot*counters+i, zero); err != nil {
			return fmt.Errorf("clear counters: %w", err)
		}
	}
	return nil
}

// LastSeen is when the interface's guest last sent ARP, DHCP and IP packets, or ErrNoPort.
func (d *Datapath) LastSeen(id ids.Interface) (Seen, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portOf(id)
	if open == nil {
		return Seen{}, fmt.Errorf("read activity of %s: %w", id, ErrNoPort)
	}
	var record seenRecord
	if err := d.programs.LastSeen.Lookup(open.slot, &record); err != nil {
		return Seen{}, fmt.Errorf("read activity of %s: %w", id, err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return Seen{}, fmt.Errorf("read clock: %w", err)
	}
	wall := time.Now()
	at := func(ns uint64) time.Time {
		if ns == 0 {
			return time.Time{}
		}
		return wall.Add(-time.Duration(now.Nano() - int64(ns)))
	}
	return Seen{ARP: at(record.ARPNs), DHCP: at(record.DHCPNs), IP: at(record.IPNs)}, nil
}

// ProbeGuests asks every guest that has a machine by ARP whether it is there; its answer shows in LastSeen.
func (d *Datapath) ProbeGuests() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.dataplane.do(func() error {
		socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0 receives nothing
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer unix.Close(socket)
		var errs []error
		for _, open := range d.ports {
			to := &unix.SockaddrLinklayer{Ifindex: int(open.record.Ifindex), Halen: 6}
			err := unix.Sendto(socket, arpRequest(&open.record), 0, to)
			if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
				continue // the tap went with its machine: that guest is off
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("probe guest of %s: %w", open.id(), err))
			}
		}
		return errors.Join(errs...)
	})
}

// arpRequest is the gateway asking a guest for its MAC.
func arpRequest(to *portRecord) []byte {
	gateway := to.Subnet
	gateway[3]++
	frame := append(append(append([]byte{}, to.MAC[:]...), GatewayMAC...), 0x08, 0x06) // Ethernet, ARP
	frame = append(frame, 0, 1, 0x08, 0x00, 6, 4, 0, 1)                                // Ethernet and IPv4, request
	frame = append(append(frame, GatewayMAC...), gateway[:]...)
	return append(append(frame, make([]byte, 6)...), to.Address[:]...)
}
