// Cloudinit proves that a Debian cloud-style image is at home in the cloud: it boots by BIOS and by UEFI, finds its Ec2 data
// source, runs its user data and accepts the launch key. It prints "check cloudinit.NAME ok|FAIL" and exits 1 when one
// fails.
//
// With -build it only builds the disk and prints its path; without, it drives the running cloud of NIMBREL_STATE_DIR, whose
// public image "debian" must be that disk.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/nimbrel/nimbrel/image/pack"
)

func main() {
	build := flag.Bool("build", false, "build the disk and print its path")
	mirror := flag.String("mirror", "", "Debian mirror to build from; default debootstrap's own")
	nimbrel := flag.String("nimbrel", "bin/nimbrel", "the nimbrel binary")
	dir := flag.String("dir", "build/cloudinit", "folder for what is built, and for the key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *build {
		err = buildDisk(ctx, *dir, *mirror)
	} else {
		err = (&walk{nimbrel: *nimbrel, dir: *dir}).run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func buildDisk(ctx context.Context, dir, mirror string) error {
	disk, err := pack.BuildDebian(ctx, pack.DebianOptions{
		OutDir: dir, Mirror: mirror, Progress: func(step string) { fmt.Fprintln(os.Stderr, "debian image:", step) },
	})
	if err == nil {
		fmt.Println(disk)
	}
	return err
}

// errFailed says that a check failed; which one was printed.
var errFailed = errors.New("a check failed")
