package inspect

import (
	"fmt"
	"strings"
)

// QCOW2Layout is where a qcow2 file keeps its tables.
type QCOW2Layout struct {
	ClusterBits uint   // 9 to 21
	L1Offset    int64  // cluster aligned, within the file
	L1Entries   uint32 // as many as the disk's size needs
	Zstd        bool   // compressed clusters are zstd frames, else raw deflate
}

const (
	qcow2HeaderV2 = 72
	qcow2HeaderV3 = 104

	qcow2Dirty       = 1 << 0 // reference counts may be stale: a reader needs none
	qcow2Corrupt     = 1 << 1
	qcow2DataFile    = 1 << 2
	qcow2Compression = 1 << 3
	qcow2ExtendedL2  = 1 << 4

	qcow2ExtDataFile   = 0x44415441
	qcow2ExtEncryption = 0x0537be77
	qcow2ExtensionsMax = 64
)

func (s section) qcow2(l Limits) (*Info, error) {
	h, err := s.bytes(QCOW2, 0, qcow2HeaderV2)
	if err != nil {
		return nil, err
	}
	info := &Info{Format: QCOW2, VirtualBytes: be.Uint64(h[24:]), Offset: s.start, Bytes: s.size}
	version, clusterBits := be.Uint32(h[4:]), be.Uint32(h[20:])
	switch {
	case version != 2 && version != 3:
		return nil, &Refusal{Format: "qcow2", Reason: ReasonFeature, Detail: fmt.Sprintf("version %d", version), Fix: fixConvert}
	case clusterBits < 9 || clusterBits > 21:
		return nil, damaged(QCOW2, "clusters of 2^%d bytes", clusterBits)
	case be.Uint64(h[8:]) != 0 || be.Uint32(h[16:]) != 0:
		return nil, s.qcow2Backing(h)
	case be.Uint32(h[32:]) != 0:
		return nil, &Refusal{Format: "qcow2", Reason: ReasonEncrypted, Detail: fmt.Sprintf("method %d", be.Uint32(h[32:])), Fix: "decrypt it: qemu-img convert with its secret to a plain qcow2"}
	case info.VirtualBytes > l.MaxVirtualBytes: // before tables are sized by it
		return nil, info.check(l)
	}
	info.QCOW2 = &QCOW2Layout{ClusterBits: uint(clusterBits)}
	if err := s.qcow2Tables(info, h); err != nil {
		return nil, err
	}
	headerBytes := int64(qcow2HeaderV2)
	if version == 3 {
		if headerBytes, err = s.qcow2Features(info.QCOW2); err != nil {
			return nil, err
		}
	}
	return info, s.qcow2Extensions(headerBytes, int64(1)<<clusterBits)
}

func (s section) qcow2Backing(h []byte) error {
	r := &Refusal{Format: "qcow2", Reason: ReasonBacking, Fix: fixFlatten}
	const nameMax = 1023 // the format's own bound
	if name, err := s.bytes(QCOW2, int64(be.Uint64(h[8:])), int64(min(be.Uint32(h[16:]), nameMax))); err == nil {
		r.Detail = fmt.Sprintf("%.200q", name)
	}
	return r
}

// qcow2Tables checks the first-level table against the disk's size and the file's.
func (s section) qcow2Tables(info *Info, h []byte) error {
	q := info.QCOW2
	covers := uint64(1) << (2*q.ClusterBits - 3) // bytes of disk behind one entry
	entries, offset := be.Uint32(h[36:]), be.Uint64(h[40:])
	need := (info.VirtualBytes + covers - 1) / covers
	if uint64(entries) < need || need > 1<<24 {
		return damaged(QCOW2, "%d first-level entries for %d bytes", entries, info.VirtualBytes)
	}
	if offset%(1<<q.ClusterBits) != 0 || offset > uint64(s.size) || need*8 > uint64(s.size)-offset {
		return damaged(QCOW2, "first-level table of %d entries at %d in a file of %d bytes", need, offset, s.size)
	}
	q.L1Offset, q.L1Entries = int64(offset), uint32(need)
	return nil
}

// qcow2Features reads what version 3 added. It returns the header's length.
func (s section) qcow2Features(q *QCOW2Layout) (int64, error) {
	h, err := s.bytes(QCOW2, 0, qcow2HeaderV3)
	if err != nil {
		return 0, err
	}
	features, length := be.Uint64(h[72:]), be.Uint32(h[100:])
	const known = qcow2Dirty | qcow2Corrupt | qcow2DataFile | qcow2Compression | qcow2ExtendedL2
	switch {
	case features&qcow2DataFile != 0:
		return 0, &Refusal{Format: "qcow2", Reason: ReasonDataFile, Fix: fixFlatten}
	case features&qcow2Corrupt != 0:
		return 0, &Refusal{Format: "qcow2", Reason: ReasonDamaged, Detail: "marked corrupt", Fix: "repair it: qemu-img check -r all FILE"}
	case features&qcow2ExtendedL2 != 0:
		return 0, &Refusal{Format: "qcow2", Reason: ReasonFeature, Detail: "extended L2 entries", Fix: fixFlatten}
	case features&^uint64(known) != 0:
		return 0, &Refusal{Format: "qcow2", Reason: ReasonFeature, Detail: fmt.Sprintf("incompatible feature bits %#x", features&^uint64(known)), Fix: fixFlatten}
	case length < qcow2HeaderV3 || length%8 != 0 || int64(length) > int64(1)<<q.ClusterBits:
		return 0, damaged(QCOW2, "header of %d bytes", length)
	}
	if features&qcow2Compression == 0 {
		return int64(length), nil
	}
	method, err := s.bytes(QCOW2, qcow2HeaderV3, 1)
	if err != nil || length <= qcow2HeaderV3 || method[0] > 1 {
		return 0, &Refusal{Format: "qcow2", Reason: ReasonCompression, Detail: "neither zlib nor zstd", Fix: fixFlatten}
	}
	q.Zstd = method[0] == 1
	return int64(length), nil
}

// qcow2Extensions looks for extensions that name another file or a key. Others may be ignored by the format's rule.
func (s section) qcow2Extensions(at, end int64) error {
	end = min(end, s.size)
	for range qcow2ExtensionsMax {
		if at > end-8 {
			return nil
		}
		h, err := s.bytes(QCOW2, at, 8)
		if err != nil {
			return err
		}
		kind, length := be.Uint32(h), int64(be.Uint32(h[4:]))
		switch {
		case kind == 0:
			return nil
		case kind == qcow2ExtDataFile:
			name, _ := s.bytes(QCOW2, at+8, min(length, 1023))
			return &Refusal{Format: "qcow2", Reason: ReasonDataFile, Detail: fmt.Sprintf("%.200q", strings.TrimRight(string(name), "\x00")), Fix: fixFlatten}
		case kind == qcow2ExtEncryption:
			return &Refusal{Format: "qcow2", Reason: ReasonEncrypted, Fix: "decrypt it: qemu-img convert with its secret to a plain qcow2"}
		case length > end-at-8:
			return damaged(QCOW2, "header extension %#x of %d bytes", kind, length)
		}
		at += 8 + (length+7)&^7
	}
	return damaged(QCOW2, "more than %d header extensions", qcow2ExtensionsMax)
}
