package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Options says what a run measures and where.
type Options struct {
	// Part is what the figures' names begin with, and the results file's name.
	Part string
	// Dir is where the run works, in a folder of its own; it is made when it does not exist, and must be on a disk.
	Dir string
	// Results is the directory of the results file; "" keeps none.
	Results string
	// Out is where the lines go; default the standard output.
	Out io.Writer
}

// Flags declares the flags that every benchmark has: --dir, with a default, and --results.
func (o *Options) Flags(dir string) {
	flag.StringVar(&o.Dir, "dir", dir, "where everything lies while this runs; must be on a disk")
	flag.StringVar(&o.Results, "results", "test/bench/results", "directory to write the figures to as well")
}

// Main runs a command until it ends or is interrupted, and ends the process with status 1 when it failed.
func Main(run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// Run is one run of a benchmark. It is used by one goroutine.
type Run struct {
	options Options
	dir     string
	disk    *disk
	lines   []string
	failed  []error
}

// Start makes the run's folder and judges the disk that it is on: 200 writes and syncs, of which the 99th percentile may
// take 50 ms. Whoever starts a run finishes it.
func Start(o Options) (*Run, error) {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := refuseMemory(o.Dir); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "nb-") // short: a unix socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	r := &Run{options: o, dir: dir}
	if r.dir, err = filepath.Abs(dir); err == nil {
		err = os.Chmod(r.dir, 0o755) // guests and builders may be other users
	}
	if err == nil {
		r.disk, err = openDisk(r.dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return r, nil
}

// Dir is the run's folder, an absolute path. Finish removes it.
func (r *Run) Dir() string { return r.dir }

// Sync times n writes of 4 KiB, each followed by a sync, into a file that has all its blocks already: the least that a
// durable answer costs on this file system now. A file that grows would cost more, and flatter what is divided by it.
func (r *Run) Sync(n int) ([]time.Duration, error) { return r.disk.sync(n) }

// Print prints a figure. Beside it stands the median of the last 100 syncs, of which the last 20 are timed now.
func (r *Run) Print(f Figure) {
	if _, err := r.Sync(20); err != nil {
		r.failed = append(r.failed, fmt.Errorf("time syncs: %w", err))
	}
	r.print(f.line(r.options.Part, Median(r.disk.recent)))
}

// AtMost prints a figure and checks, under the figure's name, that it is within its goal. An error says why there is no
// figure; the check fails with it.
func (r *Run) AtMost(f Figure, goal float64, err error) {
	if err == nil {
		r.Print(f)
		if !(f.Value <= goal) { // no number is beyond every goal
			err = fmt.Errorf("%s %s, goal at most %s", number(f.Value), f.Unit, number(goal))
		}
	}
	r.Check(f.Name, "at most "+number(goal), err)
}

// Check prints whether something holds, and in a few words what; an error says that it does not, and why.
func (r *Run) Check(name, what string, err error) {
	line := "check " + r.options.Part + "." + name
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		r.print(line + " FAIL " + why)
		r.failed = append(r.failed, fmt.Errorf("%s: %w", name, err))
		return
	}
	if what != "" {
		what = " (" + what + ")"
	}
	r.print(line + " ok" + what)
}

func (r *Run) print(line string) {
	fmt.Fprintln(r.options.Out, line)
	r.lines = append(r.lines, line)
}

// Finish keeps the lines, removes the run's folder, and returns all that went wrong: err, the checks that failed, and its
// own errors. A run of which nothing was printed leaves the results of the one before.
func (r *Run) Finish(err error) error {
	errs := append([]error{err}, r.failed...)
	if len(r.lines) > 0 && r.options.Results != "" {
		errs = append(errs, keep(r.options.Results, r.options.Part+".txt", r.lines))
	}
	return errors.Join(append(errs, r.disk.file.Close(), os.RemoveAll(r.dir))...)
}

func keep(dir, name string, lines []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return GiveToInvoker(dir, path)
}

// Progress tells a waiting person, on the standard error, what goes on; the line begins with the time of day.
func Progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
