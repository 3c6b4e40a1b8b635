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

// appliance is what is found in an archive.
type appliance struct {
	limits    Limits
	disk      *section
	described bool
	manifest  []byte             // nil when there is none
	entries   map[string]section // by name
}

// ova finds the one disk of an appliance. Its offset in the file is all that is kept: nothing is unpacked.
func (s section) ova(l Limits) (*Info, error) {
	// A tar.Reader reads its header blocks and nothing ahead, so that after Next the section stands at the entry's bytes.
	part := io.NewSectionReader(s.r, s.start, s.size)
	archive := tar.NewReader(part)
	found := appliance{limits: l, entries: map[string]section{}}
	for range ovaEntriesMax {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found.info()
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
		if err := found.add(h.Name, section{s.r, s.start + at, h.Size}, archive); err != nil {
			return nil, err
		}
	}
	return nil, ovaRefusal(ReasonSeveral, fmt.Sprintf("more than %d files", ovaEntriesMax), "export the machine alone")
}

// add takes one entry, whose content may be read.
func (a *appliance) add(name string, where section, content io.Reader) error {
	name = path.Clean(name)
	if _, twice := a.entries[name]; twice {
		return ovaRefusal(ReasonSeveral, fmt.Sprintf("%.80q is in it twice", name), "export one machine at a time")
	}
	a.entries[name] = where
	switch strings.ToLower(path.Ext(name)) {
	case ".ovf":
		if a.described {
			return ovaRefusal(ReasonSeveral, "several descriptions", "export one machine at a time")
		}
		a.described = true
		return ovaDescription(io.LimitReader(content, ovfBytesMax))
	case ".mf":
		if a.manifest != nil {
			return ovaRefusal(ReasonSeveral, "several manifests", "export one machine at a time")
		}
		text, err := io.ReadAll(io.LimitReader(content, ovfManifestMax+1))
		if err != nil {
			return fmt.Errorf("read image file: %w", err)
		}
		a.manifest = append([]byte{}, text...)
	case ".vmdk":
		if a.disk != nil {
			return ovaRefusal(ReasonSeveral, "more than one disk", "import each disk as a VMDK of its own")
		}
		a.disk = &where
	}
	return nil
}

func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (a *appliance) info() (*Info, error) {
	disk := a.disk
	if disk == nil || !a.described {
		return nil, ovaRefusal(ReasonFormat, "a tar without an .ovf and a .vmdk", "give an OVA, or unpack the archive and import the disk in it")
	}
	magic, err := disk.bytes(VMDK, 0, min(disk.size, 4))
	if err != nil {
		return nil, err
	}
	if string(magic) != "KDMV" {
		return nil, ovaRefusal(ReasonFormat, "its disk is no sparse VMDK", "unpack the archive and convert the disk: "+fixConvert)
	}
	info, err := disk.vmdk(a.limits)
	if err != nil {
		return nil, err
	}
	info.OVA = true
	info.Digests, err = parseManifest(a.manifest, a.entries)
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
