package pack

import (
	"fmt"
	"slices"
	"strings"
)

// userID is the uid and gid of ec2-user.
const userID = 1000

// systemTree is the guest's system, the same on the disk and in the initramfs. All programs lie in /bin; the other
// usual directories are links to it.
//
// The guest program is setuid root: called as sudo it lets ec2-user become root without a password, as on EC2's own
// images. Under its other names it either is process 1 already or drops the privilege at once.
func (in *inputs) systemTree() tree {
	var t tree
	t.dir(0o755, "bin", "boot", "dev", "etc", "etc/ssh", "home", "lib", "lib/modules", "mnt", "proc", "run", "sys", "usr", "var", "var/lib", "var/lib/nimbrel", "var/log")
	t.dir(0o700, "root")
	t.dir(0o1777, "tmp")
	t = append(t, node{path: "home/ec2-user", mode: typeDir | 0o755, uid: userID})
	t.link("sbin", "bin")
	t.link("usr/bin", "../bin")
	t.link("usr/sbin", "../bin")
	t.link("var/run", "../run")

	t.file("bin/nimbrel-guest", 0o755|setuid, in.init)
	ours := []string{"init", "probe", "sudo"}
	for _, name := range ours {
		t.link("bin/"+name, "nimbrel-guest")
	}
	t.file("bin/busybox", 0o755, in.busybox)
	for _, applet := range in.applets {
		if applet != "busybox" && !slices.Contains(ours, applet) && !strings.Contains(applet, "/") {
			t.link("bin/"+applet, "busybox")
		}
	}
	in.addModules(&t)
	addConfig(&t)
	return t
}

// addModules stores the kernel's modules and the order in which the guest loads them.
func (in *inputs) addModules(t *tree) {
	dir := "lib/modules/" + in.kernel.release
	t.dir(0o755, dir)
	var order strings.Builder
	for _, m := range in.kernel.modules {
		t.file(dir+"/"+m.name, 0o644, m.data)
		fmt.Fprintf(&order, "/%s/%s\n", dir, m.name)
	}
	t.text("lib/modules/load.order", order.String())
}

func addConfig(t *tree) {
	t.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nec2-user:x:1000:1000:EC2 user:/home/ec2-user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	t.text("etc/group", "root:x:0:\nec2-user:x:1000:\nnogroup:x:65534:\n")
	t.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
	t.text("etc/hostname", "nimbrel\n")
	t.text("etc/shells", "/bin/sh\n")
	t.text("etc/profile", "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\nPS1='\\u@\\h:\\w\\$ '\n")
	t.text("etc/os-release", "ID=nimbrel-guest\nNAME=\"Nimbrel guest\"\nPRETTY_NAME=\"Nimbrel guest image\"\n")
	t.text("etc/fstab", "LABEL="+rootLabel+" / ext4 defaults 0 1\n")
}

// diskTree adds to the system what the disk boots from.
func (in *inputs) diskTree(initrd []byte) tree {
	t := in.systemTree()
	t.file("boot/vmlinuz", 0o644, in.kernel.image)
	t.file("boot/initrd.img", 0o644, initrd)
	t.dir(0o755, "boot/grub")
	t.text("boot/grub/grub.cfg", grubConfig)
	return t
}

// initramfs is the whole system as an archive: it boots a guest without a disk, and finds and mounts the root file
// system of one with a disk. The kernel wants a console node before anything can be mounted.
func (in *inputs) initramfs() ([]byte, error) {
	t := in.systemTree()
	t = append(t, node{path: "dev/console", mode: typeChar | 0o600, dev: [2]uint32{5, 1}})
	t.link("init", "bin/nimbrel-guest")
	return t.compressedCPIO()
}
