package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/test/inventory"
)

// figure prints a value and whether it is within its goal. more is what it was made of.
func (b *bench) figure(name string, value float64, unit, more string, most float64, err error) {
	if err == nil {
		b.print(strings.TrimRight(fmt.Sprintf("figure host.%s %.4g %s %s", name, value, unit, more), " "))
		if value > most {
			err = fmt.Errorf("%.4g %s, goal at most %g", value, unit, most)
		}
	}
	b.check(name, err)
}

func (b *bench) check(name string, err error) {
	if err == nil {
		b.print("check host." + name + " ok")
		return
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	b.print("check host." + name + " FAIL " + line)
	b.errs = append(b.errs, fmt.Errorf("%s: %w", name, err))
}

func (b *bench) print(line string) {
	fmt.Println(line)
	b.lines = append(b.lines, line)
}

// write keeps the lines, as the person behind sudo.
func (b *bench) write() error {
	if err := os.MkdirAll(b.results, 0o755); err != nil {
		return err
	}
	path := filepath.Join(b.results, "host.txt")
	if err := os.WriteFile(path, []byte(strings.Join(b.lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	if err != nil {
		return nil // root builds as root
	}
	for _, p := range []string{b.results, path} {
		if err := os.Chown(p, uid, -1); err != nil {
			return err
		}
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// ours tells what this program's cloud makes from what others on the machine do meanwhile.
var ours = regexp.MustCompile(`\b` + prefix + `(fab|root|h[0-9]|-)|198\.18\.83\.|127\.0\.0\.1:1878[345]`)

func inventoryNow() inventory.Inventory {
	return inventory.Take(inventory.Options{Programs: append(inventory.CloudPrograms(), "benchhost", "bench-host")})
}

// leftSince says what of ours came and stayed. Machines' processes and control groups are told by their guests' ids.
func leftSince(before inventory.Inventory, guests []string) error {
	var left []string
	for _, line := range inventory.Diff(before, inventoryNow()) {
		if ours.MatchString(line) || slices.ContainsFunc(guests, func(id string) bool { return strings.Contains(line, id) }) {
			left = append(left, line)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d things are left: %s", len(left), strings.Join(left, "; "))
	}
	return nil
}
