package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Format is a kind of disk image.
type Format string

// The formats that can be converted.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VHD   Format = "vhd"
)

const (
	sectorBytes = 512
	// DefaultMaxVirtualBytes is the largest disk that is accepted when Limits does not say.
	DefaultMaxVirtualBytes = 1 << 40
	// DefaultMaxExpansion is how many bytes one byte of a file may stand for when Limits does not say. Real compressed
	// images stay below 20.
	DefaultMaxExpansion = 100
	// expansionFree is what any file may expand to, so that small images of mostly equal bytes pass.
	expansionFree = 64 << 20
)

// Limits bound what is accepted. Zero fields have the defaults above.
type Limits struct {
	MaxVirtualBytes uint64
	MaxExpansion    uint64
}

func (l Limits) withDefaults() Limits {
	if l.MaxVirtualBytes == 0 {
		l.MaxVirtualBytes = DefaultMaxVirtualBytes
	}
	if l.MaxExpansion == 0 {
		l.MaxExpansion = DefaultMaxExpansion
	}
	return l
}

// Info is what a file's headers say. Exactly the layout of Format is set.
type Info struct {
	Format       Format
	VirtualBytes uint64 // of the disk that a guest sees
	// Offset and Bytes are where the image lies in the file: a part of it in an OVA.
	Offset, Bytes int64
	OVA           bool
	Digests       []Digest // of an OVA with a manifest; Verify compares them

	QCOW2 *QCOW2Layout
	VMDK  *VMDKLayout
	VHD   *VHDLayout
}

// The reasons of refusals, as a caller or a test tells them apart.
const (
	ReasonFormat      = "unsupported format"
	ReasonDamaged     = "damaged header"
	ReasonBacking     = "backing file"
	ReasonDataFile    = "external data file"
	ReasonFeature     = "unknown feature"
	ReasonEncrypted   = "encryption"
	ReasonSeveral     = "several disks or extents"
	ReasonTooLarge    = "disk too large"
	ReasonBomb        = "decompression bomb"
	ReasonCompressed  = "compressed file"
	ReasonCompression = "unsupported compression"
)

// Refusal says why a file is not accepted, and what to do.
type Refusal struct {
	Format string // as recognised
	Reason string // one of the constants
	Detail string // may be empty
	Fix    string
}

func (e *Refusal) Error() string {
	text := fmt.Sprintf("%s image refused: %s", e.Format, e.Reason)
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text + ": " + e.Fix
}

const (
	fixFlatten = "make one file without references: qemu-img convert -O qcow2 IN OUT"
	fixDamaged = "the file is cut off or damaged: fetch it again and compare its checksum"
	fixConvert = "convert it first: qemu-img convert -O qcow2 IN OUT"
)

func damaged(f Format, detail string, args ...any) error {
	return &Refusal{Format: string(f), Reason: ReasonDamaged, Detail: fmt.Sprintf(detail, args...), Fix: fixDamaged}
}

// Inspect reads the headers of a file of size bytes. The error is a *Refusal, or what r answered.
func Inspect(r io.ReaderAt, size int64, l Limits) (*Info, error) {
	l = l.withDefaults()
	file := section{r, 0, size}
	info, err := file.inspect(l)
	if err != nil {
		return nil, err
	}
	return info, info.check(l)
}

// check holds the bounds that are the same for every format.
func (i *Info) check(l Limits) error {
	switch {
	case i.VirtualBytes == 0:
		return damaged(i.Format, "the disk has no sectors")
	case i.VirtualBytes > l.MaxVirtualBytes:
		return &Refusal{
			Format: string(i.Format), Reason: ReasonTooLarge, Detail: fmt.Sprintf("%d bytes, at most %d", i.VirtualBytes, l.MaxVirtualBytes),
			Fix: "shrink the disk, or ask the operator for a larger limit",
		}
	}
	return nil
}

// CheckExpansion refuses tables that make stored bytes of a file stand for too many bytes of a disk.
func (l Limits) CheckExpansion(f Format, stored int64, expanded uint64) error {
	l = l.withDefaults()
	if expanded <= expansionFree || expanded/l.MaxExpansion <= uint64(stored) {
		return nil
	}
	return &Refusal{
		Format: string(f), Reason: ReasonBomb, Detail: fmt.Sprintf("%d bytes of file stand for %d bytes of disk", stored, expanded),
		Fix: "store it with less compression: qemu-img convert -O qcow2 IN OUT",
	}
}

// section is the part of a file that holds one image.
type section struct {
	r           io.ReaderAt
	start, size int64
}

// bytes reads n bytes at offset; beyond the end of the section is a refusal of format f.
func (s section) bytes(f Format, offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset > s.size-n {
		return nil, damaged(f, "%d bytes at %d lie beyond the end at %d", n, offset, s.size)
	}
	b := make([]byte, n)
	if _, err := s.r.ReadAt(b, s.start+offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image file: %w", err)
	}
	return b, nil
}

// refused are formats that are recognised to be named.
var refused = []struct {
	offset      int
	magic       string
	format, fix string
	reason      string
}{
	{0, "vhdxfile", "VHDX", fixConvert, ReasonFormat},
	{0x40, "\x7f\x10\xda\xbe", "VDI", fixConvert, ReasonFormat},
	{0, "QED\x00", "QED", fixConvert, ReasonFormat},
	{0, "QFI\xfb\x00\x00\x00\x01", "qcow (version 1)", fixConvert, ReasonFormat},
	{0, "WithoutFreeSpace", "Parallels", fixConvert, ReasonFormat},
	{0, "WithouFreSpacExt", "Parallels", fixConvert, ReasonFormat},
	{0, "COWD", "VMDK (COWD)", fixConvert, ReasonFormat},
	{0, "# Disk DescriptorFile", "VMDK (descriptor without its extents)", "import the extents as one file: qemu-img convert -O qcow2 IN.vmdk OUT", ReasonSeveral},
	{0, "LUKS\xba\xbe", "LUKS", "decrypt it first", ReasonEncrypted},
	{0, "\x1f\x8b", "gzip", "unpack it first: gunzip FILE", ReasonCompressed},
	{0, "\xfd7zXZ\x00", "xz", "unpack it first: unxz FILE", ReasonCompressed},
	{0, "\x28\xb5\x2f\xfd", "zstd", "unpack it first: unzstd FILE", ReasonCompressed},
	{0, "BZh", "bzip2", "unpack it first: bunzip2 FILE", ReasonCompressed},
	{0, "PK\x03\x04", "zip", "unpack it first: unzip FILE", ReasonCompressed},
	{0, "7z\xbc\xaf\x27\x1c", "7z", "unpack it first: 7z x FILE", ReasonCompressed},
}

func (s section) inspect(l Limits) (*Info, error) {
	head, err := s.bytes(Raw, 0, min(s.size, 2*sectorBytes))
	if err != nil {
		return nil, err
	}
	for _, k := range refused {
		if len(head) >= k.offset && bytes.HasPrefix(head[k.offset:], []byte(k.magic)) {
			return nil, &Refusal{Format: k.format, Reason: k.reason, Fix: k.fix}
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return s.qcow2(l)
	case bytes.HasPrefix(head, []byte("KDMV")):
		return s.vmdk(l)
	case len(head) >= 263 && bytes.HasPrefix(head[257:], []byte("ustar")):
		return s.ova(l)
	}
	if s.size >= sectorBytes {
		tail, err := s.bytes(VHD, s.size-sectorBytes, sectorBytes)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(tail, []byte(vhdCookie)) {
			return s.vhd(tail, l)
		}
	}
	if bytes.HasPrefix(head, []byte(vhdCookie)) {
		return nil, damaged(VHD, "no footer at the end")
	}
	return s.raw()
}

// raw accepts whatever has no other format's mark. Its bytes are the disk's, so nothing in it can mislead.
func (s section) raw() (*Info, error) {
	if s.size == 0 || s.size%sectorBytes != 0 {
		return nil, &Refusal{
			Format: "raw", Reason: ReasonFormat, Detail: fmt.Sprintf("%d bytes and no known format", s.size),
			Fix: "give a raw disk of whole 512-byte sectors, or qcow2, VMDK, VHD or OVA",
		}
	}
	return &Info{Format: Raw, VirtualBytes: uint64(s.size), Offset: s.start, Bytes: s.size}, nil
}

var be, le = binary.BigEndian, binary.LittleEndian
