package inspect

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// qcow2Header is a version 3 header of a 64 MiB disk with clusters of 64 KiB, in a file of four clusters.
func qcow2Header(edit func(h []byte)) []byte {
	h := make([]byte, 4<<16)
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], 16)
	be.PutUint64(h[24:], 64<<20)
	be.PutUint32(h[36:], 1)
	be.PutUint64(h[40:], 1<<16)
	be.PutUint32(h[96:], 4)
	be.PutUint32(h[100:], 112)
	if edit != nil {
		edit(h)
	}
	return h
}

const descriptor = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\nRW 131072 SPARSE \"disk.vmdk\"\n"

// vmdkHeader is a sparse extent of 64 MiB.
func vmdkHeader(text string, edit func(h []byte)) []byte {
	h := make([]byte, 64<<10)
	copy(h, "KDMV")
	le.PutUint32(h[4:], 3)
	le.PutUint32(h[8:], vmdkNewlines|vmdkCompressed|vmdkMarkers)
	le.PutUint64(h[12:], 131072)
	le.PutUint64(h[20:], 128)
	le.PutUint64(h[28:], 1)
	le.PutUint64(h[36:], 20)
	le.PutUint32(h[44:], 512)
	le.PutUint64(h[56:], 21)
	copy(h[73:], "\n \r\n")
	le.PutUint16(h[77:], 1)
	copy(h[512:], text)
	if edit != nil {
		edit(h)
	}
	return h
}

// vhdFile is a VHD of 4 MiB; edit sees its footer and dynamic header before their checksums are made.
func vhdFile(kind uint32, edit func(footer, header []byte)) []byte {
	f := make([]byte, 4<<20+512)
	footer, header := f[len(f)-512:], f[512:512+1024]
	copy(footer, vhdCookie)
	be.PutUint32(footer[12:], 0x10000)
	be.PutUint64(footer[16:], 512)
	be.PutUint64(footer[48:], 4<<20)
	be.PutUint32(footer[60:], kind)
	copy(header, "cxsparse")
	be.PutUint64(header[16:], 1536)
	be.PutUint32(header[28:], 2)
	be.PutUint32(header[32:], 2<<20)
	if edit != nil {
		edit(footer, header)
	}
	be.PutUint32(footer[64:], vhdChecksum(footer, 64))
	be.PutUint32(header[36:], vhdChecksum(header, 36))
	return f
}

type entry struct{ name, content string }

const ovfText = `<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="disk.vmdk" ovf:id="file1"/></References><DiskSection><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1"/></DiskSection></Envelope>`

func ovaFile(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.content)), Format: tar.FormatUSTAR}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag, h.Size, e.content = tar.TypeSymlink, 0, ""
			h.Linkname = "/etc/shadow"
		}
		if err := errors.Join(w.WriteHeader(h), writeAll(w, e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeAll(w *tar.Writer, s string) error {
	_, err := w.Write([]byte(s))
	return err
}

func accepted(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"raw":   make([]byte, 4096),
		"qcow2": qcow2Header(nil),
		"qcow2 dirty, ignored extensions": qcow2Header(func(h []byte) {
			h[79] = qcow2Dirty
			be.PutUint32(h[112:], 0x6803f857) // feature names
			be.PutUint32(h[116:], 5)
		}),
		"qcow2 zstd":   qcow2Header(func(h []byte) { h[79], h[104] = qcow2Compression, 1 }),
		"qcow2 v2":     qcow2Header(func(h []byte) { h[7] = 2; clear(h[72:112]) }),
		"vmdk":         vmdkHeader(descriptor, nil),
		"vhd fixed":    vhdFile(vhdFixed, nil),
		"vhd dynamic":  vhdFile(vhdDynamic, nil),
		"ova":          ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", "SHA1 (a.ovf)= " + hexOf(sha1.Sum([]byte(ovfText))) + "\r\n\nSHA256(./disk.vmdk)= " + hexOf(sha256.Sum256(vmdkHeader(descriptor, nil))) + "\n"}, entry{"disk.vmdk", string(vmdkHeader(descriptor, nil))}),
		"not a footer": append(make([]byte, 512), append([]byte("conectiX"), make([]byte, 504)...)...),
	}
}

func TestAccepted(t *testing.T) {
	for name, b := range accepted(t) {
		info, err := Inspect(bytes.NewReader(b), int64(len(b)), Limits{})
		if err != nil || !strings.HasPrefix(name, string(info.Format)) && name != "ova" && name != "not a footer" || info.OVA != (name == "ova") {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	info, err := Inspect(bytes.NewReader(accepted(t)["ova"]), int64(len(accepted(t)["ova"])), Limits{})
	if err != nil || info.Format != VMDK || info.VirtualBytes != 64<<20 || string(accepted(t)["ova"][info.Offset:info.Offset+4]) != "KDMV" {
		t.Errorf("ova: %+v, %v", info, err)
	}
}

// TestRefusals holds that each thing that an image must not have is refused by its name, with what to do.
func TestRefusals(t *testing.T) {
	qcow := func(edit func(h []byte)) []byte { return qcow2Header(edit) }
	vm := func(old, new string) []byte { return vmdkHeader(strings.Replace(descriptor, old, new, 1), nil) }
	disk := entry{"disk.vmdk", string(vmdkHeader(descriptor, nil))}
	with := func(old, new string) entry { return entry{"a.ovf", strings.Replace(ovfText, old, new, 1)} }
	for name, c := range map[string]struct {
		file   []byte
		reason string
	}{
		"empty":                      {nil, ReasonFormat},
		"half a sector":              {make([]byte, 700), ReasonFormat},
		"larger than the quota":      {make([]byte, 5<<20), ReasonTooLarge},
		"vhdx":                       {[]byte("vhdxfile" + strings.Repeat("\x00", 504)), ReasonFormat},
		"vdi":                        {append(append(make([]byte, 64), "\x7f\x10\xda\xbe"...), make([]byte, 512)...), ReasonFormat},
		"qcow version 1":             {qcow(func(h []byte) { h[7] = 1 }), ReasonFormat},
		"gzip":                       {[]byte("\x1f\x8b" + strings.Repeat("\x00", 510)), ReasonCompressed},
		"xz":                         {[]byte("\xfd7zXZ\x00" + strings.Repeat("\x00", 506)), ReasonCompressed},
		"luks":                       {[]byte("LUKS\xba\xbe" + strings.Repeat("\x00", 506)), ReasonEncrypted},
		"vmdk descriptor alone":      {[]byte(descriptor), ReasonSeveral},
		"qcow2 version 4":            {qcow(func(h []byte) { h[7] = 4 }), ReasonFeature},
		"qcow2 backing file":         {qcow(func(h []byte) { h[14], h[19] = 2, 11; copy(h[512:], "/etc/passwd") }), ReasonBacking},
		"qcow2 backing file v2":      {qcow(func(h []byte) { h[7] = 2; h[14], h[19] = 2, 11 }), ReasonBacking},
		"qcow2 backing without name": {qcow(func(h []byte) { h[8] = 0x80 }), ReasonBacking},
		"qcow2 data file bit":        {qcow(func(h []byte) { h[79] = qcow2DataFile }), ReasonDataFile},
		"qcow2 data file name":       {qcow(func(h []byte) { be.PutUint32(h[112:], qcow2ExtDataFile); h[119] = 4; copy(h[120:], "/dev") }), ReasonDataFile},
		"qcow2 name behind another":  {qcow(func(h []byte) { h[112], h[119] = 1, 3; be.PutUint32(h[128:], qcow2ExtDataFile) }), ReasonDataFile},
		"qcow2 AES":                  {qcow(func(h []byte) { h[35] = 1 }), ReasonEncrypted},
		"qcow2 LUKS header":          {qcow(func(h []byte) { be.PutUint32(h[112:], qcow2ExtEncryption) }), ReasonEncrypted},
		"qcow2 corrupt":              {qcow(func(h []byte) { h[79] = qcow2Corrupt }), ReasonDamaged},
		"qcow2 extended L2":          {qcow(func(h []byte) { h[79] = qcow2ExtendedL2 }), ReasonFeature},
		"qcow2 unknown bit":          {qcow(func(h []byte) { h[72] = 0x80 }), ReasonFeature},
		"qcow2 compression 2":        {qcow(func(h []byte) { h[79], h[104] = qcow2Compression, 2 }), ReasonCompression},
		"qcow2 clusters":             {qcow(func(h []byte) { h[23] = 63 }), ReasonDamaged},
		"qcow2 size":                 {qcow(func(h []byte) { h[24] = 0xff }), ReasonTooLarge},
		"qcow2 no size":              {qcow(func(h []byte) { clear(h[24:32]) }), ReasonDamaged},
		"qcow2 small L1":             {qcow(func(h []byte) { clear(h[36:40]) }), ReasonDamaged},
		"qcow2 L1 beyond":            {qcow(func(h []byte) { h[40] = 0x7f }), ReasonDamaged},
		"qcow2 header length":        {qcow(func(h []byte) { h[100] = 0xff }), ReasonDamaged},
		"qcow2 extension length":     {qcow(func(h []byte) { h[112], h[116] = 1, 0xff }), ReasonDamaged},
		"qcow2 cut off":              {qcow(nil)[:60], ReasonDamaged},
		"vmdk parent":                {vm("ffffffff", "12345678"), ReasonBacking},
		"vmdk parent hint":           {vm("version=1", "parentFileNameHint=\"base.vmdk\""), ReasonBacking},
		"vmdk two extents":           {vm("RW", "RW 1 SPARSE \"b.vmdk\"\nRW"), ReasonSeveral},
		"vmdk flat extent":           {vm("SPARSE", "FLAT"), ReasonSeveral},
		"vmdk other type":            {vm("streamOptimized", "monolithicFlat"), ReasonFormat},
		"vmdk encrypted":             {vm("version=1", "encryption.keySafe = \"x\""), ReasonEncrypted},
		"vmdk no descriptor":         {vmdkHeader(descriptor, func(h []byte) { clear(h[28:36]) }), ReasonSeveral},
		"vmdk flags":                 {vmdkHeader(descriptor, func(h []byte) { h[11] = 0x80 }), ReasonFeature},
		"vmdk version":               {vmdkHeader(descriptor, func(h []byte) { h[4] = 9 }), ReasonFeature},
		"vmdk grain":                 {vmdkHeader(descriptor, func(h []byte) { h[20] = 0x81 }), ReasonDamaged},
		"vmdk size":                  {vmdkHeader(descriptor, func(h []byte) { h[19] = 0xff }), ReasonTooLarge},
		"vmdk algorithm":             {vmdkHeader(descriptor, func(h []byte) { h[77] = 7 }), ReasonCompression},
		"vmdk as text":               {vmdkHeader(descriptor, func(h []byte) { copy(h[73:], "\n \n\n") }), ReasonDamaged},
		"vmdk directory":             {vmdkHeader(descriptor, func(h []byte) { h[62] = 1 }), ReasonDamaged},
		"vmdk no footer":             {vmdkHeader(descriptor, func(h []byte) { le.PutUint64(h[56:], vmdkAtEnd) }), ReasonDamaged},
		"vhd differencing":           {vhdFile(vhdDifferencing, nil), ReasonBacking},
		"vhd type":                   {vhdFile(9, nil), ReasonFeature},
		"vhd version":                {vhdFile(vhdFixed, func(f, _ []byte) { f[13] = 2 }), ReasonFeature},
		"vhd size":                   {vhdFile(vhdDynamic, func(f, _ []byte) { f[48] = 0x7f }), ReasonTooLarge},
		"vhd fixed, cut off":         {vhdFile(vhdFixed, func(f, _ []byte) { f[54] = 2 })[512:], ReasonDamaged},
		"vhd block":                  {vhdFile(vhdDynamic, func(_, h []byte) { h[32] = 1 }), ReasonDamaged},
		"vhd table":                  {vhdFile(vhdDynamic, func(_, h []byte) { h[31] = 1 }), ReasonDamaged},
		"vhd header":                 {vhdFile(vhdDynamic, func(f, _ []byte) { f[16] = 1 }), ReasonDamaged},
		"vhd checksum":               {func() []byte { f := vhdFile(vhdFixed, nil); f[len(f)-1] = 1; return f }(), ReasonDamaged},
		"vhd without its end":        {append([]byte(vhdCookie), make([]byte, 1016)...), ReasonDamaged},
		"ova two disks":              {ovaFile(t, entry{"a.ovf", ovfText}, disk, entry{"b.vmdk", "x"}), ReasonSeveral},
		"ova two disks described":    {ovaFile(t, with("<Disk ", "<Disk/><Disk "), disk), ReasonSeveral},
		"ova parent":                 {ovaFile(t, with("<Disk ", "<Disk ovf:parentRef=\"x\" "), disk), ReasonBacking},
		"ova gzip":                   {ovaFile(t, with("<File ", "<File ovf:compression=\"gzip\" "), disk), ReasonCompression},
		"ova split":                  {ovaFile(t, with("<File ", "<File ovf:chunkSize=\"1\" "), disk), ReasonCompression},
		"ova without description":    {ovaFile(t, disk), ReasonFormat},
		"ova without disk":           {ovaFile(t, entry{"a.ovf", ovfText}), ReasonFormat},
		"ova link":                   {ovaFile(t, entry{"a.ovf/", ""}), ReasonDamaged},
		"ova other disk":             {ovaFile(t, entry{"a.ovf", ovfText}, entry{"disk.vmdk", "QFI\xfb"}), ReasonFormat},
		"ova disk with a parent":     {ovaFile(t, entry{"a.ovf", ovfText}, entry{"disk.vmdk", string(vm("ffffffff", "1"))}), ReasonBacking},
		"ova no XML":                 {ovaFile(t, entry{"a.ovf", "<<<"}, disk), ReasonDamaged},
		"ova manifest of nonsense":   {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", "hello"}, disk), ReasonDamaged},
		"ova manifest of a stranger": {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", "SHA1(../x)= " + strings.Repeat("0", 40)}, disk), ReasonDamaged},
		"ova manifest short digest":  {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", "SHA256(disk.vmdk)= 00"}, disk), ReasonDamaged},
		"ova manifest names twice":   {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", strings.Repeat("SHA1(a.ovf)= "+strings.Repeat("0", 40)+"\n", 2)}, disk), ReasonDamaged},
		"ova manifest unknown sums":  {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", "SHA3(a.ovf)= 00"}, disk), ReasonFeature},
		"ova manifest too long":      {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", strings.Repeat("\n", ovfManifestMax+1)}, disk), ReasonDamaged},
		"ova two manifests":          {ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", ""}, entry{"b.mf", ""}, disk), ReasonSeveral},
		"ova one name twice":         {ovaFile(t, entry{"a.ovf", ovfText}, entry{"x", ""}, entry{"./x", ""}, disk), ReasonSeveral},
		"ova cut off":                {ovaFile(t, entry{"a.ovf", ovfText}, disk)[:8000], ReasonDamaged},
	} {
		limits := Limits{}
		if name == "larger than the quota" {
			limits.MaxVirtualBytes = 4 << 20
		}
		var refusal *Refusal
		info, err := Inspect(bytes.NewReader(c.file), int64(len(c.file)), limits)
		if !errors.As(err, &refusal) || refusal.Reason != c.reason || refusal.Fix == "" {
			t.Errorf("%s: %+v, %v; want %s", name, info, err, c.reason)
		}
	}
}

func hexOf[T [20]byte | [32]byte | [64]byte](sum T) string { return fmt.Sprintf("%x", sum) }

// TestVerify holds that each byte that an appliance's manifest vouches for is looked at, by each algorithm.
func TestVerify(t *testing.T) {
	disk := string(vmdkHeader(descriptor, nil))
	for name, manifest := range map[string]string{
		"SHA1": hexOf(sha1.Sum([]byte(disk))), "SHA256": strings.ToUpper(hexOf(sha256.Sum256([]byte(disk)))), "SHA512": hexOf(sha512.Sum512([]byte(disk))),
	} {
		b := ovaFile(t, entry{"a.ovf", ovfText}, entry{"a.mf", name + "(disk.vmdk)= " + manifest}, entry{"disk.vmdk", disk})
		info, err := Inspect(bytes.NewReader(b), int64(len(b)), Limits{})
		if err != nil || len(info.Digests) != 1 {
			t.Fatalf("%s: %+v, %v", name, info, err)
		}
		if err := info.Verify(t.Context(), bytes.NewReader(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b[info.Offset+info.Bytes-1] ^= 1
		var refusal *Refusal
		if err := info.Verify(t.Context(), bytes.NewReader(b)); !errors.As(err, &refusal) || refusal.Reason != ReasonDamaged || !strings.Contains(err.Error(), "disk.vmdk") {
			t.Errorf("%s, one bit changed: %v", name, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := info.Verify(ended, bytes.NewReader(b)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, interrupted: %v", name, err)
		}
	}
}

func TestRefusalNames(t *testing.T) {
	b := qcow2Header(func(h []byte) { h[14], h[19] = 2, 11; copy(h[512:], "/etc/passwd") })
	_, err := Inspect(bytes.NewReader(b), int64(len(b)), Limits{})
	want := `qcow2 image refused: backing file ("/etc/passwd"): make one file without references: qemu-img convert -O qcow2 IN OUT`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestQemuImg holds that what qemu-img makes is recognised, and its dangerous forms are refused.
func TestQemuImg(t *testing.T) {
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	dir := t.TempDir()
	for arguments, want := range map[string]string{
		"-f qcow2 IMAGE 1G":                             "qcow2",
		"-f qcow2 -o compat=0.10 IMAGE 1G":              "qcow2",
		"-f qcow2 -o compression_type=zstd IMAGE 1G":    "qcow2",
		"-f vmdk -o subformat=streamOptimized IMAGE 1G": "vmdk",
		"-f vmdk IMAGE 1G":                              "vmdk",
		"-f vpc IMAGE 1G":                               "vhd",
		"-f vpc -o subformat=fixed IMAGE 8M":            "vhd",
		"-f raw IMAGE 8M":                               "raw",
		"-f qcow2 -b base -F raw IMAGE 1G":              ReasonBacking,
		"-f qcow2 -o data_file=data IMAGE 1G":           ReasonDataFile,
		"-f qcow2 -o extended_l2=on IMAGE 1G":           ReasonFeature,
		"-f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 IMAGE 8M": ReasonEncrypted,
		"-f vmdk -o subformat=monolithicFlat IMAGE 8M":                                                                   ReasonSeveral,
		"-f vhdx IMAGE 8M":      ReasonFormat,
		"-f vdi IMAGE 8M":       ReasonFormat,
		"-f qcow IMAGE 8M":      ReasonFormat,
		"-f qed IMAGE 8M":       ReasonFormat,
		"-f parallels IMAGE 8M": ReasonFormat,
		"-f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 IMAGE 8M": ReasonEncrypted,
	} {
		name := filepath.Join(dir, "image")
		os.Remove(name)
		os.WriteFile(filepath.Join(dir, "base"), make([]byte, 1<<20), 0o600)
		cmd := exec.Command(program, append([]string{"create", "-q"}, strings.Fields(strings.ReplaceAll(arguments, "IMAGE", "image"))...)...)
		cmd.Dir = dir
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Logf("this qemu-img cannot do %s: %s", arguments, b)
			continue
		}
		got := inspectFile(t, name)
		if got != want {
			t.Errorf("%s: %s, want %s", arguments, got, want)
		}
	}
}

// inspectFile is the format of a file, or the reason of its refusal.
func inspectFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := Inspect(bytes.NewReader(b), int64(len(b)), Limits{})
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(info.Format)
}

// FuzzInspect holds that no bytes panic, and that what is accepted is within its bounds.
func FuzzInspect(f *testing.F) {
	for _, b := range accepted(f) {
		if len(b) < 1<<20 {
			f.Add(b)
		}
	}
	limits := Limits{MaxVirtualBytes: 1 << 32}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Inspect(bytes.NewReader(b), int64(len(b)), limits)
		var refusal *Refusal
		switch {
		case err == nil && (info.VirtualBytes == 0 || info.VirtualBytes > limits.MaxVirtualBytes || info.Offset < 0 || info.Bytes > int64(len(b))-info.Offset):
			t.Errorf("accepted %+v", info)
		case err != nil && (!errors.As(err, &refusal) || refusal.Fix == ""):
			t.Errorf("error that is no refusal: %v", err)
		}
	})
}
