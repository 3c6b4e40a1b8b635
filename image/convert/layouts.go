package convert

import (
	"fmt"
	"io"

	"github.com/nimbrel/nimbrel/image/inspect"
)

// table keeps the second-level table that was read last: a disk is read in order.
type table struct {
	r         io.ReaderAt
	fileBytes int64
	at        int64 // offset of entries in the file; 0 none, no table lies there
	entries   []byte
}

// load returns the bytes of the table at offset.
func (t *table) load(offset, bytes int64) ([]byte, error) {
	if t.at == offset && int64(len(t.entries)) == bytes {
		return t.entries, nil
	}
	if offset <= 0 || offset > t.fileBytes-bytes {
		return nil, fmt.Errorf("table of %d bytes at %d in a file of %d: %w", bytes, offset, t.fileBytes, errDamaged)
	}
	if int64(len(t.entries)) != bytes {
		t.entries = make([]byte, bytes)
	}
	t.at = 0
	if err := readFull(t.r, t.entries, offset); err != nil {
		return nil, err
	}
	t.at = offset
	return t.entries, nil
}

// qcow2 is the layout of docs/interop/qcow2.txt: L1 table, L2 tables of one cluster each, clusters.
type qcow2 struct {
	table
	l  inspect.QCOW2Layout
	l1 []byte
}

const (
	qcow2Offset     = 0x00fffffffffffe00
	qcow2Compressed = 1 << 62
	qcow2Zero       = 1
)

func (q *qcow2) place(index int64) (place, error) {
	if q.l1 == nil {
		q.l1 = make([]byte, int64(q.l.L1Entries)*8)
		if err := readFull(q.r, q.l1, q.l.L1Offset); err != nil {
			return place{}, err
		}
	}
	perTable := int64(1) << (q.l.ClusterBits - 3)
	within := index % perTable
	at := be.Uint64(q.l1[index/perTable*8:]) & qcow2Offset
	if at == 0 {
		return place{packing: zeros, same: perTable - within}, nil
	}
	if at&(1<<q.l.ClusterBits-1) != 0 {
		return place{}, fmt.Errorf("second-level table at %d is not aligned: %w", at, errDamaged)
	}
	entries, err := q.load(int64(at), perTable*8)
	if err != nil {
		return place{}, err
	}
	return q.cluster(be.Uint64(entries[within*8:]))
}

// cluster reads an L2 entry. A compressed cluster begins at any byte and is counted in sectors.
func (q *qcow2) cluster(entry uint64) (place, error) {
	if entry&qcow2Compressed != 0 {
		x := 62 - (q.l.ClusterBits - 8)
		offset := entry & (1<<x - 1)
		sectors := entry>>x&(1<<(62-x)-1) + 1
		p := place{packing: deflated, offset: int64(offset), bytes: int64(sectors*512 - offset%512), same: 1}
		if q.l.Zstd {
			p.packing = zstandard
		}
		return p, nil
	}
	offset := entry & qcow2Offset
	if entry&qcow2Zero != 0 || offset == 0 {
		return place{packing: zeros, same: 1}, nil
	}
	if offset&(1<<q.l.ClusterBits-1) != 0 {
		return place{}, fmt.Errorf("cluster at %d is not aligned: %w", offset, errDamaged)
	}
	return place{packing: plain, offset: int64(offset), same: 1}, nil
}

// vmdk is the layout of a sparse extent: grain directory, grain tables, grains. Offsets are in sectors.
type vmdk struct {
	table
	l         inspect.VMDKLayout
	directory []byte
}

func (v *vmdk) place(index int64) (place, error) {
	if v.directory == nil {
		v.directory = make([]byte, int64(v.l.Directory)*4)
		if err := readFull(v.r, v.directory, v.l.DirectoryOffset); err != nil {
			return place{}, err
		}
	}
	within := index % v.l.TableEntries
	at := le.Uint32(v.directory[index/v.l.TableEntries*4:])
	if at == 0 {
		return place{packing: zeros, same: v.l.TableEntries - within}, nil
	}
	entries, err := v.load(int64(at)*512, v.l.TableEntries*4)
	if err != nil {
		return place{}, err
	}
	grain := le.Uint32(entries[within*4:])
	switch {
	case grain == 0, grain == 1 && v.l.ZeroGrains:
		return place{packing: zeros, same: 1}, nil
	case v.l.Compressed:
		return place{packing: zlibbed, offset: int64(grain) * 512, same: 1}, nil
	}
	return place{packing: plain, offset: int64(grain) * 512, same: 1}, nil
}

// vhd is the layout of a dynamic VHD: a table of blocks, each behind a bitmap of its sectors. The bitmap matters to
// differencing disks only: an unwritten sector of a block is zeros on disk too.
type vhd struct {
	table
	l inspect.VHDLayout
}

// vhdTablePart is how much of the table is read at once.
const vhdTablePart = 64 << 10

func (v *vhd) place(index int64) (place, error) {
	all := int64(v.l.Table) * 4
	begin := index * 4 / vhdTablePart * vhdTablePart
	entries, err := v.load(v.l.TableOffset+begin, min(vhdTablePart, all-begin))
	if err != nil {
		return place{}, err
	}
	at := be.Uint32(entries[index*4-begin:])
	if at == 1<<32-1 {
		return place{packing: zeros, same: 1}, nil
	}
	return place{packing: plain, offset: int64(at)*512 + v.l.BitmapBytes, same: 1}, nil
}
