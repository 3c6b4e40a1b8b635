package inspect

import "fmt"

// VHDLayout is where a VHD keeps its blocks.
type VHDLayout struct {
	Dynamic     bool
	BlockBytes  int64 // of data; a bitmap of BitmapBytes precedes each block
	BitmapBytes int64
	TableOffset int64
	Table       uint32 // entries
}

const (
	vhdCookie        = "conectix"
	vhdFixed         = 2
	vhdDynamic       = 3
	vhdDifferencing  = 4
	vhdDynamicHeader = 1024
)

func (s section) vhd(footer []byte, l Limits) (*Info, error) {
	kind, size := be.Uint32(footer[60:]), be.Uint64(footer[48:])
	info := &Info{Format: VHD, VirtualBytes: size, Offset: s.start, Bytes: s.size, VHD: &VHDLayout{}}
	switch {
	case be.Uint32(footer[64:]) != vhdChecksum(footer, 64):
		return nil, damaged(VHD, "the footer's checksum is wrong")
	case be.Uint32(footer[12:])>>16 != 1:
		return nil, &Refusal{Format: "vhd", Reason: ReasonFeature, Detail: fmt.Sprintf("version %#x", be.Uint32(footer[12:])), Fix: fixConvert}
	case size%sectorBytes != 0:
		return nil, damaged(VHD, "%d bytes are no whole sectors", size)
	case size > l.MaxVirtualBytes:
		return nil, info.check(l)
	case kind == vhdDifferencing:
		return nil, &Refusal{Format: "vhd", Reason: ReasonBacking, Detail: "a differencing disk", Fix: "merge it with its parent first"}
	case kind == vhdFixed && size > uint64(s.size-sectorBytes):
		return nil, damaged(VHD, "%d bytes of disk in a file of %d", size, s.size)
	case kind == vhdFixed:
		return info, nil
	case kind == vhdDynamic:
		return info, s.vhdTable(info, be.Uint64(footer[16:]))
	}
	return nil, &Refusal{Format: "vhd", Reason: ReasonFeature, Detail: fmt.Sprintf("disk type %d", kind), Fix: fixConvert}
}

func (s section) vhdTable(info *Info, offset uint64) error {
	if offset > uint64(s.size) {
		return damaged(VHD, "header at %d", offset)
	}
	h, err := s.bytes(VHD, int64(offset), vhdDynamicHeader)
	if err != nil {
		return err
	}
	table, entries, block := be.Uint64(h[16:]), be.Uint32(h[28:]), be.Uint32(h[32:])
	switch {
	case string(h[:8]) != "cxsparse" || be.Uint32(h[36:]) != vhdChecksum(h, 36):
		return damaged(VHD, "no dynamic header at %d", offset)
	case block < 4096 || block > 64<<20 || block&(block-1) != 0:
		return damaged(VHD, "blocks of %d bytes", block)
	}
	need := (info.VirtualBytes + uint64(block) - 1) / uint64(block)
	if uint64(entries) < need || need > 1<<28 || table > uint64(s.size) || need*4 > uint64(s.size)-table {
		return damaged(VHD, "table of %d entries at %d for %d bytes", entries, table, info.VirtualBytes)
	}
	bitmap := (int64(block)/sectorBytes/8 + sectorBytes - 1) / sectorBytes * sectorBytes
	info.VHD = &VHDLayout{Dynamic: true, BlockBytes: int64(block), BitmapBytes: bitmap, TableOffset: int64(table), Table: uint32(need)}
	return nil
}

// vhdChecksum is the ones' complement of the sum of all bytes but the checksum's own four.
func vhdChecksum(b []byte, at int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}
