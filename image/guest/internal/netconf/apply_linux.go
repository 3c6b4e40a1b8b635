package netconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstTable numbers the routing tables of the second and later interfaces.
const firstTable = 100

// apply puts a lease into force: MTU, address, routes. It is the same for a first lease and a renewed one; an address
// that the lease no longer has goes away.
func apply(index int, lease Lease) error {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return err
	}
	if lease.MTU != 0 && lease.MTU != link.Attrs().MTU {
		if err := netlink.LinkSetMTU(link, lease.MTU); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", lease.MTU, link.Attrs().Name, err)
		}
	}
	if err := dropOthers(link, lease.Addr); err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(lease.Addr)}); err != nil {
		return fmt.Errorf("set address %s of %s: %w", lease.Addr, link.Attrs().Name, err)
	}
	var errs []error
	for _, route := range lease.Routes {
		errs = append(errs, addRoute(link, lease, route, 0))
	}
	if rank := rankOf(index); rank > 0 {
		errs = append(errs, sourceRoutes(link, lease, firstTable+rank))
	}
	return errors.Join(errs...)
}

// addRoute sets one route, in the main table or another. Later interfaces get a higher metric: the first one is used.
func addRoute(link netlink.Link, lease Lease, r Route, table int) error {
	route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst), Src: lease.Addr.Addr().AsSlice(), Table: table}
	if table == 0 {
		route.Priority = 100 + 10*rankOf(link.Attrs().Index)
	}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
		if !lease.Addr.Masked().Contains(r.Via) {
			route.SetFlag(netlink.FLAG_ONLINK) // a /32 lease has its gateway outside
		}
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	if err := netlink.RouteReplace(&route); err != nil {
		return fmt.Errorf("set route %s of %s: %w", r.Dst, link.Attrs().Name, err)
	}
	return nil
}

// sourceRoutes makes what comes from a later interface's address leave through it: the network drops packets whose
// source belongs to another interface.
func sourceRoutes(link netlink.Link, lease Lease, table int) error {
	var errs []error
	onLink := Route{Dst: lease.Addr.Masked()}
	for _, route := range append([]Route{onLink}, lease.Routes...) {
		errs = append(errs, addRoute(link, lease, route, table))
	}
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	rule.Src = ipNet(netip.PrefixFrom(lease.Addr.Addr(), 32))
	rule.Table = table
	if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		errs = append(errs, fmt.Errorf("add rule for %s: %w", lease.Addr.Addr(), err))
	}
	return errors.Join(errs...)
}

// rankOf is the interface's place among the Ethernet ones, from 0.
func rankOf(index int) int {
	links, err := netlink.LinkList()
	if err != nil {
		return 0
	}
	rank := 0
	for _, link := range links {
		if a := link.Attrs(); a.Index < index && a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 {
			rank++
		}
	}
	return rank
}

func dropOthers(link netlink.Link, keep netip.Prefix) error {
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range list {
		if a.IPNet.String() != keep.String() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("drop address %s of %s: %w", a.IPNet, link.Attrs().Name, err)
			}
		}
	}
	return nil
}

// withdraw takes a lost lease's address away; the kernel takes its routes with it.
func withdraw(index int, lease Lease) error {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return err
	}
	return netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(lease.Addr)})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
