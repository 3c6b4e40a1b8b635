package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// endGrace is how long a command may take to end when it is told to.
const endGrace = 20 * time.Second

// saidMax bounds how much of a failed command's words is shown.
const saidMax = 4 << 10

// output runs a command in dir with additions to the environment. Its error ends with what the command said.
func output(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr, cmd.WaitDelay = dir, append(os.Environ(), env...), group(), endGrace
	cmd.Cancel = func() error { return signalGroup(cmd.Process.Pid, syscall.SIGTERM) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + "\n" + stdout.String())
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said[max(0, len(said)-saidMax):])
	}
	return stdout.Bytes(), nil
}

// printed runs a command and decodes the JSON that it prints.
func printed[T any](ctx context.Context, dir string, env []string, name string, args ...string) (v T, err error) {
	out, err := output(ctx, dir, env, name, args...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return v, fmt.Errorf("%s %s: read answer: %w", name, strings.Join(args, " "), err)
	}
	return v, nil
}

// until asks every interval until done says so, or limit is over.
func until(ctx context.Context, interval, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		}
	}
}
