// Package gpt reads, grows and writes GUID partition tables.
//
// The image builder lays a new disk out with it and the guest moves the end of its root partition with it after the disk
// has grown, so both agree on the format by construction. The package is pure: it works on io.ReaderAt and io.WriterAt
// and knows no device, ioctl or file system.
//
// Deliberately absent: sectors other than 512 bytes, tables of other than 128 entries of 128 bytes (every tool writes
// these), and repair of a table whose two copies disagree: the primary wins, the backup serves when the primary is bad.
//
// Source: UEFI Specification 2.10, chapter 5.
package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

const (
	// SectorBytes is the only logical sector size handled.
	SectorBytes = 512
	// Entries is the number of partition slots in a table.
	Entries = 128

	entryBytes   = 128
	tableSectors = Entries * entryBytes / SectorBytes
	headerBytes  = 92
	// firstUsable follows the protective MBR, the header and the entries.
	firstUsable = 2 + tableSectors
	// alignSectors is 1 MiB: partition ends are rounded down to it, so that a grown partition stays aligned.
	alignSectors = 2048
	minSectors   = 2*firstUsable + alignSectors
)

// ErrNoTable says that neither copy of the table is valid.
var ErrNoTable = errors.New("no valid GUID partition table")

// GUID is in on-disk byte order: the first three fields little-endian.
type GUID [16]byte

// Partition types that the builder uses.
var (
	TypeBIOSBoot  = MustGUID("21686148-6449-6E6F-744E-656564454649")
	TypeESP       = MustGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
	TypeRootAMD64 = MustGUID("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
)

// MustGUID parses the usual text form and panics on bad text; it is for constants.
func MustGUID(text string) GUID {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != 16 {
		panic("gpt: bad GUID constant " + text)
	}
	var g GUID
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(raw[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(raw[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(raw[6:]))
	copy(g[8:], raw[8:])
	return g
}

// Partition is one slot. The zero Type marks a free slot. First and Last are inclusive sector numbers.
type Partition struct {
	Type, ID    GUID
	First, Last uint64
	Attributes  uint64
	Name        string
}

// Sectors is the partition's length.
func (p Partition) Sectors() uint64 { return p.Last - p.First + 1 }

// Table is a whole partition table. Partition n of the tools is Partitions[n-1].
type Table struct {
	DiskID     GUID
	Sectors    uint64 // of the whole disk, as the table believes
	Partitions [Entries]Partition
}

// New returns an empty table for a disk of the given size.
func New(id GUID, sectors uint64) *Table { return &Table{DiskID: id, Sectors: sectors} }

// LastUsable is the last sector that a partition may hold.
func (t *Table) LastUsable() uint64 { return t.Sectors - tableSectors - 2 }

// Read returns the table of a disk of diskBytes, from the primary copy or else from the backup in the last sector.
func Read(r io.ReaderAt, diskBytes int64) (*Table, error) {
	sectors := uint64(max(diskBytes, 0)) / SectorBytes
	if sectors < minSectors {
		return nil, fmt.Errorf("read partition table: disk of %d bytes: %w", diskBytes, ErrNoTable)
	}
	primary, err := readCopy(r, 1, sectors)
	if err == nil {
		return primary, nil
	}
	backup, backupErr := readCopy(r, sectors-1, sectors)
	if backupErr != nil {
		return nil, fmt.Errorf("read partition table: %w: primary: %w; backup: %w", ErrNoTable, err, backupErr)
	}
	return backup, nil
}

// readCopy reads the header in sector lba and the entries it points to.
func readCopy(r io.ReaderAt, lba, diskSectors uint64) (*Table, error) {
	header := make([]byte, SectorBytes)
	if _, err := r.ReadAt(header, int64(lba*SectorBytes)); err != nil {
		return nil, fmt.Errorf("read header in sector %d: %w", lba, err)
	}
	if err := checkHeader(header, lba); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	entriesAt := le.Uint64(header[72:])
	if entriesAt < 2 || entriesAt > diskSectors-tableSectors {
		return nil, fmt.Errorf("entries at sector %d lie outside the disk", entriesAt)
	}
	raw := make([]byte, Entries*entryBytes)
	if _, err := r.ReadAt(raw, int64(entriesAt*SectorBytes)); err != nil {
		return nil, fmt.Errorf("read entries at sector %d: %w", entriesAt, err)
	}
	if crc32.ChecksumIEEE(raw) != le.Uint32(header[88:]) {
		return nil, errors.New("checksum of the entries is wrong")
	}
	// The table's own idea of the disk's end: the header's alternate location, or its own place if it is the backup.
	end := max(le.Uint64(header[24:]), le.Uint64(header[32:]))
	if end >= diskSectors || end+1 < minSectors {
		return nil, fmt.Errorf("backup in sector %d lies outside the disk of %d sectors", end, diskSectors)
	}
	t := &Table{DiskID: GUID(header[56:72]), Sectors: end + 1}
	for i := range t.Partitions {
		t.Partitions[i] = decodeEntry(raw[i*entryBytes:])
	}
	return t, t.check()
}

func checkHeader(header []byte, lba uint64) error {
	le := binary.LittleEndian
	switch {
	case string(header[:8]) != "EFI PART":
		return fmt.Errorf("sector %d has no GPT signature", lba)
	case le.Uint32(header[12:]) != headerBytes:
		return fmt.Errorf("header of %d bytes is not supported", le.Uint32(header[12:]))
	case le.Uint64(header[24:]) != lba:
		return fmt.Errorf("header in sector %d says it is in sector %d", lba, le.Uint64(header[24:]))
	case le.Uint32(header[80:]) != Entries || le.Uint32(header[84:]) != entryBytes:
		return errors.New("only tables of 128 entries of 128 bytes are supported")
	}
	want := le.Uint32(header[16:])
	sum := bytes.Clone(header[:headerBytes])
	le.PutUint32(sum[16:], 0)
	if crc32.ChecksumIEEE(sum) != want {
		return errors.New("checksum of the header is wrong")
	}
	return nil
}

// check rejects partitions that are inverted, outside the usable sectors or overlapping.
func (t *Table) check() error {
	for i, p := range t.Partitions {
		if p.Type == (GUID{}) {
			continue
		}
		if p.First < firstUsable || p.Last < p.First || p.Last > t.LastUsable() {
			return fmt.Errorf("partition %d covers sectors %d-%d, outside %d-%d", i+1, p.First, p.Last, firstUsable, t.LastUsable())
		}
		for j, q := range t.Partitions[:i] {
			if q.Type != (GUID{}) && p.First <= q.Last && q.First <= p.Last {
				return fmt.Errorf("partitions %d and %d overlap", j+1, i+1)
			}
		}
	}
	return nil
}

// Grow tells the table that the disk has the given number of sectors and extends partition number to the last aligned
// usable sector. It reports whether anything changed. A disk that shrank, and a partition with another one behind it,
// are errors; the table is then unchanged.
func (t *Table) Grow(sectors uint64, number int) (bool, error) {
	if number < 1 || number > Entries || t.Partitions[number-1].Type == (GUID{}) {
		return false, fmt.Errorf("grow partition %d: no such partition", number)
	}
	if sectors < t.Sectors {
		return false, fmt.Errorf("grow partition %d: disk shrank from %d to %d sectors", number, t.Sectors, sectors)
	}
	grown := *t
	grown.Sectors = sectors
	p := &grown.Partitions[number-1]
	// The end is exclusive here: the sector after the last one is what must be aligned.
	if end := (grown.LastUsable() + 1) / alignSectors * alignSectors; end > p.Last+1 {
		p.Last = end - 1
	}
	if err := grown.check(); err != nil {
		return false, fmt.Errorf("grow partition %d: %w", number, err)
	}
	changed := grown != *t
	*t = grown
	return changed, nil
}

// Write stores both copies and the protective MBR's partition record. The first 440 bytes of the disk, the boot code,
// are left alone. The backup goes first, so that a crash between the two writes leaves a valid primary.
func (t *Table) Write(w io.WriterAt) error {
	if t.Sectors < minSectors {
		return fmt.Errorf("write partition table: disk of %d sectors is too small, %d are needed", t.Sectors, minSectors)
	}
	if err := t.check(); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	entries := make([]byte, Entries*entryBytes)
	for i, p := range t.Partitions {
		if err := encodeEntry(entries[i*entryBytes:], p); err != nil {
			return fmt.Errorf("write partition table: partition %d: %w", i+1, err)
		}
	}
	last := t.Sectors - 1
	writes := []struct {
		data []byte
		lba  uint64
		off  int64
	}{
		{entries, last - tableSectors, 0},
		{t.header(last, 1, last-tableSectors, entries), last, 0},
		{entries, 2, 0},
		{t.header(1, last, 2, entries), 1, 0},
		{protectiveRecord(t.Sectors), 0, 446},
	}
	for _, x := range writes {
		if _, err := w.WriteAt(x.data, int64(x.lba*SectorBytes)+x.off); err != nil {
			return fmt.Errorf("write partition table: sector %d: %w", x.lba, err)
		}
	}
	return nil
}

func (t *Table) header(self, other, entriesAt uint64, entries []byte) []byte {
	le := binary.LittleEndian
	h := make([]byte, SectorBytes)
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000) // revision 1.0
	le.PutUint32(h[12:], headerBytes)
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], firstUsable)
	le.PutUint64(h[48:], t.LastUsable())
	copy(h[56:], t.DiskID[:])
	le.PutUint64(h[72:], entriesAt)
	le.PutUint32(h[80:], Entries)
	le.PutUint32(h[84:], entryBytes)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerBytes]))
	return h
}

// protectiveRecord is bytes 446-511 of the MBR: one partition of type 0xEE over the whole disk, and the signature.
func protectiveRecord(sectors uint64) []byte {
	r := make([]byte, 66)
	copy(r, []byte{0x00, 0x00, 0x02, 0x00, 0xEE, 0xFF, 0xFF, 0xFF})
	binary.LittleEndian.PutUint32(r[8:], 1)
	binary.LittleEndian.PutUint32(r[12:], uint32(min(sectors-1, 0xFFFFFFFF)))
	r[64], r[65] = 0x55, 0xAA
	return r
}

func decodeEntry(raw []byte) Partition {
	le := binary.LittleEndian
	name := make([]uint16, 0, 36)
	for i := 56; i < entryBytes; i += 2 {
		unit := le.Uint16(raw[i:])
		if unit == 0 {
			break
		}
		name = append(name, unit)
	}
	return Partition{
		Type: GUID(raw[0:16]), ID: GUID(raw[16:32]),
		First: le.Uint64(raw[32:]), Last: le.Uint64(raw[40:]),
		Attributes: le.Uint64(raw[48:]), Name: string(utf16.Decode(name)),
	}
}

func encodeEntry(raw []byte, p Partition) error {
	le := binary.LittleEndian
	name := utf16.Encode([]rune(p.Name))
	if len(name) > 36 {
		return fmt.Errorf("name %q is longer than 36 UTF-16 units", p.Name)
	}
	copy(raw[0:], p.Type[:])
	copy(raw[16:], p.ID[:])
	le.PutUint64(raw[32:], p.First)
	le.PutUint64(raw[40:], p.Last)
	le.PutUint64(raw[48:], p.Attributes)
	for i, unit := range name {
		le.PutUint16(raw[56+2*i:], unit)
	}
	return nil
}
