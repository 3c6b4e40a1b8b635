package pack

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// MissingToolsError lists what the machine lacks. Its text is the command that helps.
type MissingToolsError struct {
	// Missing are programs and files; Packages are the Debian packages that hold them. Both are sorted.
	Missing, Packages []string
}

func (e *MissingToolsError) Error() string {
	return fmt.Sprintf("missing %s: run: apt-get install -y %s", strings.Join(e.Missing, ", "), strings.Join(e.Packages, " "))
}

// needed maps each program to the Debian package that holds it.
var needed = map[string]string{
	"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs",
	"mformat": "mtools", "mmd": "mtools", "mcopy": "mtools",
	"grub-mkimage": "grub-common", "qemu-img": "qemu-utils",
	"busybox": "busybox-static", "dpkg-deb": "dpkg",
}

// toolset maps a program's name to its path. Programs of /usr/sbin are found even when PATH, as an ordinary user's, does
// not name it.
type toolset map[string]string

func findTools() (toolset, error) {
	tools, missing := toolset{}, &MissingToolsError{}
	lack := func(what, pkg string) {
		missing.Missing = append(missing.Missing, what)
		missing.Packages = append(missing.Packages, pkg)
	}
	for name, pkg := range needed {
		path, err := findProgram(name)
		if err != nil {
			lack(name, pkg)
		}
		tools[name] = path
	}
	if path := tools["busybox"]; path != "" && !static(path) {
		lack("a static busybox", "busybox-static")
	}
	for _, f := range []grubPlatform{grubBIOS, grubEFI} {
		if _, err := os.Stat(filepath.Join(f.dir, "kernel.img")); err != nil {
			lack(f.dir, f.pkg)
		}
	}
	if len(missing.Missing) > 0 {
		slices.Sort(missing.Missing)
		slices.Sort(missing.Packages)
		missing.Packages = slices.Compact(missing.Packages)
		return nil, missing
	}
	return tools, nil
}

func findProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, exec.ErrNotFound)
}

// static says whether an ELF program needs no interpreter: it has to run in a root without libraries.
func static(path string) bool {
	file, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return !slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// run executes a program with a fixed locale and fixed clocks and returns its standard output. An error carries what
// the program said.
func run(ctx context.Context, dir string, env []string, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", buildTime.Unix()), fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", buildTime.Unix()))
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(lastBytes(exit.Stderr, 2048)))
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, fmt.Errorf("run %s: %w", filepath.Base(program), err)
}

func lastBytes(text []byte, n int) string {
	return string(text[max(0, len(text)-n):])
}
