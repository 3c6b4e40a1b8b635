package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Filters behind the hooks. The kernel runs the smaller priority first, and TCX programs before any of them.
const (
	priorityOurs    = 1
	priorityDropAll = 2
)

// haveTCX asks the kernel, not its version: attaching to no device is refused for the device where TCX is known.
func haveTCX(program *ebpf.Program) bool {
	_, err := link.AttachTCX(link.TCXOptions{Interface: 1 << 30, Program: program, Attach: ebpf.AttachTCXIngress})
	return errors.Is(err, unix.ENODEV)
}

// attach puts the program on a device's ingress, taking over what an earlier agent left there, and drop_all behind it.
// Traffic sees one program or the other, never none. pin names the hook.
func (d *Datapath) attach(device netlink.Link, program *ebpf.Program, pin string) error {
	if err := d.attachDropAll(device); err != nil {
		return err
	}
	if !d.tcx {
		if err := d.setFilter(device, program, priorityOurs); err != nil {
			return err
		}
		// Only now may the links of an agent that used TCX go: their programs come first as long as they are there.
		if d.kernelTCX {
			if err := d.soleProgram(device, 0); err != nil {
				return err
			}
		}
		return d.unpin(pin)
	}
	held, err := d.attachTCX(device, program, filepath.Join(d.pins, pin))
	if err != nil {
		return err
	}
	// Only now may a filter of an agent that did not use TCX go.
	if err := d.deleteFilter(device, priorityOurs); err != nil {
		return err
	}
	return d.soleProgram(device, held)
}

func (d *Datapath) attachTCX(device netlink.Link, program *ebpf.Program, pin string) (link.ID, error) {
	index := device.Attrs().Index
	held, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer held.Close()
		info, err := held.Info()
		if err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == index {
			if err := held.Update(program); err != nil {
				return 0, fmt.Errorf("update program on %s: %w", device.Attrs().Name, err)
			}
			return info.ID, nil
		}
		// The device that this link was on is gone; its index is 0, or another's.
		if err := held.Unpin(); err != nil {
			return 0, fmt.Errorf("unpin stale link %s: %w", pin, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("load link %s: %w", pin, err)
	}
	fresh, err := d.newTCX(index, program)
	if err != nil {
		return 0, fmt.Errorf("attach program to %s: %w", device.Attrs().Name, err)
	}
	defer fresh.Close()
	if err := fresh.Pin(pin); err != nil {
		return 0, fmt.Errorf("pin link %s: %w", pin, err)
	}
	info, err := fresh.Info()
	if err != nil {
		return 0, fmt.Errorf("read link %s: %w", pin, err)
	}
	return info.ID, nil
}

// newTCX attaches inside the device's namespace: an interface index means nothing elsewhere.
func (d *Datapath) newTCX(index int, program *ebpf.Program) (fresh link.Link, err error) {
	err = d.dataplane.do(func() error {
		var err error
		fresh, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	})
	return fresh, err
}

// soleProgram detaches every TCX program but ours (0: none is) from a device of ours: pins on a mount that is gone leave such behind.
func (d *Datapath) soleProgram(device netlink.Link, ours link.ID) error {
	return d.dataplane.do(func() error {
		result, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("query programs of %s: %w", device.Attrs().Name, err)
		}
		for _, attached := range result.Programs {
			id, isLink := attached.LinkID()
			if isLink && id == ours {
				continue
			}
			if !isLink {
				return fmt.Errorf("device %s has a foreign program %d on its ingress: remove it", device.Attrs().Name, attached.ID)
			}
			// A link that lost its last reference may go between the two calls.
			if err := detachLink(id); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("detach duplicate program of %s: %w", device.Attrs().Name, err)
			}
		}
		return nil
	})
}

func detachLink(id link.ID) error {
	stray, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	defer stray.Close()
	raw, ok := stray.(interface{ Detach() error })
	if !ok {
		return fmt.Errorf("link %d cannot be detached", id)
	}
	return raw.Detach()
}

func (d *Datapath) unpin(pin string) error {
	err := os.Remove(filepath.Join(d.pins, pin))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// attachDropAll adds the ingress queue discipline and the filter that runs when no program of ours is left.
func (d *Datapath) attachDropAll(device netlink.Link) error {
	discipline := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}}
	if err := d.dataplane.links.QdiscAdd(discipline); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s (the kernel needs CONFIG_NET_SCH_INGRESS): %w", device.Attrs().Name, err)
	}
	return d.setFilter(device, d.programs.DropAll, priorityDropAll)
}

func filterAt(device netlink.Link, priority uint16) netlink.FilterAttrs {
	return netlink.FilterAttrs{
		LinkIndex: device.Attrs().Index,
		Parent:    netlink.HANDLE_MIN_INGRESS,
		Handle:    1,
		Protocol:  unix.ETH_P_ALL,
		Priority:  priority,
	}
}

// setFilter replaces in place: a filter of the same handle hands over to the new program without a gap.
func (d *Datapath) setFilter(device netlink.Link, program *ebpf.Program, priority uint16) error {
	filter := &netlink.BpfFilter{
		FilterAttrs:  filterAt(device, priority),
		Fd:           program.FD(),
		Name:         "nimbrel",
		DirectAction: true,
	}
	if err := d.dataplane.links.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach filter to %s (the kernel needs CONFIG_NET_CLS_BPF): %w", device.Attrs().Name, err)
	}
	return nil
}

func (d *Datapath) deleteFilter(device netlink.Link, priority uint16) error {
	err := d.dataplane.links.FilterDel(&netlink.BpfFilter{FilterAttrs: filterAt(device, priority)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach filter of %s: %w", device.Attrs().Name, err)
	}
	return nil
}
