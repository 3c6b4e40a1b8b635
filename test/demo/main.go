// Demo drives a running one-machine cloud with the aws CLI, as a person would, and proves from inside the guests what
// passes between them. It prints "check demo.NAME ok|FAIL" and "figure demo.NAME VALUE UNIT" lines, and exits 1 when a
// check fails. What it makes is found again by tag and client token, so running it again resumes.
//
// On a cloud of fake hosts, which have no guests, it proves what the API alone can, and says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	nimbrel := flag.String("nimbrel", "bin/nimbrel", "the nimbrel executable")
	dir := flag.String("dir", "build/demo", "folder for the key pair's private key")
	limit := flag.Duration("limit", 10*time.Minute, "give up after this long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *nimbrel, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		cancel()
		os.Exit(1)
	}
}

// errFailed says that a check failed; its line has been printed.
var errFailed = errors.New("a check failed")

func run(ctx context.Context, nimbrel, dir string) error {
	d := &demo{nimbrel: nimbrel, dir: dir}
	if err := d.connect(ctx); err != nil {
		return err
	}
	steps := []func(context.Context) error{d.network, d.launch, d.apiChecks}
	if !d.simulated {
		steps = append(steps, d.guestChecks)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := d.cleanCheck(ctx); err != nil {
		return err
	}
	if d.failed {
		return errFailed
	}
	d.farewell()
	return nil
}

// check prints one line; the demo goes on, so that one run shows every failure.
func (d *demo) check(name string, err error) {
	if err == nil {
		fmt.Printf("check demo.%s ok\n", name)
		return
	}
	d.failed = true
	fmt.Printf("check demo.%s FAIL %v\n", name, err)
}

func figure(name string, value float64, unit string) {
	fmt.Printf("figure demo.%s %.3g %s\n", name, value, unit)
}

func (d *demo) farewell() {
	down := "sudo make down"
	if d.simulated {
		down = "make down"
	}
	fmt.Printf(`
The cloud is up. To use it:

  eval "$(%[1]s env)"
  aws ec2 describe-instances
  %[1]s ssh -i %[2]s %[3]s
  %[1]s console %[3]s

To end it and leave nothing behind:  %[4]s
`, d.nimbrel, d.keyPath(), d.instances["a1"].ID, down)
	if d.simulated {
		fmt.Println("\nThese hosts are fake: instances have no guests. Run `sudo make demo` on Linux for real virtual machines.")
	}
}
