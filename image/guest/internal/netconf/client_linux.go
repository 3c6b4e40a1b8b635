package netconf

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	firstWait = 400 * time.Millisecond
	maxWait   = 8 * time.Second
	// tries is how often one message is sent before the exchange starts over.
	tries = 4
)

var everyone = netip.MustParseAddr("255.255.255.255")

// errRefused is the server's DHCPNAK.
var errRefused = errors.New("DHCP server refused")

// client obtains and keeps the lease of one interface. Its fields are set before run and not changed.
type client struct {
	name  string
	index int
	mac   net.HardwareAddr
	// bound and lost are called from run's goroutine.
	bound func(Lease)
	lost  func()
	// renew carries requests to renew at once; the answer goes into the channel sent.
	renew chan chan error
}

// run never returns before ctx ends.
func (c *client) run(ctx context.Context) {
	wait := firstWait
	for ctx.Err() == nil {
		w, err := openWire(c.index, c.mac)
		if err != nil {
			pause(ctx, maxWait)
			continue
		}
		lease, err := c.acquire(ctx, w, wait)
		w.close()
		if err != nil {
			wait = min(wait*2, maxWait)
			pause(ctx, jitter(wait/4))
			continue
		}
		wait = firstWait
		c.bound(lease)
		c.keep(ctx, lease)
		c.lost()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// jitter spreads simultaneous boots over a quarter of d.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/4+1) }

// acquire goes from nothing to a lease: discover, offer, request, acknowledgement.
func (c *client) acquire(ctx context.Context, w *wire, wait time.Duration) (Lease, error) {
	discover, err := dhcpv4.NewDiscovery(c.mac, wanted)
	if err != nil {
		return Lease{}, err
	}
	offer, err := exchange(ctx, w, discover, wait, func(m *dhcpv4.DHCPv4) bool {
		_, err := ParseLease(m)
		return m.MessageType() == dhcpv4.MessageTypeOffer && err == nil
	})
	if err != nil {
		return Lease{}, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, wanted)
	if err != nil {
		return Lease{}, err
	}
	answer, err := exchange(ctx, w, request, wait, isAnswer)
	if err != nil {
		return Lease{}, err
	}
	return granted(answer)
}

// wanted lists the options that the client makes use of.
var wanted = dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
	dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers)

func isAnswer(m *dhcpv4.DHCPv4) bool {
	return m.MessageType() == dhcpv4.MessageTypeAck || m.MessageType() == dhcpv4.MessageTypeNak
}

func granted(m *dhcpv4.DHCPv4) (Lease, error) {
	if m.MessageType() == dhcpv4.MessageTypeNak {
		return Lease{}, errRefused
	}
	return ParseLease(m)
}

// exchange sends a message until an answer to it is accepted, waiting longer each time.
func exchange(ctx context.Context, w *wire, m *dhcpv4.DHCPv4, wait time.Duration, accept func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	m.SetBroadcast()
	for range tries {
		if err := w.send(m, netip.IPv4Unspecified(), everyone); err != nil {
			return nil, err
		}
		answer, err := w.receive(ctx, time.Now().Add(jitter(wait)), func(a *dhcpv4.DHCPv4) bool {
			return a.OpCode == dhcpv4.OpcodeBootReply && a.TransactionID == m.TransactionID &&
				a.ClientHWAddr.String() == m.ClientHWAddr.String() && accept(a)
		})
		if !errors.Is(err, errNoAnswer) || ctx.Err() != nil {
			return answer, err
		}
		wait = min(wait*2, maxWait)
	}
	return nil, errNoAnswer
}

// keep renews the lease until it is lost or ctx ends.
func (c *client) keep(ctx context.Context, lease Lease) {
	since := time.Now()
	for {
		var asked chan error
		select {
		case <-ctx.Done():
			return
		case asked = <-c.renew:
		case <-time.After(time.Until(since.Add(lease.Renew))):
		}
		next, err := c.extend(ctx, lease, since, asked != nil)
		if asked != nil {
			asked <- err
			if err != nil && !errors.Is(err, errRefused) {
				continue // the lease still stands; its own times go on
			}
		}
		if err != nil {
			return
		}
		lease, since = next, time.Now()
		c.bound(lease)
	}
}

// extend asks the lease's own server until T2 and then any server until the end. With once it asks one time.
func (c *client) extend(ctx context.Context, lease Lease, since time.Time, once bool) (Lease, error) {
	for {
		elapsed := time.Since(since)
		if elapsed >= lease.Expire {
			return Lease{}, fmt.Errorf("lease of %s ended", lease.Addr)
		}
		limit := lease.Rebind
		to := lease.Server
		if elapsed >= lease.Rebind {
			limit, to = lease.Expire, everyone
		}
		next, err := c.extendOnce(ctx, lease, to)
		if err == nil || errors.Is(err, errRefused) || once || ctx.Err() != nil {
			return next, err
		}
		// RFC 2131 §4.4.5: half of what is left, but not under a minute; short leases of tests ask more often.
		pause(ctx, min(max((limit-time.Since(since))/2, time.Second), time.Minute))
	}
}

// extendOnce sends one request for the address that the interface already has, over an ordinary UDP socket.
func (c *client) extendOnce(ctx context.Context, lease Lease, to netip.Addr) (Lease, error) {
	request, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(c.mac),
		dhcpv4.WithClientIP(lease.Addr.Addr().AsSlice()), wanted)
	if err != nil {
		return Lease{}, err
	}
	conn, err := listenOn(ctx, c.name)
	if err != nil {
		return Lease{}, err
	}
	defer conn.Close()
	if _, err := conn.WriteTo(request.ToBytes(), &net.UDPAddr{IP: to.AsSlice(), Port: serverPort}); err != nil {
		return Lease{}, fmt.Errorf("send DHCP renewal to %s: %w", to, err)
	}
	conn.SetReadDeadline(time.Now().Add(maxWait / 4))
	buf := make([]byte, 64<<10)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return Lease{}, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err == nil && m.OpCode == dhcpv4.OpcodeBootReply && m.TransactionID == request.TransactionID && isAnswer(m) {
			return granted(m)
		}
	}
}
