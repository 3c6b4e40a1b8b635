package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/vishvananda/netlink"
)

// Datapath is a host's virtual network. Its methods may be called concurrently.
type Datapath struct {
	options  Options
	pins     string // directory
	mtu      int    // of guests
	programs *programs
	grace    *ebpf.Map // see waitForPrograms

	kernelTCX bool // the kernel has TCX
	tcx       bool // and it is used

	underlay, dataplane, service *namespace

	mutex     sync.Mutex // guards all below, and the writing of every kernel table
	state     State      // last applied
	applied   bool       // false after a restart: what the kernel holds is then better than what is known here
	ports     []*port
	epochs    [maxPorts]uint16
	unwritten map[uint32]bool // slots whose record the kernel does not have yet
	lastSlot  uint32
	released  Counters               // of ports that were released since Open
	slots     *table[uint32, uint32] // by interface index
	locals    *table[addressKey, uint32]
	mappings  *mappings
	rules     *ruleSets
}

// Open makes the host's data path, or takes over the one that an earlier agent left running. Traffic that passes is not
// disturbed. Ports of guests that ended meanwhile are released.
func Open(ctx context.Context, o Options) (*Datapath, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	d := &Datapath{options: o, unwritten: map[uint32]bool{}}
	steps := []func() error{d.openNamespaces, d.loadPrograms, d.openTables, d.openFlows, d.openDevices, d.adoptPorts, d.dropSharedTables}
	for _, step := range steps {
		err := ctx.Err()
		if err == nil {
			err = step()
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("open data path: %w", err)
		}
	}
	return d, nil
}

func (d *Datapath) openNamespaces() (err error) {
	if d.underlay, err = openNamespace(d.options.Underlay); err != nil {
		return err
	}
	if d.dataplane, err = ensureNamespace(d.options.Dataplane); err != nil {
		return err
	}
	if d.service, err = ensureNamespace(d.options.Service); err != nil {
		return err
	}
	if d.mtu, err = guestMTU(d.underlay, d.options); err != nil {
		return err
	}
	return errors.Join(d.dataplane.quiet(), d.service.quiet())
}

func (d *Datapath) loadPrograms() (err error) {
	if d.pins, err = ensurePinDir(d.options.PinDir); err != nil {
		return err
	}
	if d.programs, err = load(d.pins); err != nil {
		return err
	}
	if d.grace, err = ebpf.NewMap(d.programs.tables["port_fragments"]); err != nil {
		return fmt.Errorf("make the table of no port: %w", err)
	}
	d.kernelTCX = haveTCX(d.programs.DropAll)
	d.tcx = d.options.Attach != AttachClsact && d.kernelTCX
	if d.options.Attach == AttachTCX && !d.tcx {
		return errors.New("the kernel has no TCX (Linux 6.6 has): let the data path choose")
	}
	return nil
}

func (d *Datapath) openTables() (err error) {
	if d.slots, err = openTable[uint32, uint32](d.programs.Slots, "slots"); err != nil {
		return err
	}
	if d.locals, err = openTable[addressKey, uint32](d.programs.Locals, "locals"); err != nil {
		return err
	}
	if d.mappings, err = openMappings(d.programs); err != nil {
		return err
	}
	d.rules, err = openRuleSets(d.programs)
	return err
}

// openDevices makes the two devices that are not taps, puts the programs on them, and only then brings them up.
func (d *Datapath) openDevices() error {
	udpPort := d.options.VXLANPort
	if udpPort == 0 {
		udpPort = defaultPort
	}
	tunnel, err := ensureVXLAN(d.underlay, d.dataplane, udpPort, d.mtu)
	if err != nil {
		return err
	}
	near, serversMAC, err := ensureServicePair(d.dataplane, d.service, d.mtu)
	if err != nil {
		return err
	}
	config := configRecord{VXLANIfindex: uint32(tunnel.Attrs().Index), ServiceIfindex: uint32(near.Attrs().Index)}
	copy(config.ServiceMAC[:], serversMAC)
	if err := d.programs.Config.Put(uint32(0), config); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := d.attach(tunnel, d.programs.FromNet, "link-net"); err != nil {
		return err
	}
	if err := d.attach(near, d.programs.FromService, "link-service"); err != nil {
		return err
	}
	for _, device := range []netlink.Link{near, tunnel} {
		if err := d.dataplane.links.LinkSetUp(device); err != nil {
			return fmt.Errorf("bring up %s (UDP port %d must be free in the underlay's namespace): %w", device.Attrs().Name, udpPort, err)
		}
	}
	return nil
}

// Apply makes the data path what state says. It may be called with any state at any time, and calling it again changes
// nothing. What can be applied is, even when the error names what cannot; whatever is in doubt is denied.
func (d *Datapath) Apply(ctx context.Context, state State) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	d.state, d.applied = state, true
	for i := range state.Ports {
		if open := d.portOf(state.Ports[i].Interface.ID); open != nil {
			open.want, open.known = state.Ports[i], true
			open.orphan = false
		}
	}
	return errors.Join(d.cutOff(state.Orphans), d.reconcile())
}

// reconcile publishes in the order that never lets a packet meet half a state: hosts, policy, ports, mappings; then it
// withdraws what nothing refers to any more.
func (d *Datapath) reconcile() error {
	p := newPlan()
	if !d.applied {
		records, err := d.refresh(p)
		return errors.Join(err, d.rules.publish(p), d.setPorts(records))
	}
	hosts, underlays, hostErr := d.mappings.addHosts(d.state.Hosts)
	records, portErr := d.refresh(p)
	d.keepRules(p)
	pages, pageErr := desiredPages(d.state.VPCs, hosts)
	if err := d.rules.publish(p); err != nil {
		return errors.Join(err, hostErr, portErr, pageErr)
	}
	return errors.Join(
		hostErr, portErr, pageErr,
		d.setPorts(records),
		d.mappings.apply(pages),
		d.rules.withdraw(p, d.waitForPrograms),
		d.mappings.trimHosts(underlays),
	)
}

// waitForPrograms returns when every program that ran at the call has ended: what nothing refers to since before it may then
// be taken away. The kernel promises that of a write to a map of maps (maybe_wait_bpf_programs in kernel/bpf/syscall.c);
// slot 0 is no port's. It takes an RCU grace period, some 10 ms.
func (d *Datapath) waitForPrograms() error {
	if err := d.programs.Fragments.Put(uint32(0), d.grace); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// OpenTap makes the tap of an interface and returns its descriptor, which the caller hands to the guest's process. The tap
// lives until the last copy of the descriptor is closed; then call CloseTap. With vnetHeader frames carry a virtio-net
// header of 10 bytes until the holder sets another size, and offloads may be switched on.
//
// The interface's policy is that of the last Apply; a group that it did not name allows nothing yet.
func (d *Datapath) OpenTap(ctx context.Context, in host.Interface, vnetHeader bool) (*os.File, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	want := Port{Interface: in}
	for _, desired := range d.state.Ports {
		if desired.Interface.ID == in.ID {
			want = desired
		}
	}
	if err := d.forgetDead(in.ID); err != nil {
		return nil, err
	}
	record, err := d.recordOf(want)
	if err != nil {
		return nil, fmt.Errorf("open tap of %s: %w", in.ID, err)
	}
	slot, err := d.freeSlot()
	if err != nil {
		return nil, fmt.Errorf("open tap of %s: %w", in.ID, err)
	}
	tap, err := d.dataplane.openTap(tapName(in.ID), vnetHeader)
	if err != nil {
		return nil, err
	}
	if err := d.addPort(&port{slot: slot, record: record, want: want, known: true}); err != nil {
		return nil, errors.Join(fmt.Errorf("open tap of %s: %w", in.ID, err), tap.Close())
	}
	return tap, nil
}

// forgetDead releases an interface's port when its tap is gone, and refuses when it is not.
func (d *Datapath) forgetDead(id ids.Interface) error {
	old := d.portOf(id)
	if old == nil {
		return nil
	}
	if device, err := d.dataplane.links.LinkByIndex(int(old.record.Ifindex)); err == nil && device.Attrs().Name == old.deviceName() {
		return fmt.Errorf("open tap of %s: %w", id, ErrTapOpen)
	}
	return d.release(old)
}

// addPort puts the program on a new tap, then fills the tables, then brings the tap up.
func (d *Datapath) addPort(fresh *port) error {
	name := tapName(fresh.want.Interface.ID)
	device, err := d.dataplane.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find tap %s: %w", name, err)
	}
	fresh.record.Epoch = d.epochs[fresh.slot]
	fresh.record.Ifindex = uint32(device.Attrs().Index)
	copy(fresh.record.Device[:], name)
	if err := d.programs.giveTables(fresh.slot); err != nil {
		return err
	}
	if err := d.attach(device, d.programs.FromGuest, fresh.pin()); err != nil {
		return err
	}
	err = errors.Join(
		d.dataplane.links.LinkSetMTU(device, int(fresh.record.MTU)),
		d.dataplane.links.LinkSetTxQLen(device, tapQueueFrames),
		d.dataplane.links.LinkSetARPOff(device),
	)
	if err != nil {
		return fmt.Errorf("set up tap %s: %w", name, err)
	}
	d.ports = append(d.ports, fresh)
	d.unwritten[fresh.slot] = true
	// The rest of the state may have errors of its own; they are Apply's to report.
	_ = d.reconcile()
	if d.unwritten[fresh.slot] {
		return errors.Join(fmt.Errorf("write port of tap %s", name), d.release(fresh))
	}
	return d.dataplane.links.LinkSetUp(device)
}

// CloseTap ends an interface's port, and its tap if that still exists. Closing what is not open is no error.
func (d *Datapath) CloseTap(ctx context.Context, id ids.Interface) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	open := d.portOf(id)
	if open == nil {
		return ctx.Err()
	}
	if device, err := d.dataplane.links.LinkByIndex(int(open.record.Ifindex)); err == nil && device.Attrs().Name == open.deviceName() {
		if err := d.dataplane.links.LinkDel(device); err != nil {
			return fmt.Errorf("delete tap of %s: %w", id, err)
		}
	}
	if err := d.release(open); err != nil {
		return err
	}
	// As in addPort: errors of the rest of the state are Apply's to report.
	_ = d.reconcile()
	return nil
}

// MTU is the largest packet, in bytes, that guests may send; DHCP tells them.
func (d *Datapath) MTU() int { return d.mtu }

// Close lets go of the data path and leaves it running.
func (d *Datapath) Close() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	var err error
	if d.mappings != nil {
		err = d.mappings.close()
		d.mappings = nil
	}
	d.grace.Close()
	if d.programs != nil {
		d.programs.close()
	}
	for _, space := range []*namespace{d.underlay, d.dataplane, d.service} {
		if space != nil {
			space.close()
		}
	}
	return err
}

// Destroy ends the data path that the options describe, running or not: its devices with all taps, its pins and its two
// namespaces. It is not an error when some or all of them are gone.
func Destroy(o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	var errs []error
	// A namespace's devices end only with its last user, which may be a stray process: delete them by name.
	if space, err := openNamespace(o.Dataplane); err == nil {
		devices, err := space.links.LinkList()
		errs = append(errs, err)
		for _, device := range devices {
			if device.Attrs().Name != "lo" {
				errs = append(errs, space.links.LinkDel(device))
			}
		}
		space.close()
	}
	errs = append(errs, removePinDir(o.PinDir), removeNamespace(o.Dataplane), removeNamespace(o.Service))
	return errors.Join(errs...)
}
