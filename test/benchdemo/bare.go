package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

// bootBare boots the image under plain QEMU as the cloud's guest was run, but with user networking and nothing else, and
// waits for the banner at a forwarded port.
func (b *run) bootBare(ctx context.Context, how machine, disk string) (took boot, err error) {
	dir, err := os.MkdirTemp(b.Dir(), "bare-")
	if err != nil {
		return took, err
	}
	defer os.RemoveAll(dir)
	overlay := filepath.Join(dir, "root.qcow2")
	_, err = devcloud.Output(ctx, dir, nil, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, overlay, strconv.FormatUint(how.diskBytes, 10))
	if err != nil {
		return took, err
	}
	address, err := freeAddress()
	if err != nil {
		return took, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", bareArguments(how, overlay, filepath.Join(dir, "console"), address)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a person's ^C is this program's to deal with
	if err := cmd.Start(); err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, endBare(cmd)) }()
	var dialer net.Dialer
	took, err = awaitBanner(ctx, cmd.Process.Pid, func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", address) })
	if err != nil {
		return took, fmt.Errorf("boot under plain QEMU: %w", err)
	}
	return took, nil
}

// bareArguments leave out what a person would not ask for: a screen, whose firmware alone takes time, and the network's
// boot ROM. The guest reaches nothing beyond the forwarded port.
func bareArguments(how machine, overlay, console, address string) []string {
	return append(append([]string{}, how.arguments...),
		"-nodefaults", "-no-user-config", "-display", "none", "-boot", "strict=on",
		"-serial", "file:"+console,
		"-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
		"-drive", "file="+overlay+",format=qcow2,if=none,id=root", "-device", "virtio-blk-pci,drive=root,bootindex=0",
		"-netdev", "user,id=net0,restrict=on,hostfwd=tcp:"+address+"-:22", "-device", "virtio-net-pci,netdev=net0,romfile=")
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// endBare kills the machine. That it was killed is no error; that it ended by itself is.
func endBare(cmd *exec.Cmd) error {
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return nil
	}
	return fmt.Errorf("plain QEMU ended by itself: %w", err)
}
