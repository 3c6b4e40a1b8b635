package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/nimbrel/nimbrel/host"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of our devices. The namespaces are ours, so they collide with nothing.
const (
	deviceVXLAN    = "vxlan"
	deviceService  = "service" // in the data path's namespace
	deviceServers  = "servers" // its other end, in the service namespace
	tapQueueFrames = 256       // a paused guest holds at most this many stale frames
	defaultPort    = 4789
)

// quiet makes a namespace in which nothing but our programs moves a packet.
func (n *namespace) quiet() error {
	return n.setSysctls(map[string]string{
		"ipv6/conf/all/disable_ipv6":     "1",
		"ipv6/conf/default/disable_ipv6": "1",
		"ipv4/ip_forward":                "0",
	})
}

// ensureVXLAN returns the tunnel device of the data path's namespace. It is made in the underlay's namespace and moved:
// its UDP socket and its routes stay where it was made.
func ensureVXLAN(underlay, dataplane *namespace, port, mtu int) (netlink.Link, error) {
	if device, err := dataplane.links.LinkByName(deviceVXLAN); err == nil {
		return device, nil
	}
	// The name is unique among the agents of one namespace, and a leftover of this one is from a crash right here.
	name := fmt.Sprintf("nbx%d", os.Getpid())
	if old, err := underlay.links.LinkByName(name); err == nil {
		_ = underlay.links.LinkDel(old)
	}
	device := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu},
		FlowBased: true, // each packet names its VNI and host
		GBP:       true,
		Port:      port,
	}
	if err := underlay.links.LinkAdd(device); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make VXLAN device: the kernel has none; load it with \"modprobe vxlan\": %w", err)
		}
		return nil, fmt.Errorf("make VXLAN device: %w", err)
	}
	if err := underlay.links.LinkSetNsFd(device, int(dataplane.handle)); err != nil {
		_ = underlay.links.LinkDel(device)
		return nil, fmt.Errorf("move VXLAN device: %w", err)
	}
	moved, err := dataplane.links.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find moved VXLAN device: %w", err)
	}
	if err := dataplane.links.LinkSetName(moved, deviceVXLAN); err != nil {
		return nil, fmt.Errorf("name VXLAN device: %w", err)
	}
	return dataplane.links.LinkByName(deviceVXLAN)
}

// ensureServicePair returns our end of the pair that leads to the servers, and the MAC of theirs.
func ensureServicePair(dataplane, service *namespace, mtu int) (netlink.Link, net.HardwareAddr, error) {
	if _, err := dataplane.links.LinkByName(deviceService); err != nil {
		pair := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: deviceService, MTU: mtu},
			PeerName:      deviceServers,
			PeerNamespace: netlink.NsFd(service.handle),
		}
		if err := dataplane.links.LinkAdd(pair); err != nil {
			return nil, nil, fmt.Errorf("make service device pair: %w", err)
		}
	}
	near, err := dataplane.links.LinkByName(deviceService)
	if err != nil {
		return nil, nil, fmt.Errorf("find service device: %w", err)
	}
	far, err := service.links.LinkByName(deviceServers)
	if err != nil {
		return nil, nil, fmt.Errorf("find servers' device: %w", err)
	}
	return near, far.Attrs().HardwareAddr, service.addressServers(far)
}

// addressServers gives the servers their address and the way to all ports. Without ARP: there is nobody to ask.
func (n *namespace) addressServers(device netlink.Link) error {
	address := &netlink.Addr{IPNet: &net.IPNet{IP: AddrMetadata.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	ports := &netlink.Route{
		LinkIndex: device.Attrs().Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: net.IPv4(100, 64, 0, 0).To4(), Mask: net.CIDRMask(10, 32)},
		Src:       AddrMetadata.AsSlice(),
	}
	return errors.Join(
		n.links.LinkSetARPOff(device),
		n.links.AddrReplace(device, address),
		n.links.LinkSetUp(device),
		n.links.RouteReplace(ports),
	)
}

// guestMTU is the MTU of guests on the underlay device, or an error that says what to raise.
func guestMTU(underlay *namespace, o Options) (int, error) {
	device, err := underlay.links.LinkByName(o.UnderlayDevice)
	if err != nil {
		return 0, fmt.Errorf("find underlay device %s: %w", o.UnderlayDevice, err)
	}
	most := device.Attrs().MTU - host.EncapsulationCost
	if most+host.EncapsulationCost < host.MinUnderlayMTU {
		return 0, fmt.Errorf("underlay device %s has MTU %d: raise it to at least %d", o.UnderlayDevice, device.Attrs().MTU, host.MinUnderlayMTU)
	}
	if o.MTU > most {
		return 0, fmt.Errorf("guest MTU %d does not fit underlay device %s of MTU %d: at most %d, or raise the device's", o.MTU, o.UnderlayDevice, device.Attrs().MTU, most)
	}
	if o.MTU > 0 {
		return o.MTU, nil
	}
	return min(most, 9001), nil
}

// openTap makes a tap that lives as long as its descriptor does. It is down and has no program yet.
func (n *namespace) openTap(name string, vnetHeader bool) (*os.File, error) {
	var tap *os.File
	err := n.do(func() error { // a tap belongs to the namespace in which /dev/net/tun was opened
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if vnetHeader {
			flags |= unix.IFF_VNET_HDR
		}
		request.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return errors.Join(fmt.Errorf("make tap %s: %w", name, err), unix.Close(fd))
		}
		tap = os.NewFile(uintptr(fd), name)
		return nil
	})
	return tap, err
}
