package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

var virtualMounts = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=16m"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=25%"},
}

// MountVirtual mounts the kernel's file systems. Those that are mounted already stay.
func MountVirtual() error {
	var errs []error
	for _, m := range virtualMounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.target, err))
		}
	}
	return errors.Join(errs...)
}

// OpenConsole makes the kernel's console this process's standard streams: it starts with none when the initramfs'
// console node could not be opened.
func OpenConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	for std := range 3 {
		if fd != std {
			if err := unix.Dup3(fd, std, 0); err != nil {
				return fmt.Errorf("open console: %w", err)
			}
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
	return nil
}

// LoadModules loads the kernel modules that the list names, in order. A module that is loaded already, or has no
// device, is no error.
func LoadModules(list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	var errs []error
	for path := range strings.FieldsSeq(string(text)) {
		if err := loadModule(path); err != nil {
			errs = append(errs, fmt.Errorf("load module %s: %w", filepath.Base(path), err))
		}
	}
	return errors.Join(errs...)
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.FinitModule(fd, "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// SwitchRoot makes newRoot the root and executes program in it. It returns only on error.
func SwitchRoot(newRoot, program string, args, env []string) error {
	for _, m := range virtualMounts {
		if strings.Count(m.target, "/") > 1 {
			continue // moves along with the mount above it
		}
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("switch root: move %s: %w", m.target, err)
		}
	}
	freeInitramfs()
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("switch root: move root: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), unix.Chdir("/")); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	return fmt.Errorf("switch root: execute %s: %w", program, unix.Exec(program, args, env))
}

// freeInitramfs deletes the big files of the root that nobody will see again: it lies in memory.
func freeInitramfs() {
	for _, dir := range []string{"/bin", "/lib/modules"} {
		_ = os.RemoveAll(dir) // what stays only costs memory
	}
}
