package pack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nimbrel/nimbrel/image/internal/gpt"
)

// rootLabel is the root file system's label, by which the kernel command line names it.
const rootLabel = "nimbrel-root"

// Sectors of Debian's cloud images: 3 MiB for GRUB's core, 124 MiB for the ESP, the rest for the root.
const (
	biosFirst = 2048
	espFirst  = 8192
	rootFirst = 262144
)

// Fixed ids: equal inputs give equal disks. Nothing looks a disk up by them, so copies may share them.
const (
	diskGUID = "6E696D62-7265-4C00-8000-000000000000"
	biosGUID = "6E696D62-7265-4C00-8000-00000000000E"
	espGUID  = "6E696D62-7265-4C00-8000-00000000000F"
	rootGUID = "6E696D62-7265-4C00-8000-000000000001"
	rootUUID = "6e696d62-7265-4c00-8000-0000000000ff"
)

// mke2fsConfig replaces the machine's own, so that every distribution's mke2fs makes a file system that Debian 12's
// kernel and GRUB read.
const mke2fsConfig = `[defaults]
	base_features = sparse_super,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
`

// disk is the raw image being made at path. Its files are written in place, at their offsets in the sparse file.
type disk struct {
	tools      toolset
	work, path string
	bytes      int64
	grub       *grub
}

func (d *disk) make(ctx context.Context, root tree) error {
	return d.assemble(ctx, func(ctx context.Context, p gpt.Partition) error { return d.writeRoot(ctx, p, root) })
}

// assemble lays the disk out; fillRoot makes the root file system.
func (d *disk) assemble(ctx context.Context, fillRoot func(context.Context, gpt.Partition) error) error {
	file, err := os.OpenFile(d.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(d.bytes); err != nil {
		return err
	}
	table := d.table()
	// The file system tools go first: they would otherwise be free to overwrite what follows.
	if err := fillRoot(ctx, table.Partitions[0]); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := d.writeESP(ctx, table.Partitions[14]); err != nil {
		return fmt.Errorf("EFI system partition: %w", err)
	}
	boot, core, err := d.grub.biosCore(ctx, d.work, biosFirst)
	if err != nil {
		return err
	}
	if room := table.Partitions[13].Sectors() * gpt.SectorBytes; uint64(len(core)) > room {
		return fmt.Errorf("GRUB core of %d bytes does not fit in %d", len(core), room)
	}
	if _, err := file.WriteAt(boot, 0); err != nil {
		return err
	}
	if _, err := file.WriteAt(core, biosFirst*gpt.SectorBytes); err != nil {
		return err
	}
	return table.Write(file)
}

func (d *disk) table() *gpt.Table {
	t := gpt.New(gpt.MustGUID(diskGUID), uint64(d.bytes/gpt.SectorBytes))
	end := (t.LastUsable() + 1) / 2048 * 2048
	t.Partitions[0] = gpt.Partition{Type: gpt.TypeRootAMD64, ID: gpt.MustGUID(rootGUID), First: rootFirst, Last: end - 1, Name: "root"}
	t.Partitions[13] = gpt.Partition{Type: gpt.TypeBIOSBoot, ID: gpt.MustGUID(biosGUID), First: biosFirst, Last: espFirst - 1, Name: "bios"}
	t.Partitions[14] = gpt.Partition{Type: gpt.TypeESP, ID: gpt.MustGUID(espGUID), First: espFirst, Last: rootFirst - 1, Name: "esp"}
	return t
}

// writeRoot makes the ext4 file system from a staging directory and then corrects owners, modes and times in it.
func (d *disk) writeRoot(ctx context.Context, p gpt.Partition, root tree) error {
	stage := filepath.Join(d.work, "stage")
	script := filepath.Join(d.work, "debugfs")
	defer func() {
		os.RemoveAll(stage)
		os.Remove(script)
	}()
	if err := os.Mkdir(stage, 0o755); err != nil {
		return err
	}
	if err := root.stage(stage); err != nil {
		return err
	}
	if err := d.makeExt4(ctx, p, stage); err != nil {
		return err
	}
	fix := tree{{path: "", mode: typeDir | 0o755}, {path: "lost+found", mode: typeDir | 0o700}}
	if err := os.WriteFile(script, append(fix.debugfsScript(), root.debugfsScript()...), 0o644); err != nil {
		return err
	}
	_, err := run(ctx, "", nil, d.tools["debugfs"], "-w", "-f", script, fmt.Sprintf("%s?offset=%d", d.path, p.First*gpt.SectorBytes))
	return err
}

// makeExt4 makes a file system in the partition that holds what is below from, with its owners and modes.
func (d *disk) makeExt4(ctx context.Context, p gpt.Partition, from string) error {
	config := filepath.Join(d.work, "mke2fs.conf")
	defer os.Remove(config)
	if err := os.WriteFile(config, []byte(mke2fsConfig), 0o644); err != nil {
		return err
	}
	// The size must be given: otherwise the file system runs over the backup table at the disk's end.
	_, err := run(ctx, "", []string{"MKE2FS_CONFIG=" + config}, d.tools["mke2fs"],
		"-q", "-F", "-t", "ext4", "-L", rootLabel, "-U", rootUUID, "-J", "size=8", "-m", "1", "-d", from,
		"-E", fmt.Sprintf("offset=%d,root_owner=0:0,hash_seed=%s,lazy_itable_init=1,lazy_journal_init=1", p.First*gpt.SectorBytes, rootUUID),
		d.path, fmt.Sprintf("%dK", p.Sectors()*gpt.SectorBytes/1024))
	return err
}

// writeESP makes the FAT file system with the EFI boot loader under the name that firmware tries without any setup.
func (d *disk) writeESP(ctx context.Context, p gpt.Partition) error {
	loader, err := d.grub.efiLoader(ctx, d.work)
	if err != nil {
		return err
	}
	defer os.Remove(loader)
	if err := os.Chtimes(loader, buildTime, buildTime); err != nil {
		return err
	}
	at := fmt.Sprintf("%s@@%d", d.path, p.First*gpt.SectorBytes)
	steps := [][]string{
		{"mformat", "-i", at, "-T", fmt.Sprint(p.Sectors()), "-h", "64", "-s", "32", "-N", "4e424c01", "-v", "ESP", "::"},
		{"mmd", "-i", at, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-m", "-i", at, loader, "::/EFI/BOOT/BOOTX64.EFI"},
	}
	for _, step := range steps {
		if _, err := run(ctx, "", []string{"MTOOLS_SKIP_CHECK=1"}, d.tools[step[0]], step[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// toQCOW2 replaces the raw file. Both formats are named: guessing one from content is how a guest escapes.
func (d *disk) toQCOW2(ctx context.Context, to string) error {
	if _, err := run(ctx, "", nil, d.tools["qemu-img"], "convert", "-f", FormatRaw, "-O", FormatQCOW2, d.path, to); err != nil {
		return err
	}
	return os.Remove(d.path)
}
