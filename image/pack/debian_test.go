package pack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConfigureDebian holds that an installed tree becomes an image: configured, and without what two instances must not
// share.
func TestConfigureDebian(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"var/cache/apt/archives/a.deb", "etc/ssh/ssh_host_ed25519_key", "debootstrap/log", "etc/ssh/sshd_config", "etc/resolv.conf"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := configureDebian(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"var/cache/apt/archives/a.deb": false, "etc/ssh/ssh_host_ed25519_key": false, "debootstrap": false,
		"etc/ssh/sshd_config": true, "etc/fstab": true, "boot/grub/grub.cfg": true, "boot/efi": true,
	} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want there: %v", name, err, want)
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "etc/resolv.conf")); err != nil || !strings.Contains(target, "systemd") {
		t.Errorf("resolv.conf is %q, %v", target, err)
	}
	if strings.ToUpper(rootGUIDLower) != rootGUID {
		t.Errorf("the root is mounted as %s, and is %s", rootGUIDLower, rootGUID)
	}
}

func TestDebianOptions(t *testing.T) {
	for name, o := range map[string]DebianOptions{
		"no folder": {}, "odd size": {OutDir: t.TempDir(), VirtualBytes: 1<<30 + 1}, "small": {OutDir: t.TempDir(), VirtualBytes: 512 << 20},
	} {
		o.PackageCache = t.TempDir()
		if err := o.complete(); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}
