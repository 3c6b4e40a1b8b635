package imagetest

import (
	"testing"
	"time"
)

// TestBootFromMemory boots without disk and network: the control port must answer all the same.
func TestBootFromMemory(t *testing.T) {
	image := Image(t)
	vm := Start(t, Machine{Kernel: image.Kernel, Initrd: image.Initrd, Append: "quiet console=ttyS0 root=ram nimbrel.imds=off nimbrel.echo=off", Net: "-"})
	if root, _ := vm.Wait("nimbrel-guest: root ", 0, time.Minute); root != "ram" {
		t.Errorf("root %q", root)
	}
	vm.Wait("nimbrel-guest: control ready", 0, time.Minute)
	if disks := vm.MustProbe("disk")["disks"]; len(disks.(map[string]any)) != 0 {
		t.Errorf("disks %v", disks)
	}
	if ok, values := vm.Probe("tcp 127.0.0.1 8080"); ok || values["reason"] != "refused" {
		t.Errorf("echo is off, but: %v %v", ok, values)
	}
}
