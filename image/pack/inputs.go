package pack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	mib = 1 << 20
	// initPackage is the guest's program, built from this module.
	modulePath  = "github.com/nimbrel/nimbrel"
	initPackage = modulePath + "/image/guest/init"
	// layoutVersion changes when the way the disk is put together changes; content is hashed by itself.
	layoutVersion = 1
)

// inputs is everything that decides the output.
type inputs struct {
	kernel  *kernel
	init    []byte // the guest program
	busybox []byte
	applets []string
	grub    *grub
	format  string
	bytes   int64
	tools   string // versions of the programs that write file systems
}

// gather reads all inputs. It is the part of a build that runs even when the output is cached.
func gather(ctx context.Context, opts Options, tools toolset) (*inputs, error) {
	in := &inputs{format: opts.Format, bytes: opts.VirtualBytes}
	var err error
	if in.kernel, err = findKernel(ctx, opts); err != nil {
		return nil, err
	}
	if in.init, err = guestProgram(ctx, opts); err != nil {
		return nil, err
	}
	if in.busybox, err = os.ReadFile(tools["busybox"]); err != nil {
		return nil, err
	}
	list, err := run(ctx, "", nil, tools["busybox"], "--list")
	if err != nil {
		return nil, err
	}
	in.applets = strings.Fields(string(list))
	if in.grub, err = readGrub(tools); err != nil {
		return nil, err
	}
	for _, name := range []string{"mke2fs", "mcopy", "grub-mkimage"} {
		sum, err := hashFile(tools[name])
		if err != nil {
			return nil, err
		}
		in.tools += sum + " "
	}
	return in, nil
}

// key names the output: equal keys mean equal inputs. 128 bits of SHA-256.
func (in *inputs) key() string {
	h := sha256.New()
	fmt.Fprintln(h, layoutVersion, in.format, in.bytes, in.kernel.release, in.tools)
	fmt.Fprintln(h, hashBytes(in.kernel.image), in.grub.digest())
	in.systemTree().digest(h)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// guestProgram reads the prebuilt program or builds it. The Go build cache makes the second time cheap.
func guestProgram(ctx context.Context, opts Options) ([]byte, error) {
	if opts.GoInit != "" {
		data, err := os.ReadFile(opts.GoInit)
		if err != nil {
			return nil, fmt.Errorf("read guest program: %w", err)
		}
		if !static(opts.GoInit) {
			return nil, fmt.Errorf("read guest program %s: not a static ELF program: build it with CGO_ENABLED=0 go build %s", opts.GoInit, initPackage)
		}
		return data, nil
	}
	const fix = "give a prebuilt one with --init"
	goTool, err := findGo()
	if err != nil {
		return nil, fmt.Errorf("build guest program: %w: install Go, or %s", err, fix)
	}
	dir, err := moduleDir(opts.ModuleDir)
	if err != nil {
		return nil, fmt.Errorf("build guest program: %w: run inside the source, or %s", err, fix)
	}
	work, err := os.MkdirTemp("", "nimbrel-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	opts.Progress("build guest program")
	out := filepath.Join(work, "init")
	_, err = run(ctx, dir, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64"},
		goTool, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, initPackage)
	if err != nil {
		return nil, fmt.Errorf("build guest program: %w", err)
	}
	return os.ReadFile(out)
}

// findGo looks where Go's own instructions put it too, since sudo drops a user's PATH.
func findGo() (string, error) {
	if path, err := findProgram("go"); err == nil {
		return path, nil
	}
	path := "/usr/local/go/bin/go"
	_, err := os.Stat(path)
	return path, err
}

// moduleDir finds the directory of this module's go.mod at or above start (default: the working directory).
func moduleDir(start string) (string, error) {
	dir, err := filepath.Abs(start)
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+modulePath+"\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("find source of module %s: no go.mod of it at or above the directory", modulePath)
		}
		dir = parent
	}
}
