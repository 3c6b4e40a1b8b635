package pack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// kernelMeta depends on the package with the kernel itself, whose name carries the version.
	kernelMeta = "linux-image-cloud-amd64"
	// maxKernelBytes bounds what is read into memory from a package: real ones hold 14 MB.
	maxKernelBytes = 64 << 20
)

// ErrNoKernel says that no kernel package can be had: apt does not know it, or it may not be downloaded, and none is
// cached. The error's text names the fix.
var ErrNoKernel = errors.New("no kernel package")

// kernelModules are loaded by the guest, after whatever each depends on: virtio is modular in Debian's kernel, and the
// power button needs two more. ext4 and the serial ports are built in.
var kernelModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio-rng", "button", "evdev"}

// kernel is an unpacked kernel package.
type kernel struct {
	release string   // as uname -r prints it
	image   []byte   // bzImage
	modules []module // in an order in which they load
}

type module struct {
	name string // file name
	data []byte
}

// debPackage is one version of a package in apt's index.
type debPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// findKernel returns the unpacked kernel: of the given package file, else of the version apt offers, else of the cache.
func findKernel(ctx context.Context, opts Options) (*kernel, error) {
	if opts.KernelDeb != "" {
		sum, err := hashFile(opts.KernelDeb)
		if err != nil {
			return nil, err
		}
		return unpackOnce(ctx, opts, sum, func(string) (string, error) { return opts.KernelDeb, nil })
	}
	pkg, err := indexedKernel(ctx, opts.CacheDir)
	if err != nil {
		cached, cacheErr := newestCached(opts.CacheDir)
		if cacheErr != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoKernel, err)
		}
		opts.Progress("kernel from cache: " + err.Error())
		return readKernel(cached)
	}
	return unpackOnce(ctx, opts, pkg.SHA256, func(dir string) (string, error) {
		if opts.Offline {
			return "", fmt.Errorf("%w: %s is not in the cache %s and downloading is off", ErrNoKernel, pkg.Name, opts.CacheDir)
		}
		opts.Progress("download " + pkg.Name)
		return pkg.download(ctx, dir)
	})
}

// indexedKernel is kernelInIndex, which takes seconds, remembered until apt's lists change.
func indexedKernel(ctx context.Context, cacheDir string) (debPackage, error) {
	type memo struct {
		Lists   time.Time  `json:"lists"`
		Package debPackage `json:"package"`
	}
	path, lists := filepath.Join(cacheDir, "apt-index.json"), modTime("/var/lib/apt/lists")
	var known memo
	if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &known) == nil && !lists.IsZero() && known.Lists.Equal(lists) {
		return known.Package, nil
	}
	pkg, err := kernelInIndex(ctx)
	if err != nil {
		return debPackage{}, err
	}
	text, err := json.Marshal(memo{Lists: lists, Package: pkg})
	if err != nil {
		return debPackage{}, err
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid()) // another build may write the same
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return debPackage{}, err
	}
	return pkg, os.Rename(temp, path)
}

// kernelInIndex asks apt's index, which every Debian user may read, which kernel the meta package means today.
func kernelInIndex(ctx context.Context) (debPackage, error) {
	const fix = "run apt-get update as root (needs Debian's package lists), or give a downloaded package with --kernel-deb"
	aptCache, err := findProgram("apt-cache")
	if err != nil {
		return debPackage{}, fmt.Errorf("%w: this is no Debian system: give a %s package with --kernel-deb", err, kernelMeta)
	}
	meta, err := run(ctx, "", nil, aptCache, "show", "--no-all-versions", kernelMeta)
	if err != nil {
		return debPackage{}, fmt.Errorf("find package %s: %w: %s", kernelMeta, err, fix)
	}
	// "Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"
	name, _, _ := strings.Cut(field(meta, "Depends"), " ")
	name, _, _ = strings.Cut(name, ",")
	stanza, err := run(ctx, "", nil, aptCache, "show", "--no-all-versions", name)
	if err != nil {
		return debPackage{}, fmt.Errorf("find package %s: %w: %s", name, err, fix)
	}
	pkg := debPackage{Name: name, Version: field(stanza, "Version"), SHA256: field(stanza, "SHA256")}
	if pkg.Version == "" || len(pkg.SHA256) != 64 {
		return debPackage{}, fmt.Errorf("find package %s: apt knows no version with a SHA256: %s", name, fix)
	}
	return pkg, nil
}

// field returns the first value of a field of apt's output, "" when absent.
func field(stanza []byte, name string) string {
	for line := range strings.Lines(string(stanza)) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// download fetches the package into dir and verifies it.
func (p debPackage) download(ctx context.Context, dir string) (string, error) {
	aptGet, err := findProgram("apt-get")
	if err != nil {
		return "", err
	}
	// As root apt would switch to a user who cannot write to dir, and warn.
	_, err = run(ctx, dir, nil, aptGet, "-o", "APT::Sandbox::User=root", "download", p.Name+"="+p.Version)
	if err != nil {
		return "", fmt.Errorf("%w: download %s: %w: check the network, or run apt-get update as root when the version is gone", ErrNoKernel, p.Name, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("download %s: apt-get left %d packages", p.Name, len(files))
	}
	sum, err := hashFile(files[0])
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("download %s: SHA256 is %s, apt's index says %s", p.Name, sum, p.SHA256)
	}
	return files[0], nil
}

// unpackOnce returns the kernel cached under sum, or gets the package and unpacks what is needed of it.
func unpackOnce(ctx context.Context, opts Options, sum string, get func(dir string) (string, error)) (*kernel, error) {
	unlock, err := lockDir(ctx, opts.CacheDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	final := filepath.Join(opts.CacheDir, cachePrefix+sum)
	if k, err := readKernel(final); err == nil {
		return k, nil
	}
	if err := sweep(opts.CacheDir); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(opts.CacheDir, tempPrefix)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	deb, err := get(work)
	if err != nil {
		return nil, err
	}
	opts.Progress("unpack " + filepath.Base(deb))
	if err := unpack(ctx, deb, work); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	if err := errors.Join(syncTree(filepath.Join(work, "kernel")), os.RemoveAll(final)); err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(work, "kernel"), final); err != nil {
		return nil, err
	}
	return readKernel(final)
}

const (
	cachePrefix = "kernel-"
	orderName   = "modules.order" // one line: the release; then the modules' file names in loading order
	imageName   = "vmlinuz"
)

// newestCached is the directory of the kernel that was unpacked last.
func newestCached(cacheDir string) (string, error) {
	dirs, err := filepath.Glob(filepath.Join(cacheDir, cachePrefix+"*"))
	if err != nil || len(dirs) == 0 {
		return "", errors.New("no kernel in the cache")
	}
	return slices.MaxFunc(dirs, func(a, b string) int { return modTime(a).Compare(modTime(b)) }), nil
}

// unpack extracts the package into work and leaves work/kernel with only what the image needs.
func unpack(ctx context.Context, deb, work string) error {
	dpkgDeb, err := findProgram("dpkg-deb")
	if err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	if _, err := run(ctx, "", nil, dpkgDeb, "-x", deb, tree); err != nil {
		return err
	}
	images, _ := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return fmt.Errorf("package holds %d kernels, want 1: is it a linux-image-*-cloud-amd64?", len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	modules := filepath.Join(tree, "lib", "modules", release)
	if _, err := os.Stat(modules); err != nil { // since the merge of /usr
		modules = filepath.Join(tree, "usr", "lib", "modules", release)
	}
	order, err := loadOrder(modules)
	if err != nil {
		return err
	}
	out := filepath.Join(work, "kernel")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	lines := []string{release}
	for _, file := range order {
		lines = append(lines, path.Base(file))
		if err := copyFile(filepath.Join(modules, file), filepath.Join(out, path.Base(file))); err != nil {
			return err
		}
	}
	if err := copyFile(images[0], filepath.Join(out, imageName)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, orderName), []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// loadOrder resolves kernelModules and what they depend on. The package carries no modules.dep (depmod runs at
// installation), so the dependencies are read from the modules themselves.
func loadOrder(dir string) ([]string, error) {
	files := map[string]string{} // canonical module name to path below dir
	err := filepath.WalkDir(dir, func(p string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".ko") {
			rel, relErr := filepath.Rel(dir, p)
			files[moduleName(p)] = rel
			return relErr
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	var visit func(name string, depth int) error
	visit = func(name string, depth int) error {
		file, ok := files[moduleName(name)]
		if !ok || depth > 16 {
			return fmt.Errorf("find kernel module %s: not in the package", name)
		}
		if slices.Contains(order, file) {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		for _, dependency := range moduleDepends(data) {
			if err := visit(dependency, depth+1); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range kernelModules {
		if err := visit(name, 0); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is how the kernel writes a module's name: hyphens and underscores are the same.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

// readKernel loads an unpacked kernel from the cache.
func readKernel(dir string) (*kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, orderName))
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(string(text))
	if len(lines) < 2 {
		return nil, fmt.Errorf("read kernel %s: %s is damaged", dir, orderName)
	}
	k := &kernel{release: lines[0]}
	if k.image, err = readBounded(filepath.Join(dir, imageName)); err != nil {
		return nil, err
	}
	for _, name := range lines[1:] {
		data, err := readBounded(filepath.Join(dir, path.Base(name)))
		if err != nil {
			return nil, err
		}
		k.modules = append(k.modules, module{name: path.Base(name), data: data})
	}
	return k, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxKernelBytes {
		return nil, fmt.Errorf("read %s: %d bytes are more than %d", path, info.Size(), maxKernelBytes)
	}
	return os.ReadFile(path)
}
