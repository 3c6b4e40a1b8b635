package convert

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/nimbrel/nimbrel/image/inspect"
)

var be, le = binary.BigEndian, binary.LittleEndian

// errDamaged: a table leads out of the file, or compressed data is not what it should be.
var errDamaged = errors.New("the image is damaged: fetch it again and compare its checksum")

// packing is how a block is stored.
type packing uint8

const (
	zeros packing = iota // not stored
	plain
	deflated // without a header (qcow2)
	zlibbed  // with one (VMDK)
	zstandard
)

// place is where a block is.
type place struct {
	packing packing
	offset  int64 // in the file
	bytes   int64 // stored, of packed blocks; may reach beyond the file's end
	same    int64 // this block and the ones after it that are zeros too; at least 1
}

// layout finds the blocks of a disk. Indexes are below the number of blocks.
type layout interface {
	place(index int64) (place, error)
}

// Disk reads the bytes of a disk from its image. It is for one goroutine.
type Disk struct {
	r          io.ReaderAt // the image alone
	fileBytes  int64
	bytes      int64
	blockBytes int64
	layout     layout

	unpacked      []byte // the last packed block
	unpackedIndex int64
	zstd          *zstd.Decoder
}

// Open prepares reading. It walks the tables once, and refuses those that lead out of the file or make it a bomb.
func Open(r io.ReaderAt, info *inspect.Info, l inspect.Limits) (*Disk, error) {
	d := &Disk{r: io.NewSectionReader(r, info.Offset, info.Bytes), fileBytes: info.Bytes, bytes: int64(info.VirtualBytes), unpackedIndex: -1}
	switch {
	case info.QCOW2 != nil:
		d.blockBytes, d.layout = 1<<info.QCOW2.ClusterBits, &qcow2{table: table{r: d.r, fileBytes: d.fileBytes}, l: *info.QCOW2}
	case info.VMDK != nil:
		d.blockBytes, d.layout = info.VMDK.GrainBytes, &vmdk{table: table{r: d.r, fileBytes: d.fileBytes}, l: *info.VMDK}
	case info.VHD != nil && info.VHD.Dynamic:
		d.blockBytes, d.layout = info.VHD.BlockBytes, &vhd{table: table{r: d.r, fileBytes: d.fileBytes}, l: *info.VHD}
	default:
		d.blockBytes, d.layout = 1<<20, flat{}
		return d, nil
	}
	expanded, err := d.walk()
	if err != nil {
		return nil, fmt.Errorf("read tables of %s image: %w", info.Format, err)
	}
	return d, l.CheckExpansion(info.Format, info.Bytes, expanded)
}

// walk checks every block's place and counts the bytes that are not zeros.
func (d *Disk) walk() (stored uint64, err error) {
	for index := int64(0); index < d.blocks(); {
		p, err := d.layout.place(index)
		if err != nil {
			return 0, err
		}
		index += p.same
		if p.packing == zeros {
			continue
		}
		stored += uint64(d.blockBytes)
		need := p.bytes
		if p.packing == plain {
			need = min(d.blockBytes, d.bytes-(index-p.same)*d.blockBytes)
		}
		if p.offset < 0 || p.offset >= d.fileBytes || p.packing == plain && need > d.fileBytes-p.offset {
			return 0, fmt.Errorf("block %d at %d in a file of %d bytes: %w", index-p.same, p.offset, d.fileBytes, errDamaged)
		}
	}
	return stored, nil
}

// Bytes is the size of the disk.
func (d *Disk) Bytes() uint64 { return uint64(d.bytes) }

func (d *Disk) blocks() int64 { return (d.bytes + d.blockBytes - 1) / d.blockBytes }

// Hole says whether n bytes at offset are zeros by the tables alone.
func (d *Disk) Hole(offset, n int64) (bool, error) {
	for index := offset / d.blockBytes; index*d.blockBytes < min(offset+n, d.bytes); {
		p, err := d.layout.place(index)
		if err != nil || p.packing != zeros {
			return false, err
		}
		index += p.same
	}
	return true, nil
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, offset int64) (n int, err error) {
	if offset < 0 {
		return 0, errors.New("read disk: negative offset")
	}
	for n < len(p) && offset < d.bytes {
		index, within := offset/d.blockBytes, offset%d.blockBytes
		part := p[n:min(int64(len(p)), int64(n)+min(d.blockBytes-within, d.bytes-offset))]
		if err := d.block(index, within, part); err != nil {
			return n, fmt.Errorf("read disk at %d: %w", offset, err)
		}
		n, offset = n+len(part), offset+int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// block reads from within one block.
func (d *Disk) block(index, within int64, p []byte) error {
	place, err := d.layout.place(index)
	switch {
	case err != nil:
		return err
	case place.packing == zeros:
		clear(p)
		return nil
	case place.packing == plain:
		return readFull(d.r, p, place.offset+within)
	}
	if d.unpackedIndex != index {
		d.unpackedIndex = -1
		if err := d.unpack(place, min(d.blockBytes, d.bytes-index*d.blockBytes)); err != nil {
			return fmt.Errorf("unpack block %d: %w", index, err)
		}
		d.unpackedIndex = index
	}
	copy(p, d.unpacked[within:])
	return nil
}

// unpack fills the first n bytes of d.unpacked with a packed block, and reads no more of its stream: a disk's last block
// may be packed short.
func (d *Disk) unpack(p place, n int64) error {
	if d.unpacked == nil {
		d.unpacked = make([]byte, d.blockBytes)
	}
	if p.packing == zlibbed {
		var marker [12]byte // block address, stored bytes
		if err := readFull(d.r, marker[:], p.offset); err != nil {
			return err
		}
		p.offset, p.bytes = p.offset+12, int64(le.Uint32(marker[8:]))
		if p.bytes > 2*d.blockBytes+1024 {
			return fmt.Errorf("%d bytes packed: %w", p.bytes, errDamaged)
		}
	}
	packed := make([]byte, min(p.bytes, d.fileBytes-p.offset))
	if err := readFull(d.r, packed, p.offset); err != nil {
		return err
	}
	stream, err := d.stream(p.packing, packed)
	if err == nil {
		_, err = io.ReadFull(stream, d.unpacked[:n])
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", errDamaged, err)
	}
	return nil
}

func (d *Disk) stream(how packing, packed []byte) (io.Reader, error) {
	switch how {
	case deflated:
		return flate.NewReader(bytes.NewReader(packed)), nil
	case zlibbed:
		return zlib.NewReader(bytes.NewReader(packed))
	}
	if d.zstd == nil {
		var err error
		if d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.WithDecoderMaxWindow(8<<20)); err != nil {
			return nil, err
		}
	}
	return d.zstd, d.zstd.Reset(bytes.NewReader(packed))
}

// readFull reads len(p) bytes, or answers that the image is damaged.
func readFull(r io.ReaderAt, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%d bytes at %d lie beyond the end: %w", len(p), offset, errDamaged)
	}
	return err
}

// flat is a disk whose bytes are the file's.
type flat struct{}

func (flat) place(index int64) (place, error) {
	return place{packing: plain, offset: index << 20, same: 1}, nil
}
