package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/dev/internal/fabric"
	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// stopGrace is how long a process may take to end by itself.
const stopGrace = 20 * time.Second

// ErrRunning is returned by Down when instances run and the caller has not agreed to lose them.
var ErrRunning = errors.New("instances are running and would be lost; agree with --yes")

// Down ends the cloud and removes everything it made. Instances that run are listed and need agreed. A cloud that is
// not there is no error: what an interrupted run has left is removed all the same.
func (c *Cloud) Down(ctx context.Context, agreed bool) error {
	plan, err := c.loadPlan()
	if errors.Is(err, os.ErrNotExist) {
		c.say("no cloud in %s", c.Dir)
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !agreed {
		if err := c.refuseRunning(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for i := 1; i <= plan.hosts(); i++ {
		errs = append(errs, c.endHost(ctx, plan, i))
	}
	errs = append(errs, c.daemons().Stop("server", stopGrace))
	if !plan.Fake {
		errs = append(errs, fabric.Destroy(plan.fabric()))
	}
	if err := errors.Join(errs...); err != nil {
		return err // files stay, so that Down can be run again
	}
	if err := c.removeFiles(); err != nil {
		return err
	}
	c.say("down: nothing is left")
	return nil
}

// refuseRunning lists what would be lost, over all pages: the instance that counts may be on the last.
func (c *Cloud) refuseRunning(ctx context.Context) error {
	running := 0
	for in := (operatorgen.ListInstancesInput{}); ; {
		out, err := c.api().ListInstances(ctx, &in)
		if err != nil {
			return fmt.Errorf("ask which instances run: %w (agree with --yes to end the cloud without asking)", err)
		}
		for _, v := range out.Instances {
			if v.State != operatorgen.InstanceStateTerminated {
				c.say("%s is %s on %s", v.InstanceId, v.State, v.HostId)
				running++
			}
		}
		if in.NextToken = out.NextToken; in.NextToken == "" {
			break
		}
	}
	if running > 0 {
		return ErrRunning
	}
	return nil
}

// endHost ends an agent, then the guests and kernel programs that outlive agents by design.
func (c *Cloud) endHost(ctx context.Context, p Plan, i int) error {
	if err := c.daemons().Stop(hostName(i), stopGrace); err != nil {
		return err
	}
	if _, err := os.Stat(c.hostDir(i)); errors.Is(err, os.ErrNotExist) || p.pretends(i) {
		return nil
	}
	place := p.fabric().Host(i)
	cmd := exec.CommandContext(ctx, c.Binary, "agent", "purge", "--state-dir", c.hostDir(i), "--data-plane-namespace", place.DataPlane, "--underlay", place.Address.String(), "--underlay-device", place.Device, "--uid-base", strconv.Itoa(p.uidBase(i)))
	cmd.Env = daemonEnv()
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	run := cmd.Run
	if len(fabric.Namespaces(p.fabric())) > 0 {
		run = func() error { return fabric.Run(place.Namespace, cmd.Run) }
	}
	if err := run(); err != nil {
		return fmt.Errorf("purge %s: %w: %s", hostName(i), err, strings.TrimSpace(text.String()))
	}
	return nil
}

// removeFiles removes what the cloud keeps, and the state directory when nothing else is in it. The plan goes last, so
// that an interrupted Down can be run again.
func (c *Cloud) removeFiles() error {
	var errs []error
	for _, name := range []string{"hosts", "server", "run", "daemons", "log", "env"} {
		errs = append(errs, os.RemoveAll(filepath.Join(c.Dir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, name := range []string{"dev.json", "dev.lock"} {
		if err := os.Remove(filepath.Join(c.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(c.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.say("kept %s: it holds files that are not the cloud's", c.Dir)
	}
	return nil
}

// Status prints what of the cloud runs.
func (c *Cloud) Status() ([]ProcessStatus, error) {
	if _, err := c.loadPlan(); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no cloud in %s: bring one up with `nimbrel dev up`, or name another with %s", c.Dir, statedir.Variable)
	} else if err != nil {
		return nil, err
	}
	records, err := c.daemons().List()
	if err != nil {
		return nil, err
	}
	var all []ProcessStatus
	for _, r := range records {
		all = append(all, ProcessStatus{Name: r.Name, PID: r.PID, Running: r.Running(), Started: r.Started, Log: r.Log})
	}
	return all, nil
}

// ProcessStatus is one process of the cloud.
type ProcessStatus struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"`
	Running bool      `json:"running"`
	Started time.Time `json:"started"`
	Log     string    `json:"log"`
}
