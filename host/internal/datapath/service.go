package datapath

import (
	"encoding/binary"
	"net/netip"
)

// serviceBase is 100.64.0.0: a port's address as servers see it is serviceBase + alias << 19 + generation << 10 + slot.
// The generation is of the slot's use (portRecord.Epoch): an address of an earlier use is nobody's.
const (
	serviceBase            = 0x64400000
	serviceGenerationShift = 10
	serviceGenerations     = 512
)

// generationOfEpoch is the part of a port's epoch that service addresses carry.
func generationOfEpoch(epoch uint16) uint32 { return uint32(epoch) % serviceGenerations }

// slotOf reads the slot and its generation out of a server's peer address.
func slotOf(peer netip.Addr) (slot, generation uint32, ok bool) {
	if !peer.Is4() {
		return 0, 0, false
	}
	bytes := peer.As4()
	name := binary.BigEndian.Uint32(bytes[:])
	slot = name % maxPorts
	if name&^0x3fffff != serviceBase || slot == 0 {
		return 0, 0, false
	}
	return slot, name >> serviceGenerationShift % serviceGenerations, true
}

// serviceAddress is where the servers' namespace reaches a port in this use of its slot.
func serviceAddress(slot uint32, epoch uint16) netip.Addr {
	var bytes [4]byte
	binary.BigEndian.PutUint32(bytes[:], serviceBase|generationOfEpoch(epoch)<<serviceGenerationShift|slot)
	return netip.AddrFrom4(bytes)
}
