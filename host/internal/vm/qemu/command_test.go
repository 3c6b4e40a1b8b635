package qemu

import (
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

func diskSpec() vm.Spec {
	return vm.Spec{
		Dir: "/guests/i-0123456789abcdef0", ID: "i-0123456789abcdef0", Generation: 1, VCPUs: 2, MemoryMiB: 512, Token: "TOKEN",
		Disk: vm.Disk{Base: "/images/base", BaseFormat: "raw", SizeBytes: 1 << 30, Serial: "vol0,x"}, Product: "t3.small,evil=1",
		NICs: []vm.NIC{{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1450}},
	}
}

var diskFDs = inherited{agentMonitor: 3, humanMonitor: 4, base: 6, root: 7, taps: []int{8}}

// TestCommandNamesNoFile holds the containment rule: everything that the machine's process opens it was given. The paths
// of the guest's directory and image must not appear at all.
func TestCommandNamesNoFile(t *testing.T) {
	line := strings.Join(command(diskSpec(), accelerator{"tcg", "Nehalem"}, diskFDs, true), "\n")
	for _, path := range []string{"/guests/", "/images/"} {
		if strings.Contains(line, path) {
			t.Errorf("command line names %s:\n%s", path, line)
		}
	}
}

func TestCommand(t *testing.T) {
	args := command(diskSpec(), accelerator{"tcg", "Nehalem"}, diskFDs, true)
	for _, want := range []string{
		"-nodefaults -no-user-config", "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-accel tcg,tb-size=32", "-action reboot=reset,shutdown=pause,panic=none,watchdog=none", "guest=i-0123456789abcdef0@TOKEN",
		"driver=raw,node-name=base,file=base-file,read-only=on", "driver=qcow2,node-name=root,file=root-file,backing=base",
		"tap,id=net0,fd=8,vhost=off", "mac=02:00:00:00:00:01,romfile=,host_mtu=1450", "bootindex=0",
		"product=t3.small,,evil=1,uuid=ec2", "serial=vol0,,x",
	} {
		if !strings.Contains(strings.Join(args, " "), want) {
			t.Errorf("command line lacks %q:\n%s", want, strings.Join(args, " "))
		}
	}
	spec := diskSpec()
	spec.Direct = &vm.DirectBoot{Kernel: "/boot/vmlinuz"}
	direct := strings.Join(command(spec, accelerator{"kvm", "host"}, diskFDs, false), " ")
	if strings.Contains(direct, "bootindex") || strings.Contains(direct, "pvpanic") || strings.Contains(direct, "tcg") {
		t.Errorf("direct boot: %s", direct)
	}
}
