package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nimbrel/nimbrel/image/internal/gpt"
)

// Debian is what a Debian cloud image is made of.
const (
	debianSuite = "bookworm"
	// DefaultDebianBytes leaves half of the root file system free. cloud-init grows it on the first boot.
	DefaultDebianBytes int64 = 2 << 30
)

// debianPackages are those of Debian's genericcloud image that matter for booting, network, login and cloud-init.
// python3-cffi-backend is there because debootstrap does not know packages that others provide.
var debianPackages = []string{
	"linux-image-cloud-amd64", "cloud-init", "cloud-guest-utils", "openssh-server", "systemd-sysv", "systemd-resolved", "dbus", "udev", "netplan.io",
	"isc-dhcp-client", "initramfs-tools", "netbase", "iproute2", "sudo", "ca-certificates", "locales", "e2fsprogs", "fdisk", "iputils-ping", "curl",
	"python3-cffi-backend",
}

// debianKernelArgs are those of Debian's cloud images, with both consoles; the last one named is where messages go.
const debianKernelArgs = "root=PARTUUID=" + rootGUIDLower + " ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"

const rootGUIDLower = "6e696d62-7265-4c00-8000-000000000001"

// debianFiles configure the tree as the cloud image is. The list of data sources is Debian's own, so that cloud-init has to
// find out by itself where it runs.
var debianFiles = map[string]string{
	"etc/fstab": "PARTUUID=" + rootGUIDLower + " / ext4 rw,discard,errors=remount-ro,x-systemd.device-timeout=600 0 1\n" +
		// Debian names no device-timeout and no nofail. An emulated guest's udev may need longer than systemd waits by itself, and
		// nothing of a boot needs the ESP mounted.
		"PARTUUID=" + strings.ToLower(espGUID) + " /boot/efi vfat defaults,nofail 0 0\n",
	"etc/cloud/cloud.cfg.d/90_dpkg.cfg": "datasource_list: [ NoCloud, ConfigDrive, OpenNebula, DigitalOcean, Azure, AltCloud, OVF, MAAS, GCE, OpenStack, " +
		"CloudSigma, SmartOS, Bigstep, Scaleway, AliYun, Ec2, CloudStack, Hetzner, IBMCloud, Oracle, Exoscale, RbxCloud, UpCloud, VMware, Vultr, LXD, NWCS, None ]\n",
	"etc/cloud/cloud.cfg.d/01_debian_cloud.cfg": "apt_preserve_sources_list: true\nmanage_etc_hosts: true\n",
	"etc/machine-id": "uninitialized\n",
	// Without it cloud-init asks for a locale that the image does not have.
	"etc/default/locale": "LANG=C.UTF-8\n",
	"etc/hostname":       "localhost\n",
	"boot/grub/grub.cfg": `set timeout=0
set default=0
if [ "$grub_platform" = "pc" ]; then
  serial --unit=0 --speed=115200
  terminal_input console serial
  terminal_output console serial
fi
menuentry "Debian GNU/Linux" {
  if [ "$grub_platform" = "pc" ]; then
    linux16 /vmlinuz ` + debianKernelArgs + `
    initrd16 /initrd.img
  else
    linux /vmlinuz ` + debianKernelArgs + `
    initrd /initrd.img
  fi
}
`,
}

// debianLeftovers are what debootstrap leaves in the tree and an image does not have: a second instance of it would share
// them.
var debianLeftovers = []string{"var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "etc/ssh/ssh_host_*", "var/log/bootstrap.log", "debootstrap"}

// DebianOptions say where a Debian image is built and from what.
type DebianOptions struct {
	// OutDir receives the image. Required.
	OutDir string
	// PackageCache keeps downloaded packages. Default: debian below CacheDir().
	PackageCache string
	// Mirror that debootstrap downloads from, and that the image's apt will use. Default: debootstrap's own.
	Mirror string
	// VirtualBytes is the disk's size. Default: DefaultDebianBytes.
	VirtualBytes int64
	// Progress, if set, is told each step as it begins.
	Progress func(step string)
}

func (o *DebianOptions) complete() error {
	if o.OutDir == "" {
		return errors.New("no output directory given")
	}
	if o.PackageCache == "" {
		o.PackageCache = filepath.Join(CacheDir(), "debian")
	}
	for _, dir := range []*string{&o.OutDir, &o.PackageCache} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
		if err := os.MkdirAll(abs, 0o755); err != nil {
			return err
		}
	}
	if o.VirtualBytes == 0 {
		o.VirtualBytes = DefaultDebianBytes
	}
	if o.VirtualBytes%mib != 0 || o.VirtualBytes < 1<<30 || o.VirtualBytes > MaxVirtualBytes {
		return fmt.Errorf("disk size %d is not a multiple of 1 MiB from 1 GiB to %d MiB", o.VirtualBytes, MaxVirtualBytes/mib)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// BuildDebian makes a raw disk like Debian's genericcloud image, or finds it made: Debian's packages by debootstrap, the
// same partitions, GRUB for both firmwares, cloud-init. It needs root, for debootstrap runs the packages' scripts in the
// tree, and neither loop device nor mount of its own. Packages come from the mirror as it is on the day of the build; the
// image stays what it is until OutDir is removed.
func BuildDebian(ctx context.Context, opts DebianOptions) (disk string, err error) {
	if err := opts.complete(); err != nil {
		return "", fmt.Errorf("build Debian image: %w", err)
	}
	unlock, err := lockDir(ctx, opts.OutDir)
	if err != nil {
		return "", fmt.Errorf("build Debian image: %w", err)
	}
	defer unlock()
	if disk, err = buildDebian(ctx, opts); err != nil {
		return "", fmt.Errorf("build Debian image: %w", err)
	}
	return disk, nil
}

// buildDebian runs with OutDir locked.
func buildDebian(ctx context.Context, opts DebianOptions) (string, error) {
	tools, err := findTools()
	if err != nil {
		return "", err
	}
	boot, err := readGrub(tools)
	if err != nil {
		return "", err
	}
	final := filepath.Join(opts.OutDir, debianKey(opts, boot)+".raw")
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := sweep(opts.OutDir); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(opts.OutDir, tempPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	opts.Progress("debootstrap")
	root := filepath.Join(work, "root")
	if err := debootstrap(ctx, opts, root); err != nil {
		return "", err
	}
	if err := configureDebian(root); err != nil {
		return "", err
	}
	opts.Progress("disk")
	d := disk{tools: tools, work: work, path: filepath.Join(work, "disk.raw"), bytes: opts.VirtualBytes, grub: boot}
	fill := func(ctx context.Context, p gpt.Partition) error { return d.makeExt4(ctx, p, root) }
	if err := d.assemble(ctx, fill); err != nil {
		return "", fmt.Errorf("make disk: %w", err)
	}
	return final, os.Rename(d.path, final)
}

// debianKey names an image by what decides its content, apart from the mirror's state.
func debianKey(opts DebianOptions, boot *grub) string {
	text := fmt.Sprint(opts.Mirror, debianSuite, debianPackages, debianFiles, debianLeftovers, opts.VirtualBytes, boot.digest(), mke2fsConfig)
	return "debian-" + hashBytes([]byte(text))[:16]
}

func debootstrap(ctx context.Context, opts DebianOptions, root string) error {
	program, err := findProgram("debootstrap")
	if err != nil {
		return &MissingToolsError{Missing: []string{"debootstrap"}, Packages: []string{"debootstrap"}}
	}
	args := []string{"--variant=minbase", "--arch=amd64", "--cache-dir=" + opts.PackageCache, "--include=" + strings.Join(debianPackages, ","), debianSuite, root}
	if opts.Mirror != "" {
		args = append(args, opts.Mirror)
	}
	if _, err = run(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, program, args...); err != nil {
		return fmt.Errorf("%w (see debootstrap's messages with: debootstrap --variant=minbase %s /tmp/try %s)", err, debianSuite, opts.Mirror)
	}
	return nil
}

// configureDebian makes an image of an installed tree: boot loader, consoles, data sources, and nothing of the machine
// that built it.
func configureDebian(root string) error {
	for _, pattern := range debianLeftovers {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	for name, text := range debianFiles {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "boot/efi"), 0o755); err != nil {
		return err
	}
	return useStubResolver(root)
}

// useStubResolver names systemd-resolved in resolv.conf: debootstrap copied the building machine's file.
func useStubResolver(root string) error {
	path := filepath.Join(root, "etc/resolv.conf")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink("../run/systemd/resolve/stub-resolv.conf", path)
}
