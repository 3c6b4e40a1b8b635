package pack

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// grubPlatform is one of GRUB's targets: where Debian puts its modules and which the image needs.
type grubPlatform struct {
	format, dir, pkg string
	modules          []string
}

var (
	grubBIOS = grubPlatform{"i386-pc", "/usr/lib/grub/i386-pc", "grub-pc-bin",
		[]string{"biosdisk", "part_gpt", "ext2", "linux16", "normal", "serial", "test", "configfile", "echo"}}
	grubEFI = grubPlatform{"x86_64-efi", "/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin",
		[]string{"part_gpt", "fat", "ext2", "linux", "normal", "test", "configfile", "echo", "regexp"}}
)

// kernelArgs end in the console: the last one named is where the kernel's and the guest's messages go. "quiet" keeps
// warnings; each line costs real time on an emulated serial port.
const kernelArgs = "root=LABEL=" + rootLabel + " quiet panic=10 console=ttyS0,115200"

// grubConfig is the menu on the root file system. linux16 hands the kernel over in real mode, which under emulation is
// two seconds faster than linux; EFI has only the latter. GRUB on EFI talks through the firmware's own console.
const grubConfig = `set timeout=0
set default=0
if [ "$grub_platform" = "pc" ]; then
  serial --unit=0 --speed=115200
  terminal_input serial
  terminal_output serial
fi
menuentry "Nimbrel guest" {
  if [ "$grub_platform" = "pc" ]; then
    linux16 /boot/vmlinuz ` + kernelArgs + `
    initrd16 /boot/initrd.img
  else
    set gfxpayload=text
    linux /boot/vmlinuz ` + kernelArgs + `
    initrd /boot/initrd.img
  fi
}
`

// efiConfig is embedded in the EFI boot loader, where only plain commands work. The root partition is the first one of
// the disk that the loader itself was read from, so a second disk made from the same image cannot be taken for it.
const efiConfig = `regexp --set=1:disk '^\(([^,)]+),' $cmdpath
set root=$disk,gpt1
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
`

// grub holds the boot loader's parts and how to make its images.
type grub struct {
	mkimage string
	bootImg []byte
	sum     string // of all files that go into the images
}

func readGrub(tools toolset) (*grub, error) {
	g := &grub{mkimage: tools["grub-mkimage"]}
	h := sha256.New()
	for _, p := range []grubPlatform{grubBIOS, grubEFI} {
		// Modules pull others in, so every module of the platform counts; they come in one package.
		files, err := filepath.Glob(filepath.Join(p.dir, "*.mod"))
		if err != nil {
			return nil, err
		}
		for _, path := range append(files, filepath.Join(p.dir, "kernel.img"), filepath.Join(p.dir, "moddep.lst")) {
			sum, err := hashFile(path)
			if err != nil {
				return nil, err
			}
			fmt.Fprintln(h, path, sum)
		}
	}
	var err error
	if g.bootImg, err = os.ReadFile(filepath.Join(grubBIOS.dir, "boot.img")); err != nil {
		return nil, err
	}
	if len(g.bootImg) != 512 {
		return nil, fmt.Errorf("read GRUB boot sector: %d bytes, want 512", len(g.bootImg))
	}
	fmt.Fprintln(h, hashBytes(g.bootImg))
	g.sum = hex.EncodeToString(h.Sum(nil))
	return g, nil
}

func (g *grub) digest() string {
	return hashBytes([]byte(g.sum + grubConfig + efiConfig + strings.Join(grubBIOS.modules, " ") + strings.Join(grubEFI.modules, " ")))
}

// biosCore makes the boot sector's 440 bytes of code and the core image that lies at firstLBA. Two fields tell them
// where the core is; grub-mkimage filled in the rest.
func (g *grub) biosCore(ctx context.Context, work string, firstLBA uint64) (boot, core []byte, err error) {
	path := filepath.Join(work, "core.img")
	args := append([]string{"-O", grubBIOS.format, "-d", grubBIOS.dir, "-o", path, "-p", "(hd0,gpt1)/boot/grub"}, grubBIOS.modules...)
	if _, err := run(ctx, "", nil, g.mkimage, args...); err != nil {
		return nil, nil, err
	}
	defer os.Remove(path)
	if core, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	if len(core) < 1024 {
		return nil, nil, fmt.Errorf("GRUB core of %d bytes is too short", len(core))
	}
	boot = append([]byte(nil), g.bootImg[:440]...)
	binary.LittleEndian.PutUint64(boot[0x5c:], firstLBA)    // where the boot sector finds the core
	binary.LittleEndian.PutUint64(core[0x1f4:], firstLBA+1) // where the core's first sector finds the rest
	return boot, core, nil
}

// efiLoader makes the program that UEFI starts from the ESP, and returns its path.
func (g *grub) efiLoader(ctx context.Context, work string) (string, error) {
	config := filepath.Join(work, "efi.cfg")
	if err := os.WriteFile(config, []byte(efiConfig), 0o644); err != nil {
		return "", err
	}
	defer os.Remove(config)
	path := filepath.Join(work, "bootx64.efi")
	args := append([]string{"-O", grubEFI.format, "-d", grubEFI.dir, "-o", path, "-c", config, "-p", "/boot/grub"}, grubEFI.modules...)
	_, err := run(ctx, "", nil, g.mkimage, args...)
	return path, err
}
