package inspect

import (
	"archive/tar"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	ovaEntriesMax = 64
	ovfBytesMax   = 1 << 20
)

// ovf is what is read of an appliance's description.
type ovf struct {
	Files []struct {
		Compression string `xml:"compression,attr"`
		ChunkSize   string `xml:"chunkSize,attr"`
	} `xml:"References>File"`
	Disks []struct {
		Parent string `xml:"parentRef,attr"`
	} `xml:"DiskSection>Disk"`
}

// ova finds the one disk of an appliance. Its offset in the file is all that is kept: nothing is unpacked.
func (s section) ova(l Limits) (*Info, error) {
	// A tar.Reader reads its header blocks and nothing ahead, so that after Next the section stands at the entry's bytes.
	part := io.NewSectionReader(s.r, s.start, s.size)
	archive := tar.NewReader(part)
	var disk *section
	described := false
	for range ovaEntriesMax {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return s.ovaDisk(disk, described, l)
		}
		if err != nil {
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("%v", err), fixDamaged)
		}
		at, err := part.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read image file: %w", err)
		}
		if h.Typeflag != tar.TypeReg || h.Size < 0 || h.Size > s.size-at || sparse(h) {
			return nil, ovaRefusal(ReasonDamaged, fmt.Sprintf("entry %.80q is no plain file within the archive", h.Name), fixDamaged)
		}
		switch strings.ToLower(path.Ext(h.Name)) {
		case ".ovf":
			if described {
				return nil, ovaRefusal(ReasonSeveral, "several descriptions", "export one machine at a time")
			}
			described = true
			if err := ovaDescription(io.LimitReader(archive, ovfBytesMax)); err != nil {
				return nil, err
			}
		case ".vmdk":
			if disk != nil {
				return nil, ovaRefusal(ReasonSeveral, "more than one disk", "import each disk as a VMDK of its own")
			}
			disk = &section{s.r, s.start + at, h.Size}
		}
	}
	return nil, ovaRefusal(ReasonSeveral, fmt.Sprintf("more than %d files", ovaEntriesMax), "export the machine alone")
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (s section) ovaDisk(disk *section, described bool, l Limits) (*Info, error) {
	if disk == nil || !described {
		return nil, ovaRefusal(ReasonFormat, "a tar without an .ovf and a .vmdk", "give an OVA, or unpack the archive and import the disk in it")
	}
	magic, err := disk.bytes(VMDK, 0, min(disk.size, 4))
	if err != nil {
		return nil, err
	}
	if string(magic) != "KDMV" {
		return nil, ovaRefusal(ReasonFormat, "its disk is no sparse VMDK", "unpack the archive and convert the disk: "+fixConvert)
	}
	info, err := disk.vmdk(l)
	if err == nil {
		info.OVA = true
	}
	return info, err
}

func ovaDescription(r io.Reader) error {
	var d ovf
	if err := xml.NewDecoder(r).Decode(&d); err != nil {
		return ovaRefusal(ReasonDamaged, fmt.Sprintf("its description: %.200v", err), fixDamaged)
	}
	if len(d.Disks) > 1 {
		return ovaRefusal(ReasonSeveral, fmt.Sprintf("%d disks", len(d.Disks)), "import each disk as a VMDK of its own")
	}
	for _, disk := range d.Disks {
		if disk.Parent != "" {
			return ovaRefusal(ReasonBacking, fmt.Sprintf("parent %.80q", disk.Parent), "merge the machine's snapshots first")
		}
	}
	for _, f := range d.Files {
		if f.Compression != "" && f.Compression != "identity" || f.ChunkSize != "" {
			return ovaRefusal(ReasonCompression, "compressed or split files", "export it again without compressing or splitting")
		}
	}
	return nil
}

func ovaRefusal(reason, detail, fix string) error {
	return &Refusal{Format: "ova", Reason: reason, Detail: detail, Fix: fix}
}
