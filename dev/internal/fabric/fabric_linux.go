package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridgeName   = "underlay"
	namespaceDir = "/run/netns"
)

// Ensure makes the fabric, or what is missing of it. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func Ensure(p Plan) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if err := ensureNamespace(p.SwitchNamespace()); err != nil {
		return err
	}
	if err := inNamespace(p.SwitchNamespace(), ensureBridge); err != nil {
		return fmt.Errorf("make bridge in namespace %s: %w", p.SwitchNamespace(), err)
	}
	machine := net.IPNet{IP: p.MachineAddress().AsSlice(), Mask: net.CIDRMask(p.Underlay.Bits(), 32)}
	if err := ensurePort(p, "", p.MachineDevice(), p.Prefix+"p0", machine); err != nil {
		return fmt.Errorf("join this machine to the fabric: %w", err)
	}
	for i := 1; i <= p.Hosts; i++ {
		h := p.Host(i)
		if err := ensureNamespace(h.Namespace); err != nil {
			return err
		}
		address := net.IPNet{IP: h.Address.AsSlice(), Mask: net.CIDRMask(p.Underlay.Bits(), 32)}
		if err := ensurePort(p, h.Namespace, h.Device, fmt.Sprintf("%sp%d", p.Prefix, i), address); err != nil {
			return fmt.Errorf("join host %d to the fabric: %w", i, err)
		}
	}
	return nil
}

// Destroy removes every namespace and link whose name the plan gives, for any number of hosts, and the namespaces that
// its hosts' agents made.
func Destroy(p Plan) error {
	var errs []error
	for _, name := range Namespaces(p) {
		if err := deleteNamespace(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("delete namespace %s: %w", name, err))
		}
	}
	if link, err := netlink.LinkByName(p.MachineDevice()); err == nil {
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, fmt.Errorf("delete link %s: %w", p.MachineDevice(), err))
		}
	}
	// The directory is made by the first named namespace of the machine; a directory that others use is not empty.
	_ = os.Remove(namespaceDir)
	return errors.Join(errs...)
}

func deleteNamespace(name string) error {
	path := filepath.Join(namespaceDir, name)
	if !isNamespace(path) {
		return os.Remove(path)
	}
	return netns.DeleteNamed(name)
}

// Namespaces lists the plan's namespaces that exist now.
func Namespaces(p Plan) []string {
	entries, err := os.ReadDir(namespaceDir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.Name() == p.SwitchNamespace() || isHostNamespace(p, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

func isHostNamespace(p Plan, name string) bool {
	for i := 1; i <= MaxHosts; i++ {
		if h := p.Host(i); name == h.Namespace || name == h.DataPlane || name == h.Services {
			return true
		}
	}
	return false
}

// ensureBridge makes the bridge in the current namespace, without learning delays, address or IPv6.
func ensureBridge() error {
	if err := disableIPv6(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	attrs.MTU = MTU
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(bridge)
}

// ensurePort joins a namespace ("" is the machine's own) to the bridge by a veth pair and gives its end an address. A run
// that was interrupted between making the pair and plugging it is completed; an end whose peer is not in the bridge's
// namespace is of no use and is made anew.
func ensurePort(p Plan, namespace, device, port string, address net.IPNet) error {
	plugged := inNamespace(p.SwitchNamespace(), func() error { return plug(port) }) == nil
	err := inNamespace(namespace, func() error {
		link, err := netlink.LinkByName(device)
		switch {
		case err != nil:
			plugged = false
		case !plugged:
			return netlink.LinkDel(link)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove unconnected link %s: %w", device, err)
	}
	if !plugged {
		if err := makePort(p, namespace, device, port); err != nil {
			return err
		}
	}
	return inNamespace(namespace, func() error { return raiseDevice(device, address) })
}

func makePort(p Plan, namespace, device, port string) error {
	switchNS, err := netns.GetFromName(p.SwitchNamespace())
	if err != nil {
		return err
	}
	defer switchNS.Close()
	return inNamespace(namespace, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = device
		attrs.MTU = MTU
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(int(switchNS))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make veth %s: %w", device, err)
		}
		return inNamespace(p.SwitchNamespace(), func() error { return plug(port) })
	})
}

// plug attaches a port to the bridge of the current namespace.
func plug(port string) error {
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, MTU); err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func raiseDevice(device string, address net.IPNet) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &address}); err != nil {
		return fmt.Errorf("set address %v on %s: %w", &address, device, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}

func ensureNamespace(name string) error {
	if _, err := os.Stat(filepath.Join(namespaceDir, name)); err == nil {
		if isNamespace(filepath.Join(namespaceDir, name)) {
			return nil
		}
		// A file without a namespace behind it is what a reboot or a crash between create and mount leaves.
		if err := os.Remove(filepath.Join(namespaceDir, name)); err != nil {
			return fmt.Errorf("remove stale namespace file %s: %w", name, err)
		}
	}
	return onOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
		return ns.Close()
	})
}

// isNamespace says whether a file is a namespace's: any other file opens as well, and fails only when it is entered.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// inNamespace runs fn in a named namespace; "" is the namespace of the calling thread.
func inNamespace(name string, fn func() error) error {
	if name == "" {
		return onOwnThread(fn)
	}
	return onOwnThread(func() error {
		ns, err := netns.GetFromName(name)
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", name, err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter namespace %s: %w", name, err)
		}
		return fn()
	})
}

// onOwnThread runs fn on a thread that is in the process's own network namespace and is returned there afterwards.
// When that fails the thread is never unlocked, so that the runtime ends it with its goroutine.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer before.Close()
		err = fn()
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// disableIPv6 keeps the current namespace from speaking neighbour discovery on links that carry guests' frames.
// A kernel without IPv6 has no such files.
func disableIPv6() error {
	for _, scope := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + scope + "/disable_ipv6"
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Run executes fn with the calling goroutine's thread in the named namespace; a process that fn starts inherits it.
func Run(namespace string, fn func() error) error { return inNamespace(namespace, fn) }

// Unused reports whether an address range is free of the machine's own addresses and routes, naming what uses it.
func Unused(p Plan) error {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var users []string
	for _, a := range addresses {
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err == nil && link.Attrs().Name == p.MachineDevice() {
			continue
		}
		if ip, ok := addrOf(a.IP); ok && p.Underlay.Contains(ip) {
			users = append(users, a.IPNet.String())
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("underlay %v is in use on this machine (%s): choose another with --underlay", p.Underlay, strings.Join(users, ", "))
	}
	return nil
}
func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
