package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nimbrel/nimbrel/host/agent"
	"github.com/nimbrel/nimbrel/host/hosttest/standin"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/test/bench"
)

const (
	agentArgument = "agent"
	readoptGoal   = 1 // second
	readoptLimit  = time.Minute
	pollAdoption  = 2 * time.Millisecond
)

// agentOptions are an agent's that works from its disk alone, as the user it runs as.
func agentOptions(stateDir string) agent.Options {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return agent.Options{ID: "h-00000000000000083", StateDir: stateDir, Driver: agent.DriverQEMU, Log: log}
}

// agentMain turns this process into an agent, for good, if that is what it was started for. It says when every guest is
// known to run.
func agentMain() {
	if len(os.Args) != 4 || os.Args[1] != agentArgument {
		return
	}
	want, err := strconv.Atoi(os.Args[3])
	if err == nil {
		o := agentOptions(os.Args[2])
		o.Started = func(read func() agent.Stats) {
			go func() {
				for read().Guests["running"] < want {
					time.Sleep(pollAdoption)
				}
				fmt.Println("adopted")
			}()
		}
		err = agent.Run(context.Background(), o)
	}
	fmt.Fprintln(os.Stderr, "agent:", err)
	os.Exit(1)
}

// readopt starts an agent over a full host again and again.
func (b *run) readopt(ctx context.Context) {
	state := filepath.Join(b.Dir(), "full")
	taken, err := b.readopts(ctx, state)
	err = errors.Join(err, agent.Purge(context.WithoutCancel(ctx), agentOptions(state)))
	b.AtMost(bench.Figure{
		Name: fmt.Sprintf("readopt_%d_vms_s", b.laid), Value: bench.Median(taken).Seconds(), Unit: "s", Detail: fmt.Sprintf("rounds=%v", taken),
	}, readoptGoal, err)
}

func (b *run) readopts(ctx context.Context, state string) (taken []time.Duration, err error) {
	bench.Progress("laying %d guests", b.laid)
	for n := range b.laid {
		id := ids.Instance(fmt.Sprintf("i-%09x%08x", os.Getpid(), n))
		b.guests = append(b.guests, string(id))
		if err := standin.Lay(state, id); err != nil {
			return nil, err
		}
	}
	if _, err := adoptAll(ctx, state, b.laid); err != nil { // the first boots the self-test guest
		return nil, err
	}
	for range b.rounds {
		took, err := adoptAll(ctx, state, b.laid)
		if err != nil {
			return nil, err
		}
		bench.Progress("an agent holds %d guests after %v", b.laid, took)
		taken = append(taken, took)
	}
	return taken, nil
}

// adoptAll runs an agent until it holds all guests, and kills it. The time begins with the process.
func adoptAll(ctx context.Context, state string, guests int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readoptLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", agentArgument, state, strconv.Itoa(guests))
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	took := time.Since(begun)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || line != "adopted\n" {
		return 0, fmt.Errorf("agent over %d guests said %q: %w", guests, line, errors.Join(err, ctx.Err()))
	}
	return took, nil
}
