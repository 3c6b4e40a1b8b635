package inspect

import (
	"bytes"
	"fmt"
	"strings"
)

// VMDKLayout is where a sparse extent keeps its tables.
type VMDKLayout struct {
	GrainBytes      int64  // power of two, 4 KiB to 16 MiB
	TableEntries    int64  // grains per grain table
	DirectoryOffset int64  // in bytes from the image's start
	Directory       uint32 // entries
	Compressed      bool   // grains are deflate streams behind a marker
	ZeroGrains      bool   // entry 1 is a grain of zeros
}

const (
	vmdkNewlines    = 1 << 0
	vmdkRedundant   = 1 << 1
	vmdkZeroGrains  = 1 << 2
	vmdkCompressed  = 1 << 16
	vmdkMarkers     = 1 << 17
	vmdkAtEnd       = 1<<64 - 1 // the directory's offset when a footer tells it
	vmdkFooterBytes = 2 * sectorBytes
	vmdkTextMax     = 64 << 10
)

func (s section) vmdk(l Limits) (*Info, error) {
	h, err := s.bytes(VMDK, 0, sectorBytes)
	if err != nil {
		return nil, err
	}
	if err := s.vmdkDescriptor(h); err != nil {
		return nil, err
	}
	if le.Uint64(h[56:]) == vmdkAtEnd {
		footer, err := s.bytes(VMDK, s.size-vmdkFooterBytes, sectorBytes)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(footer, []byte("KDMV")) || le.Uint64(footer[56:]) == vmdkAtEnd {
			return nil, damaged(VMDK, "no footer at the end")
		}
		h = footer
	}
	return s.vmdkHeader(h, l)
}

func (s section) vmdkHeader(h []byte, l Limits) (*Info, error) {
	version, flags, capacity, grain := le.Uint32(h[4:]), le.Uint32(h[8:]), le.Uint64(h[12:]), le.Uint64(h[20:])
	perTable, directory, method := le.Uint32(h[44:]), le.Uint64(h[56:]), le.Uint16(h[77:])
	const known = vmdkNewlines | vmdkRedundant | vmdkZeroGrains | vmdkCompressed | vmdkMarkers
	switch {
	case version < 1 || version > 3:
		return nil, &Refusal{Format: "vmdk", Reason: ReasonFeature, Detail: fmt.Sprintf("version %d", version), Fix: fixConvert}
	case flags&^known != 0:
		return nil, &Refusal{Format: "vmdk", Reason: ReasonFeature, Detail: fmt.Sprintf("flags %#x", flags&^known), Fix: fixConvert}
	case flags&vmdkNewlines != 0 && string(h[73:77]) != "\n \r\n":
		return nil, damaged(VMDK, "line ends were changed by a transfer as text")
	case method > 1 || (method == 1) != (flags&vmdkCompressed != 0):
		return nil, &Refusal{Format: "vmdk", Reason: ReasonCompression, Detail: fmt.Sprintf("algorithm %d", method), Fix: fixConvert}
	case grain < 8 || grain > 1<<15 || grain&(grain-1) != 0:
		return nil, damaged(VMDK, "grains of %d sectors", grain)
	case perTable == 0 || perTable > 1<<16 || perTable&(perTable-1) != 0:
		return nil, damaged(VMDK, "%d grains per table", perTable)
	case capacity > l.MaxVirtualBytes/sectorBytes:
		return nil, (&Info{Format: VMDK, VirtualBytes: min(capacity, 1<<54) * sectorBytes}).check(l)
	}
	covers := grain * uint64(perTable)
	entries := (capacity + covers - 1) / covers
	if directory > uint64(s.size)/sectorBytes || entries > 1<<24 || entries*4 > uint64(s.size)-directory*sectorBytes {
		return nil, damaged(VMDK, "grain directory of %d entries at sector %d", entries, directory)
	}
	return &Info{
		Format: VMDK, VirtualBytes: capacity * sectorBytes, Offset: s.start, Bytes: s.size,
		VMDK: &VMDKLayout{
			GrainBytes: int64(grain) * sectorBytes, TableEntries: int64(perTable), DirectoryOffset: int64(directory) * sectorBytes,
			Directory: uint32(entries), Compressed: flags&vmdkCompressed != 0, ZeroGrains: flags&vmdkZeroGrains != 0,
		},
	}, nil
}

// vmdkDescriptor checks the text in the file: its type, and that it names one extent and no parent.
func (s section) vmdkDescriptor(h []byte) error {
	offset, length := le.Uint64(h[28:]), le.Uint64(h[36:])
	if offset == 0 || offset > uint64(s.size)/sectorBytes || length == 0 || length > vmdkTextMax/sectorBytes {
		return &Refusal{Format: "vmdk", Reason: ReasonSeveral, Detail: "no descriptor in the file", Fix: fixConvert}
	}
	text, err := s.bytes(VMDK, int64(offset)*sectorBytes, int64(length)*sectorBytes)
	if err != nil {
		return err
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	extents, kind := 0, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.Trim(strings.TrimSpace(value), `"`)
		switch {
		case key == "createtype":
			kind = value
		case key == "parentcid" && !strings.EqualFold(value, "ffffffff"), key == "parentfilenamehint":
			return &Refusal{Format: "vmdk", Reason: ReasonBacking, Detail: fmt.Sprintf("%.200q", line), Fix: fixFlatten}
		case strings.HasPrefix(key, "encryption"):
			return &Refusal{Format: "vmdk", Reason: ReasonEncrypted, Fix: "remove the encryption in VMware first"}
		case vmdkExtent(line):
			extents++
			if word := strings.Fields(line); len(word) < 3 || !strings.EqualFold(word[2], "SPARSE") {
				return &Refusal{Format: "vmdk", Reason: ReasonSeveral, Detail: fmt.Sprintf("extent %.200q", line), Fix: fixFlatten}
			}
		}
	}
	return vmdkSubtype(kind, extents)
}

func vmdkSubtype(kind string, extents int) error {
	switch {
	case kind != "streamOptimized" && kind != "monolithicSparse":
		return &Refusal{Format: "vmdk", Reason: ReasonFormat, Detail: fmt.Sprintf("type %.80q, want streamOptimized", kind), Fix: fixConvert}
	case extents != 1:
		return &Refusal{Format: "vmdk", Reason: ReasonSeveral, Detail: fmt.Sprintf("%d extents", extents), Fix: fixFlatten}
	}
	return nil
}

// vmdkExtent tells the line of an extent: it begins with its access mode.
func vmdkExtent(line string) bool {
	word, _, _ := strings.Cut(line, " ")
	return strings.EqualFold(word, "RW") || strings.EqualFold(word, "RDONLY") || strings.EqualFold(word, "NOACCESS")
}
