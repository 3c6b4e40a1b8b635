package dhcp

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/ids"
)

var (
	source  = netip.MustParseAddr("127.0.0.1")
	testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 7}
)

type directory struct{}

func (directory) Guest(a netip.Addr) (guest.Guest, bool) {
	return guest.Guest{
		Interface: host.Interface{ID: "eni-0123456789abcdef0", SubnetCIDR: "10.0.1.0/24", AddressOffset: 9, MAC: [6]byte(testMAC)},
		Instance:  host.Instance{Region: "us-nimbrel-1"},
		MTU:       1550,
	}, a == source
}
func (directory) Mapped(ids.VPC, netip.Addr) (host.Mapping, bool)  { return host.Mapping{}, false }
func (directory) Address(ids.VPC, ids.Instance) (netip.Addr, bool) { return netip.Addr{}, false }

func TestLeaseOverSocket(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { New(directory{}).Serve(ctx, c); close(done) }()
	client, err := net.Dial("udp4", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	discover, err := dhcpv4.NewDiscovery(testMAC)
	if err != nil {
		t.Fatal(err)
	}
	offer := exchange(t, client, discover)
	if offer.MessageType() != dhcpv4.MessageTypeOffer || offer.YourIPAddr.String() != "10.0.1.9" {
		t.Fatalf("offer: %s", offer.Summary())
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		t.Fatal(err)
	}
	checkAck(t, exchange(t, client, request))

	request.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 0, 1, 10)))
	if nak := exchange(t, client, request); nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("request for another address: %s", nak.Summary())
	}
	renew, err := dhcpv4.NewRenewFromAck(offer)
	if err != nil {
		t.Fatal(err)
	}
	checkAck(t, exchange(t, client, renew))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func exchange(t *testing.T, c net.Conn, request *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	if _, err := c.Write(request.ToBytes()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := dhcpv4.FromBytes(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	if reply.TransactionID != request.TransactionID {
		t.Fatalf("reply to another request: %s", reply.Summary())
	}
	return reply
}

func checkAck(t *testing.T, ack *dhcpv4.DHCPv4) {
	t.Helper()
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options)
	for what, bad := range map[string]bool{
		"type":      ack.MessageType() != dhcpv4.MessageTypeAck,
		"address":   ack.YourIPAddr.String() != "10.0.1.9",
		"mask":      net.IP(ack.SubnetMask()).String() != "255.255.255.0",
		"router":    len(ack.Router()) != 1 || ack.Router()[0].String() != "10.0.1.1",
		"DNS":       len(ack.DNS()) != 1 || ack.DNS()[0].String() != "10.0.1.2",
		"NTP":       len(ack.NTPServers()) != 1 || ack.NTPServers()[0].String() != "169.254.169.123",
		"server":    ack.ServerIdentifier().String() != "169.254.169.254",
		"MTU":       mtu != 1550,
		"host name": ack.HostName() != "ip-10-0-1-9" || ack.DomainName() != "us-nimbrel-1.compute.internal",
		"lease":     ack.IPAddressLeaseTime(0) != time.Hour,
	} {
		if bad {
			t.Errorf("%s is wrong: %s", what, ack.Summary())
		}
	}
}

func TestSilence(t *testing.T) {
	discover, _ := dhcpv4.NewDiscovery(testMAC)
	release, _ := dhcpv4.NewReleaseFromACK(discover)
	offered, _ := dhcpv4.NewReplyFromRequest(discover, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer))
	s := New(directory{})
	for name, reply := range map[string][]byte{
		"stranger":      s.answer(netip.MustParseAddr("100.64.0.9"), discover.ToBytes()),
		"release":       s.answer(source, release.ToBytes()),
		"server's word": s.answer(source, offered.ToBytes()),
		"garbage":       s.answer(source, []byte("not DHCP")),
	} {
		if reply != nil {
			t.Errorf("%s was answered", name)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	discover, _ := dhcpv4.NewDiscovery(testMAC)
	f.Add(discover.ToBytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply := New(directory{}).answer(source, raw)
		if reply == nil {
			return
		}
		if m, err := dhcpv4.FromBytes(reply); err != nil || m.OpCode != dhcpv4.OpcodeBootReply {
			t.Fatalf("unreadable reply: %v", err)
		}
	})
}
