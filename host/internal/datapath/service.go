package datapath

import (
	"encoding/binary"
	"net/netip"
)

// serviceBase is 100.64.0.0: a port's address as servers see it is serviceBase + alias << 16 + slot.
const serviceBase = 0x64400000

// slotOf reads the slot out of a server's peer address.
func slotOf(peer netip.Addr) (int, bool) {
	if !peer.Is4() {
		return 0, false
	}
	bytes := peer.As4()
	name := binary.BigEndian.Uint32(bytes[:])
	slot := name & 0xffff
	if name&^0x3fffff != serviceBase || slot == 0 || slot >= maxPorts {
		return 0, false
	}
	return int(slot), true
}

// serviceAddress is where the servers' namespace reaches a port.
func serviceAddress(slot uint32) netip.Addr {
	var bytes [4]byte
	binary.BigEndian.PutUint32(bytes[:], serviceBase+slot)
	return netip.AddrFrom4(bytes)
}
