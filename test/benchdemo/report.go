package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Goals. A figure above its goal fails its check.
const (
	bootGoal     = 1.5
	acceptGoal   = 10
	warmGoal     = 60
	residentGoal = 300
)

// figure is one measured value.
type figure struct {
	value float64
	unit  string
	// of is what a quotient was made of, if it is one.
	of *quotient
}

// quotient is the medians that a ratio was made of, and a sync of the disk meanwhile.
type quotient struct{ num, den, sync time.Duration }

func ratio(num, den, sync []time.Duration) figure {
	q := quotient{median(num), median(den), median(sync)}
	return figure{value: q.num.Seconds() / q.den.Seconds(), unit: "x", of: &q}
}

func (b *bench) figure(name string, f figure) {
	line := fmt.Sprintf("figure demo.%s %.3g %s", name, f.value, f.unit)
	if f.of != nil {
		line += fmt.Sprintf(" num=%.6gs den=%.6gs fsync_us=%d", f.of.num.Seconds(), f.of.den.Seconds(), f.of.sync.Microseconds())
	}
	b.print(line)
}

// goal prints a figure and whether it is within its goal.
func (b *bench) goal(name string, f figure, most float64, err error) {
	if err == nil {
		b.figure(name, f)
		if f.value > most {
			err = fmt.Errorf("%.3g %s, goal at most %g", f.value, f.unit, most)
		}
	}
	b.check(name, err)
}

func (b *bench) check(name string, err error) {
	if err == nil {
		b.print("check demo." + name + " ok")
		return
	}
	b.print("check demo." + name + " FAIL " + firstLine(err))
	b.errs = append(b.errs, fmt.Errorf("%s: %w", name, err))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
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
	path := filepath.Join(b.results, "demo.txt")
	if err := os.WriteFile(path, []byte(strings.Join(b.lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return giveToBuilder(b.results, path)
}

// giveToBuilder hands files to the person behind sudo.
func giveToBuilder(paths ...string) error {
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, errGroup := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err != nil || errGroup != nil {
		return nil // root builds as root
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func median(all []time.Duration) time.Duration { return quantile(all, 0.5) }

func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1))]
}
