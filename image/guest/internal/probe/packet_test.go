package probe

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	ipA  = netip.MustParseAddr("10.0.0.5")
	ipB  = netip.MustParseAddr("10.0.1.6")
)

// decode lets an independent decoder read a packet, and checks its checksums by building it again.
func decode(t *testing.T, data []byte, first gopacket.LayerType) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(data, first, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	return p
}

func TestUDPPacket(t *testing.T) {
	for _, data := range []string{"", "x", "forged source", "\xff\xff\xff"} {
		packet := ipv4(ipA, ipB, protoUDP, udpDatagram(ipA, ipB, 40000, 7, []byte(data)))
		p := decode(t, packet, layers.LayerTypeIPv4)
		ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		if !ip.SrcIP.Equal(ipA.AsSlice()) || !ip.DstIP.Equal(ipB.AsSlice()) || udp.SrcPort != 40000 || udp.DstPort != 7 || string(udp.Payload) != data {
			t.Fatalf("decoded %v %v", ip, udp)
		}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		again := gopacket.NewSerializeBuffer()
		options := gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}
		if err := gopacket.SerializeLayers(again, options, ip, udp, gopacket.Payload(udp.Payload)); err != nil {
			t.Fatal(err)
		}
		if string(again.Bytes()) != string(packet) {
			t.Errorf("%q: packet\n%x\nwant\n%x", data, packet, again.Bytes())
		}
	}
}

func TestVXLANPacket(t *testing.T) {
	inner := ethernet(macB, macA, etherIPv4, ipv4(ipA, ipB, protoICMP, icmpEcho(1, 2, []byte("x"))))
	p := decode(t, vxlan(77, 5, inner), layers.LayerTypeVXLAN)
	v := p.Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
	if v.VNI != 77 || !v.ValidIDFlag || !v.GBPExtension || v.GBPGroupPolicyID != 5 {
		t.Errorf("decoded %+v", v)
	}
	if plain := vxlan(77, 0, nil); plain[0] != 8 || plain[2] != 0 || plain[3] != 0 {
		t.Errorf("without a policy: %x", plain)
	}
	if icmp := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); icmp.Id != 1 || icmp.Seq != 2 || checksum(icmpEcho(1, 2, []byte("x")), 0) != 0 {
		t.Errorf("decoded %+v", icmp)
	}
}

func TestARPClaim(t *testing.T) {
	p := decode(t, arpClaim(macA, ipA), layers.LayerTypeEthernet)
	arp := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if arp.Operation != layers.ARPReply || net.HardwareAddr(arp.SourceHwAddress).String() != macA.String() || !net.IP(arp.SourceProtAddress).Equal(ipA.AsSlice()) {
		t.Errorf("decoded %+v", arp)
	}
}
