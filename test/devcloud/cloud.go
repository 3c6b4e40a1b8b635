// Package devcloud drives a cloud of `nimbrel dev` from outside, as a person's programs do: by its command and by its EC2
// API. Benchmarks and torture stand on it.
//
// Deliberately absent: anything of the product's own, so that what it drives is what a person drives; and judgement of
// what the cloud does, which is its callers'.
//
// Start reading at Cloud; API is the other half.
package devcloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// endGrace is how long a command may take to end when it is told to.
const endGrace = 20 * time.Second

// saidMax bounds, in bytes, how much of a failed command's words its error holds: the last.
const saidMax = 4 << 10

// Output runs a command to its end, in a folder ("" for this one) and with additions to the environment, and returns its
// standard output. An error ends with what the command said. The command has a process group of its own: a person's ^C
// reaches it only through ctx, whose end ends the whole group.
func Output(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(os.Environ(), env...), endGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + "\n" + stdout.String())
		return stdout.Bytes(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said[max(0, len(said)-saidMax):])
	}
	return stdout.Bytes(), nil
}

// JSON runs a command and decodes the JSON that it prints.
func JSON[T any](ctx context.Context, dir string, env []string, name string, args ...string) (v T, err error) {
	out, err := Output(ctx, dir, env, name, args...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return v, fmt.Errorf("%s %s: read answer: %w", name, strings.Join(args, " "), err)
	}
	return v, nil
}

// Cloud is one cloud and the binary that it is driven with. Its methods may be called at once as far as the command's may.
type Cloud struct {
	// Nimbrel is the binary's path.
	Nimbrel string
	// State is the cloud's state directory, an absolute path.
	State string
	// Env is added to the environment of every command.
	Env []string
	// Place is where the cloud is on its machine, so that clouds never meet: arguments of `nimbrel dev up`.
	Place Place
}

// Place is where a cloud is on its machine.
type Place struct {
	Port     string // of the EC2 API, on the loopback address
	Prefix   string // of the names of namespaces and links
	Underlay string // the hosts' network, as a prefix
}

// Run runs nimbrel and returns its output.
func (c *Cloud) Run(ctx context.Context, args ...string) (string, error) {
	out, err := Output(ctx, "", c.env(), c.Nimbrel, args...)
	return string(out), err
}

// Ask runs nimbrel with --json and decodes its answer.
func Ask[T any](ctx context.Context, c *Cloud, args ...string) (T, error) {
	return JSON[T](ctx, "", c.env(), c.Nimbrel, append(args, "--json")...)
}

func (c *Cloud) env() []string { return append([]string{statedir.Variable + "=" + c.State}, c.Env...) }

// Up brings up what is missing of the cloud; args say what belongs to it besides its place.
func (c *Cloud) Up(ctx context.Context, args ...string) error {
	place := []string{"dev", "up", "--port", c.Place.Port, "--prefix", c.Place.Prefix, "--underlay", c.Place.Underlay}
	_, err := c.Run(ctx, append(place, args...)...)
	return err
}

// Down ends the cloud, also when ctx has ended already, within a limit.
func (c *Cloud) Down(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_, err := c.Run(ctx, "dev", "down", "--yes")
	return err
}

// Process is the server or an agent.
type Process struct {
	Name    string
	PID     int
	Running bool
}

// Processes lists the server and the agents.
func (c *Cloud) Processes(ctx context.Context) ([]Process, error) {
	return Ask[[]Process](ctx, c, "dev", "status")
}

// GuestFolders are the folders of the guests on all hosts; a folder's name is its instance's id.
func (c *Cloud) GuestFolders() []string {
	paths, _ := filepath.Glob(filepath.Join(c.State, "hosts", "*", "guests", "i-*")) // the pattern is well formed
	return paths
}

// GuestProcess reads the number of the process that runs a guest, from its folder; 0 when none is recorded.
func GuestProcess(folder string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(folder, "process.json"))
	if err != nil {
		if os.IsNotExist(err) {
			return 0, nil
		}
		return 0, err
	}
	var record struct{ PID int }
	if err := json.Unmarshal(raw, &record); err != nil {
		return 0, fmt.Errorf("read process of %s: %w", filepath.Base(folder), err)
	}
	return record.PID, nil
}

// final is an error that waiting does not mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Final marks an error that waiting does not mend; nil stays nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return final{err}
}

// Until asks every interval until done says so, whatever its error is. It gives up when limit is over, with done's last
// error, which says why not yet, or at once with one that is Final.
func Until(ctx context.Context, interval, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval) // other processes' states have no event to wait for
	defer tick.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		var f final
		if errors.As(err, &f) {
			return fmt.Errorf("wait until %s: %w", what, f.error)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(ctx.Err(), err))
		}
	}
}
