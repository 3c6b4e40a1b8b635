package qemu

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/host/internal/vm/qcow2"
)

// firstInherited is the number of the first descriptor after standard input, output and error.
const firstInherited = 3

// descriptors collects what a machine's process inherits. The agent's copies are closed after the start.
type descriptors struct {
	files []*os.File
	owned []*os.File // those of files that this start opened; the taps are the caller's
	fds   inherited
}

func (d *descriptors) inherit(file *os.File) int {
	d.files = append(d.files, file)
	return firstInherited + len(d.files) - 1
}

func (d *descriptors) close() {
	for _, file := range d.owned {
		file.Close()
	}
}

// take inherits a file that was just opened, unless opening it failed.
func (d *descriptors) take(number *int, file *os.File, err error) error {
	if err != nil {
		return err
	}
	d.owned = append(d.owned, file)
	*number = d.inherit(file)
	return nil
}

// open opens everything that spec needs. On error it leaves nothing open.
func (o Options) open(spec vm.Spec) (d *descriptors, err error) {
	d = &descriptors{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := d.openSockets(spec); err != nil {
		return nil, err
	}
	if err := d.openBoot(spec, o); err != nil {
		return nil, err
	}
	if spec.Disk.Base != "" {
		if err := d.openDisk(spec); err != nil {
			return nil, err
		}
	}
	for _, nic := range spec.NICs {
		if nic.Tap == nil {
			return nil, errors.New("a network interface has no tap")
		}
		d.fds.taps = append(d.fds.taps, d.inherit(nic.Tap))
	}
	return d, nil
}

func (d *descriptors) openSockets(spec vm.Spec) error {
	sockets := map[string]*int{vm.AgentSocketPath(spec.Dir): &d.fds.agentMonitor, vm.HumanSocketPath(spec.Dir): &d.fds.humanMonitor}
	if spec.Control {
		sockets[vm.ControlPath(spec.Dir)] = &d.fds.control
	}
	for path, number := range sockets {
		socket, err := listen(path)
		if err := d.take(number, socket, err); err != nil {
			return err
		}
	}
	return nil
}

// listen makes a listening socket. A socket's name is limited to 107 bytes, so it is bound through its open directory.
func listen(path string) (*os.File, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: shortPath(dir, path)})
	if err == nil {
		err = unix.Listen(fd, 4)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return file, nil
}

// shortPath names a file in an open directory in few bytes.
func shortPath(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

func (d *descriptors) openDisk(spec vm.Spec) error {
	base, err := os.Open(spec.Disk.Base)
	if err := d.take(&d.fds.base, base, err); err != nil {
		return err
	}
	info, err := base.Stat()
	if err != nil {
		return err
	}
	if uint64(info.Size()) > spec.Disk.SizeBytes {
		return fmt.Errorf("disk of %d bytes is smaller than its image of %d", spec.Disk.SizeBytes, info.Size())
	}
	path := vm.DiskPath(spec.Dir)
	err = qcow2.Create(path, spec.Disk.Base, spec.Disk.SizeBytes)
	if err != nil && !errors.Is(err, fs.ErrExist) { // an existing disk is a stopped guest's own
		return err
	}
	root, err := os.OpenFile(path, os.O_RDWR, 0)
	return d.take(&d.fds.root, root, err)
}

func (d *descriptors) openBoot(spec vm.Spec, o Options) error {
	if spec.Direct != nil {
		kernel, err := os.Open(spec.Direct.Kernel)
		if err := d.take(&d.fds.kernel, kernel, err); err != nil {
			return err
		}
		if spec.Direct.Initrd == "" {
			return nil
		}
		initrd, err := os.Open(spec.Direct.Initrd)
		return d.take(&d.fds.initrd, initrd, err)
	}
	if spec.Firmware != vm.UEFI {
		return nil
	}
	code, err := os.Open(o.UEFICode)
	if err := d.take(&d.fds.firmware, code, err); err != nil {
		return err
	}
	if err := copyOnce(vm.NVRAMPath(spec.Dir), o.UEFIVars); err != nil {
		return err
	}
	nvram, err := os.OpenFile(vm.NVRAMPath(spec.Dir), os.O_RDWR, 0)
	return d.take(&d.fds.nvram, nvram, err)
}

// copyOnce gives a guest its own UEFI variables; later starts keep them.
func copyOnce(to, from string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.CreateTemp(filepath.Dir(to), ".nvram-")
	if err != nil {
		return err
	}
	defer os.Remove(target.Name())
	_, err = io.Copy(target, source)
	if closeErr := target.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(target.Name(), to)
}
