// Package pack builds the bootable guest image.
//
// Build makes one disk laid out as Debian's and Ubuntu's cloud images are (GPT: 14 = BIOS boot, 15 = ESP, 1 = ext4 root;
// GRUB for both firmwares) and, from the same inputs, a kernel and an initramfs for booting without a disk. It needs no
// privileges: no loop device, mount, chroot or fakeroot. The parts are Debian's cloud kernel (downloaded with apt-get as
// a package, verified against apt's own index, never installed), Debian's static busybox, GRUB's modules, and the guest
// program of this module (image/guest/init).
//
// Invariants: an output directory is named by the hash of everything that went into it and appears by one rename, so it
// is complete or absent, and a second Build of the same inputs only looks it up. Concurrent builds into one OutDir
// wait for each other; what an interrupted build left is removed by the next one.
//
// Deliberately absent: installing packages (a missing tool is one error that names the packages to install), other
// architectures than amd64, the uncompressed vmlinux (measured: no faster to boot on a quiet machine), boot loader
// binaries in the repository.
//
// Start reading at Build.
package pack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	// FormatRaw is a sparse file of VirtualBytes; FormatQCOW2 is made from it by qemu-img.
	FormatRaw   = "raw"
	FormatQCOW2 = "qcow2"

	// DefaultVirtualBytes is the size of the disk as a guest sees it before an instance's volume, which is at least 1 GiB,
	// makes it larger. Hashing and importing cost time by size, holes included.
	DefaultVirtualBytes int64 = 512 << 20
	// MinVirtualBytes leaves 128 MiB for the root file system behind the boot partitions.
	MinVirtualBytes int64 = 256 << 20
	// MaxVirtualBytes bounds what a build may lay out; instances grow the disk afterwards without this bound.
	MaxVirtualBytes int64 = 64 << 30
)

// Options says what to build and where. OutDir is required; the zero value of everything else has a default.
type Options struct {
	// OutDir receives one directory per distinct image.
	OutDir string
	// CacheDir keeps the unpacked kernel by the hash of its package. Default: CacheDir().
	CacheDir string
	// GoInit is a prebuilt static guest program (go build of image/guest/init for linux/amd64). Empty: build it, which
	// needs Go and this module's source.
	GoInit string
	// ModuleDir is where the module's source lies, used only to build the guest program. Default: the module that holds
	// the working directory.
	ModuleDir string
	// KernelDeb is an already downloaded linux-image-*-cloud-amd64 package. Empty: the one apt offers, else a cached one.
	KernelDeb string
	// Format of the disk: FormatRaw (default) or FormatQCOW2.
	Format string
	// VirtualBytes is the disk's size, a multiple of 1 MiB between MinVirtualBytes and MaxVirtualBytes.
	VirtualBytes int64
	// Keep bounds how many images OutDir holds: after a build the ones used longest ago are removed. 0 keeps all, as an
	// image may be the base of a running machine's disk.
	Keep int
	// Offline forbids the download: the kernel comes from KernelDeb or CacheDir, or the build fails.
	Offline bool
	// Progress, if set, is told each step as it begins. It is called from Build's goroutine.
	Progress func(step string)
}

// Result names what a build made. All paths are absolute.
type Result struct {
	Disk         string `json:"disk"`
	DiskFormat   string `json:"diskFormat"`
	VirtualBytes int64  `json:"virtualBytes"`
	// SHA256 is the hexadecimal hash of the disk file as stored.
	SHA256 string `json:"sha256"`
	// Kernel (bzImage) and Initrd (gzipped cpio) boot the same guest without a disk.
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
	// KernelRelease is the kernel's version as uname prints it.
	KernelRelease string `json:"kernelRelease"`
	// Key is the hash of all inputs, and the name of the directory.
	Key string `json:"key"`
	// Cached says that nothing had to be built.
	Cached bool `json:"-"`
}

// CacheDir is the default cache directory: $NIMBREL_IMAGE_CACHE, else nimbrel/image in the user's cache directory, else
// (no home directory) in the system's directory for temporary files.
func CacheDir() string {
	if dir := os.Getenv("NIMBREL_IMAGE_CACHE"); dir != "" {
		return dir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "nimbrel", "image")
}

// Build makes the image, or finds it made. It takes seconds when the kernel is cached, most of them for the
// hash and the Go compiler. Cancelling ctx ends the
// running step and leaves no partial output under a final name.
func Build(ctx context.Context, opts Options) (Result, error) {
	if err := opts.complete(); err != nil {
		return Result{}, fmt.Errorf("build image: %w", err)
	}
	for _, dir := range []string{opts.OutDir, opts.CacheDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Result{}, fmt.Errorf("build image: %w", err)
		}
	}
	unlock, err := lockDir(ctx, opts.OutDir)
	if err != nil {
		return Result{}, fmt.Errorf("build image: %w", err)
	}
	defer unlock()
	result, err := build(ctx, opts)
	if err != nil {
		return Result{}, fmt.Errorf("build image: %w", err)
	}
	return result, nil
}

// complete fills defaults and validates.
func (o *Options) complete() error {
	if o.OutDir == "" {
		return errors.New("no output directory given")
	}
	if o.CacheDir == "" {
		o.CacheDir = CacheDir()
	}
	for _, dir := range []*string{&o.OutDir, &o.CacheDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if o.OutDir == o.CacheDir {
		return fmt.Errorf("output and cache directory are the same, %s: choose two", o.OutDir)
	}
	if o.Format == "" {
		o.Format = FormatRaw
	}
	if o.Format != FormatRaw && o.Format != FormatQCOW2 {
		return fmt.Errorf("disk format %q is not known: choose raw or qcow2", o.Format)
	}
	if o.VirtualBytes == 0 {
		o.VirtualBytes = DefaultVirtualBytes
	}
	if o.VirtualBytes%mib != 0 || o.VirtualBytes < MinVirtualBytes || o.VirtualBytes > MaxVirtualBytes {
		return fmt.Errorf("disk size %d is not a multiple of 1 MiB between %d and %d MiB", o.VirtualBytes, MinVirtualBytes/mib, MaxVirtualBytes/mib)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return nil
}

// build runs with OutDir locked.
func build(ctx context.Context, opts Options) (Result, error) {
	tools, err := findTools()
	if err != nil {
		return Result{}, err
	}
	in, err := gather(ctx, opts, tools)
	if err != nil {
		return Result{}, err
	}
	final := filepath.Join(opts.OutDir, in.key())
	if result, err := load(final); err == nil {
		result.Cached = true
		now := time.Now()
		return result, os.Chtimes(final, now, now) // for Keep
	}
	if err := sweep(opts.OutDir); err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp(opts.OutDir, tempPrefix)
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return Result{}, err
	}
	result, err := in.assemble(ctx, opts, tools, work)
	if err != nil {
		return Result{}, err
	}
	if result, err = publish(work, final, result); err != nil || opts.Keep == 0 {
		return result, err
	}
	return result, prune(opts.OutDir, opts.Keep)
}

// assemble makes every output file in work. The paths in its result are relative to work.
func (in *inputs) assemble(ctx context.Context, opts Options, tools toolset, work string) (Result, error) {
	opts.Progress("initramfs")
	initrd, err := in.initramfs()
	if err != nil {
		return Result{}, err
	}
	result := Result{
		Disk: "disk." + opts.Format, DiskFormat: opts.Format, VirtualBytes: opts.VirtualBytes,
		Kernel: "vmlinuz", Initrd: "initrd.img", KernelRelease: in.kernel.release, Key: in.key(),
	}
	for name, data := range map[string][]byte{result.Kernel: in.kernel.image, result.Initrd: initrd} {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
			return Result{}, err
		}
	}
	opts.Progress("disk")
	d := disk{tools: tools, work: work, path: filepath.Join(work, "disk.raw"), bytes: opts.VirtualBytes, grub: in.grub}
	if err := d.make(ctx, in.diskTree(initrd)); err != nil {
		return Result{}, fmt.Errorf("make disk: %w", err)
	}
	if opts.Format == FormatQCOW2 {
		opts.Progress("qcow2")
		if err := d.toQCOW2(ctx, filepath.Join(work, result.Disk)); err != nil {
			return Result{}, err
		}
	}
	opts.Progress("hash")
	result.SHA256, err = hashFile(filepath.Join(work, result.Disk))
	return result, err
}

// publish records the result and makes it visible in one rename.
func publish(work, final string, result Result) (Result, error) {
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return Result{}, err
	}
	if err := os.WriteFile(filepath.Join(work, resultName), append(text, '\n'), 0o644); err != nil {
		return Result{}, err
	}
	if err := syncTree(work); err != nil {
		return Result{}, err
	}
	if err := os.RemoveAll(final); err != nil { // a directory without a readable result
		return Result{}, err
	}
	if err := os.Rename(work, final); err != nil {
		return Result{}, err
	}
	return load(final)
}

// load reads a published result and makes its paths absolute.
func load(dir string) (Result, error) {
	text, err := os.ReadFile(filepath.Join(dir, resultName))
	if err != nil {
		return Result{}, err
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		return Result{}, fmt.Errorf("read result %s: %w", dir, err)
	}
	for _, path := range []*string{&r.Disk, &r.Kernel, &r.Initrd} {
		*path = filepath.Join(dir, *path)
		if info, err := os.Stat(*path); err != nil || info.Size() == 0 {
			return Result{}, fmt.Errorf("read result %s: %s is missing or empty", dir, filepath.Base(*path))
		}
	}
	return r, nil
}

// copyFile copies a regular file and syncs nothing: publish does.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}

// buildTime stamps every file of the image: the inputs decide the output, the clock does not.
var buildTime = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
