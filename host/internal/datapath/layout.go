package datapath

import (
	"net"
	"net/netip"
)

// layoutVersion names the pinned maps' directory. Raise it with any change of bpf/layout.h: an agent never reads maps of
// another layout.
const layoutVersion = "v1"

// Twins of bpf/layout.h. TestLayoutAgrees compares them.
const (
	maxPorts    = 1024 // slot 0 is no port
	maxPages    = 4096
	maxHosts    = 65536
	counters    = 24
	pageEntries = 256

	policyPortBits = 48 // fixed bits before the port in a port class key
	policyAddrBits = 32 // fixed bits before the address in a block key

	flagSourceCheck = 1
)

// Addresses of the services as guests see them, besides the first addresses of their subnet.
var (
	AddrMetadata = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	AddrResolver = netip.AddrFrom4([4]byte{169, 254, 169, 253})
	AddrClock    = netip.AddrFrom4([4]byte{169, 254, 169, 123})
)

// GatewayMAC is the MAC of whatever is not the guest itself, as guests see it. No device has it.
var GatewayMAC = net.HardwareAddr{0x02, 0x6e, 0x62, 0x00, 0x00, 0x01}

type addr4 [4]byte // network order

type portRecord struct {
	Ifindex     uint32
	VNI         uint32
	Address     addr4
	Subnet      addr4
	VPCResolver addr4
	Ingress     uint32
	Egress      uint32
	Identity    uint16
	Epoch       uint16
	MTU         uint16
	Hops        uint8
	Flags       uint8
	MAC         [6]byte
	Pad         [2]byte
	ID          [24]byte
	Device      [16]byte
}

type addressKey struct {
	VNI     uint32
	Address addr4
}

type pageKey struct {
	VNI    uint32
	Prefix uint32 // address >> 8
}

type pageRef struct {
	Page       uint32
	Generation uint32
}

type policyKey struct {
	Set      uint32
	Peer     uint16
	Class    uint16
	Kind     uint8
	Protocol uint8
	Pad      uint16
}

type portClassKey struct {
	PrefixBits uint32
	Set        uint32
	Protocol   uint8
	Pad        uint8
	Port       [2]byte // network order
}

type cidrKey struct {
	PrefixBits uint32
	Set        uint32
	Address    addr4
}

// Flows are read by programs only; here they are copied.
type flowKey struct {
	Slot uint16
	Rest [18]byte
}

type flowRecord [16]byte

type seenRecord struct {
	ARPNs  uint64 // of CLOCK_MONOTONIC
	DHCPNs uint64
	IPNs   uint64
}

type configRecord struct {
	VXLANIfindex   uint32
	ServiceIfindex uint32
	ServiceMAC     [6]byte
	Pad            [2]byte
}

// mappingWord packs a mapping: host index 20 bits, identity 16, flags 8, generation 20.
func mappingWord(host uint32, identity uint16, generation uint32) uint64 {
	return uint64(host&0xfffff) | uint64(identity)<<20 | uint64(generation&0xfffff)<<44
}

func generationOf(word uint64) uint32 { return uint32(word >> 44) }
