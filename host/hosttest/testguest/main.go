//go:build linux

// Command testguest is process 1 of the guests that the driver's conformance suite boots. It is a few lines long so that
// what a test sees is the driver and not the guest: it says that it lives, obeys the power button, and answers line
// commands on the second serial port.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		os.MkdirAll(m[1], 0o755)
		unix.Mount(m[0], m[1], m[0], 0, "")
	}
	loadModules()
	buttons, _ := filepath.Glob("/dev/input/event*")
	for _, path := range buttons {
		go obeyButton(path)
	}
	say("testguest: ready uuid=%s serial=%s vendor=%s", dmi("product_uuid"), dmi("product_serial"), dmi("sys_vendor"))
	control, err := os.OpenFile("/dev/ttyS1", os.O_RDWR, 0)
	if err != nil {
		select {} // a guest without a control port still runs
	}
	raw(control)
	answer(control)
	select {}
}

func say(format string, args ...any) {
	os.WriteFile("/dev/console", fmt.Appendf(nil, format+"\n", args...), 0)
}

func dmi(name string) string {
	b, _ := os.ReadFile("/sys/class/dmi/id/" + name)
	return strings.TrimSpace(string(b))
}

// loadModules loads what modules.order names, in its order.
func loadModules() {
	order, _ := os.ReadFile("/modules/modules.order")
	for _, name := range strings.Fields(string(order)) {
		b, err := os.ReadFile("/modules/" + name)
		if err == nil {
			err = unix.InitModule(b, "")
		}
		if err != nil {
			say("testguest: module %s: %v", name, err)
		}
	}
}

// obeyButton switches the machine off when the power button is pressed, unless it was told to ignore it.
func obeyButton(path string) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	event := make([]byte, 24) // struct input_event: time, type, code, value
	for {
		if _, err := file.Read(event); err != nil {
			return
		}
		const keyEvent, keyPower = 1, 116
		kind, code, value := binary.LittleEndian.Uint16(event[16:]), binary.LittleEndian.Uint16(event[18:]), binary.LittleEndian.Uint32(event[20:])
		if kind != keyEvent || code != keyPower || value != 1 {
			continue
		}
		say("testguest: power button")
		if _, err := os.Stat("/ignore-button"); err != nil {
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}

// raw stops the terminal from echoing answers back as commands.
func raw(tty *os.File) {
	if t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t)
	}
}

// answer serves commands. A line's first word is a tag that its answer begins with, so that an asker who came late or
// gave up leaves no answer to be taken for another's.
func answer(control *os.File) {
	lines := bufio.NewScanner(control)
	for lines.Scan() {
		if tag, command, found := strings.Cut(lines.Text(), " "); found {
			fmt.Fprintf(control, "%s %s\n", tag, run(strings.Fields(command)))
		}
	}
}

func run(words []string) string {
	if len(words) == 0 {
		return "?"
	}
	switch words[0] {
	case "boot": // changes when the guest boots
		b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		return strings.TrimSpace(string(b))
	case "disk": // size in sectors
		b, err := os.ReadFile("/sys/block/vda/size")
		return strings.TrimSpace(string(b)) + errorText(err)
	case "nic": // address of the first interface
		b, err := os.ReadFile("/sys/class/net/eth0/address")
		return strings.TrimSpace(string(b)) + errorText(err)
	case "write": // the first sector of the disk
		return "done" + errorText(write("/dev/vda", bytes.Repeat([]byte(words[1]), 512)[:512]))
	case "read":
		return read("/dev/vda")
	case "ignore-button":
		os.WriteFile("/ignore-button", nil, 0)
		return "done"
	case "flood": // one MiB on the console
		for range 64 {
			say("%s", strings.Repeat("x", 16<<10))
		}
		return "done"
	case "poweroff":
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reset":
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "panic":
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return "?"
}

func write(path string, b []byte) error {
	disk, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	if _, err := disk.Write(b); err != nil {
		return err
	}
	return disk.Sync()
}

func read(path string) string {
	disk, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer disk.Close()
	b := make([]byte, 8)
	disk.Read(b)
	return string(bytes.Trim(b, "\x00"))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}
