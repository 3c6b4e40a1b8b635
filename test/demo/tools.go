package main

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
	"time"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// demo is the state of one run.
type demo struct {
	nimbrel, dir string
	env          []string // of the aws CLI
	endpoint     string   // of the API: a URL
	endpointArg  []string // for a CLI too old for AWS_ENDPOINT_URL
	simulated    bool
	zones        []string
	image        string
	networks     map[string]*network // by name
	instances    map[string]*instance
	failed       bool
}

// network is one VPC of the demo.
type network struct {
	VPC     string
	Subnets []string // one in each of two zones
	Groups  map[string]string
}

// instance is one virtual machine of the demo.
type instance struct {
	ID      string
	Address string
	Host    string
}

func (d *demo) keyPath() string { return filepath.Join(d.dir, "key.pem") }

// connect reads the cloud's environment and checks that its lines work for a person with nothing else set.
func (d *demo) connect(ctx context.Context) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	var status struct {
		Simulated bool
		Endpoint  string
	}
	if err := d.nimbrelJSON(ctx, &status, "status"); err != nil {
		return err
	}
	d.simulated, d.endpoint = status.Simulated, status.Endpoint
	var lines []struct{ Name, Value string }
	if err := d.nimbrelJSON(ctx, &lines, "env"); err != nil {
		return err
	}
	d.env = os.Environ()
	for _, l := range lines {
		d.env = append(d.env, l.Name+"="+l.Value)
	}
	shell := fmt.Sprintf(`eval "$(%s env)" && aws sts get-caller-identity --query Account --output text`, d.nimbrel)
	bare := []string{"-i", "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
	if dir := os.Getenv(statedir.Variable); dir != "" {
		bare = append(bare, statedir.Variable+"="+dir) // which cloud is meant is no part of its environment
	}
	cmd := exec.CommandContext(ctx, "env", append(bare, "bash", "-c", shell)...)
	out, err := cmd.CombinedOutput()
	account := strings.TrimSpace(string(out))
	if err != nil || len(account) != 12 {
		err = fmt.Errorf("%q, %v", account, err)
	}
	d.check("env_lines", err)
	if strings.Contains(d.mustOldAWS(ctx), "aws()") {
		d.endpointArg = []string{"--endpoint-url", status.Endpoint}
	}
	return nil
}

// mustOldAWS returns the shell lines of the environment; they hold a function when the aws CLI is old.
func (d *demo) mustOldAWS(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, d.nimbrel, "env").Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// nimbrelJSON runs a nimbrel command with --json and decodes what it prints.
func (d *demo) nimbrelJSON(ctx context.Context, v any, args ...string) error {
	out, err := output(exec.CommandContext(ctx, d.nimbrel, append(args, "--json")...))
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}

// aws runs the aws CLI and decodes its JSON into v, which may be nil.
func (d *demo) aws(ctx context.Context, v any, args ...string) error {
	args = append(append([]string{}, d.endpointArg...), append(args, "--output", "json")...)
	cmd := exec.CommandContext(ctx, "aws", args...)
	cmd.Env = d.env
	out, err := output(cmd)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("aws %s: read answer: %w", strings.Join(args, " "), err)
	}
	return nil
}

// inGuest runs a command in a guest through `nimbrel ssh`.
func (d *demo) inGuest(ctx context.Context, who string, command ...string) (string, error) {
	args := append([]string{"ssh", "-i", d.keyPath(), d.instances[who].ID, "--"}, command...)
	out, err := output(exec.CommandContext(ctx, d.nimbrel, args...))
	return strings.TrimSpace(string(out)), err
}

// output runs a command; its error holds what it said.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + " " + stdout.String())
		return stdout.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(len(cmd.Args), 8)], " "), err, said)
	}
	return stdout.Bytes(), nil
}

// eventually runs fn until it succeeds or the limit is over, and returns its last error.
func eventually(ctx context.Context, limit time.Duration, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, err)
		}
	}
}

// expect turns a broken expectation into an error.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

var errNone = errors.New("none found")
