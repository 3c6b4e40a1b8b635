package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network holds the clients of all interfaces. All methods are safe for concurrent use.
type Network struct {
	// Bound is called for each new or renewed lease, after it is in force. Set it before Run; it must not block.
	Bound func(device string, lease Lease)
	// Failed is told what could not be configured. Set it before Run.
	Failed func(device string, err error)

	mu      sync.Mutex // guards the maps
	clients map[string]*client
	cancels map[string]context.CancelFunc
	leases  map[string]Lease
}

// New returns a network without clients.
func New() *Network {
	return &Network{
		Bound: func(string, Lease) {}, Failed: func(string, error) {},
		clients: map[string]*client{}, cancels: map[string]context.CancelFunc{}, leases: map[string]Lease{},
	}
}

// Loopback brings the loopback device up. It comes before all services: they may talk to each other at once.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Run keeps a client for each Ethernet interface, now and whenever one appears, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 16)
	done := make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case update, ok := <-updates:
			if !ok {
				return errors.New("watch interfaces: the kernel ended the subscription")
			}
			n.see(ctx, update)
		}
	}
}

// see starts or stops the client of an interface.
func (n *Network) see(ctx context.Context, update netlink.LinkUpdate) {
	a := update.Attrs()
	if a == nil || a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 || update.Link.Type() != "device" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if update.Header.Type == unix.RTM_DELLINK {
		if cancel := n.cancels[a.Name]; cancel != nil {
			cancel()
			delete(n.cancels, a.Name)
			delete(n.clients, a.Name)
			delete(n.leases, a.Name)
		}
		return
	}
	if n.clients[a.Name] != nil {
		return
	}
	if err := netlink.LinkSetUp(update.Link); err != nil {
		n.Failed(a.Name, err)
		return
	}
	c := &client{name: a.Name, index: a.Index, mac: a.HardwareAddr, renew: make(chan chan error)}
	c.bound = func(lease Lease) { n.bind(c, lease) }
	c.lost = func() { n.unbind(c) }
	ctx, cancel := context.WithCancel(ctx)
	n.clients[a.Name], n.cancels[a.Name] = c, cancel
	go c.run(ctx)
}

func (n *Network) bind(c *client, lease Lease) {
	if err := apply(c.index, lease); err != nil {
		n.Failed(c.name, err)
	}
	n.mu.Lock()
	n.leases[c.name] = lease
	n.mu.Unlock()
	n.Bound(c.name, lease)
}

func (n *Network) unbind(c *client) {
	n.mu.Lock()
	lease, ok := n.leases[c.name]
	delete(n.leases, c.name)
	n.mu.Unlock()
	if ok {
		if err := withdraw(c.index, lease); err != nil {
			n.Failed(c.name, err)
		}
	}
}

// Leases describes the lease of each interface that has one.
func (n *Network) Leases() map[string]any {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]any{}
	for name, l := range n.leases {
		routes := []string{}
		for _, r := range l.Routes {
			routes = append(routes, fmt.Sprintf("%s via %s", r.Dst, r.Via))
		}
		all[name] = map[string]any{
			"addr": l.Addr.String(), "server": l.Server.String(), "mtu": l.MTU, "routes": routes, "dns": l.DNS, "ntp": l.NTP,
			"hostname": l.Hostname, "domain": l.Domain, "leaseSeconds": int(l.Expire.Seconds()),
		}
	}
	return all
}

// Renew makes the device's client renew its lease at once, by unicast, and waits for the outcome.
func (n *Network) Renew(ctx context.Context, device string) error {
	n.mu.Lock()
	c := n.clients[device]
	_, leased := n.leases[device]
	n.mu.Unlock()
	if c == nil || !leased {
		return fmt.Errorf("renew lease of %s: it has none", device)
	}
	done := make(chan error, 1)
	select {
	case c.renew <- done:
	case <-ctx.Done():
		return fmt.Errorf("renew lease of %s: %w", device, ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("renew lease of %s: %w", device, ctx.Err())
	}
}

// listenOn opens the DHCP client port on one device.
func listenOn(ctx context.Context, device string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		})
		return errors.Join(ctlErr, err)
	}}
	return lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", clientPort))
}

// WriteResolvConf replaces the resolver's configuration whole.
func WriteResolvConf(path string, lease Lease) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(lease.ResolvConf()), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
