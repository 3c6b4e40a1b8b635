package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/stream"
	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/test/devcloud"
)

const bootFigure = "boot_over_bare_qemu"

const (
	// A banner is asked for anew so often, and each attempt given up after so long: no attempt's back-off decides.
	askEvery = 100 * time.Millisecond
	askLimit = 2 * time.Second
	// bootLimit bounds one boot.
	bootLimit = 90 * time.Second
	// ticksPerSecond is what /proc counts in, on every architecture that Go runs on.
	ticksPerSecond = 100
)

// boots compares boots in the cloud with boots under plain QEMU, in turns and in alternating order.
func (b *run) boots(ctx context.Context, c *cloud) {
	f, err := b.bootOverBare(ctx, c)
	f.Name = bootFigure // also of no figure
	b.AtMost(f, bootGoal, err)
}

func (b *run) bootOverBare(ctx context.Context, c *cloud) (bench.Figure, error) {
	d, err := openDoor(ctx, c)
	if err != nil {
		return bench.Figure{}, err
	}
	image, err := d.Image(ctx)
	if err != nil {
		return bench.Figure{}, err
	}
	var ours, bare []boot
	// The first round of each warms caches and is not counted; it also tells how the cloud runs its machines.
	_, how, err := c.bootHere(ctx, d, image)
	if err != nil {
		return bench.Figure{}, err
	}
	if _, err := b.bootBare(ctx, how, c.from.disk); err != nil {
		return bench.Figure{}, err
	}
	for round := range b.rounds {
		turn := []func() error{
			func() error { took, _, err := c.bootHere(ctx, d, image); ours = append(ours, took); return err },
			func() error { took, err := b.bootBare(ctx, how, c.from.disk); bare = append(bare, took); return err },
		}
		for i := range turn {
			if err := turn[(i+round)%2](); err != nil {
				return bench.Figure{}, fmt.Errorf("round %d: %w", round+1, err)
			}
		}
		if _, err := b.Sync(20); err != nil {
			return bench.Figure{}, err
		}
		bench.Progress("boot %d of %d: ours %v, bare %v", round+1, b.rounds, ours[round], bare[round])
	}
	wall, processor := func(b boot) time.Duration { return b.wall }, func(b boot) time.Duration { return b.processor }
	b.Print(bench.RatioOfMedians("boot_cpu_over_bare_qemu", each(ours, processor), each(bare, processor)))
	return bench.RatioOfMedians(bootFigure, each(ours, wall), each(bare, wall)), nil
}

// boot is what one boot took from the start of the machine's process to the banner: on the clock, and of processor time
// of that process, which tells more on a machine that has other work.
type boot struct{ wall, processor time.Duration }

func (b boot) String() string {
	return fmt.Sprintf("%.2f s (processor %.2f s)", b.wall.Seconds(), b.processor.Seconds())
}

func each(boots []boot, part func(boot) time.Duration) []time.Duration {
	all := make([]time.Duration, len(boots))
	for i, b := range boots {
		all[i] = part(b)
	}
	return all
}

// machine is how the cloud runs a guest, for a plain QEMU to do the same.
type machine struct {
	arguments []string // machine type, accelerator, processor, memory
	diskBytes uint64
}

// bootHere launches an instance, waits for its banner, and ends it. The time runs from the start of the machine's
// process to the banner's arrival here, through the server and the host's agent.
func (c *cloud) bootHere(ctx context.Context, d *door, image string) (took boot, how machine, err error) {
	id, _, err := d.launch(ctx, image)
	if err != nil {
		return took, how, err
	}
	defer func() { err = errors.Join(err, d.terminate(ctx, id)) }()
	var pid int
	var dir string
	err = devcloud.Until(ctx, pollEvery, runningLimit, "the process of "+id+" is recorded", func() (bool, error) {
		dir, pid = c.process(id)
		return pid > 1, nil
	})
	if err != nil {
		return took, how, err
	}
	if how, err = machineOf(dir, pid); err != nil {
		return took, how, err
	}
	took, err = awaitBanner(ctx, pid, func(ctx context.Context) (net.Conn, error) {
		return stream.Open(ctx, c.operator, stream.Request{Kind: stream.Dial, Instance: ids.Instance(id), Port: 22})
	})
	if err != nil {
		return took, how, fmt.Errorf("boot %s: %w", id, err)
	}
	return took, how, nil
}

// process finds a guest's directory and process on whichever host it is; 0 while none is recorded whole.
func (c *cloud) process(id string) (dir string, pid int) {
	for _, dir := range c.GuestFolders() {
		if filepath.Base(dir) == id {
			pid, _ := devcloud.GuestProcess(dir) // half a record is none yet
			return dir, pid
		}
	}
	return "", 0
}

// machineOf reads how the cloud runs a guest from the process's command line and its disk's header.
func machineOf(dir string, pid int) (machine, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return machine{}, err
	}
	var m machine
	words := strings.Split(string(line), "\x00")
	for i := 0; i+1 < len(words); i++ {
		switch words[i] {
		case "-machine", "-accel", "-cpu", "-smp", "-m":
			m.arguments = append(m.arguments, words[i], words[i+1])
		}
	}
	if len(m.arguments) != 10 {
		return machine{}, fmt.Errorf("process %d: a command line with %q, want one each of -machine, -accel, -cpu, -smp and -m", pid, m.arguments)
	}
	m.diskBytes, err = qcow2Bytes(filepath.Join(dir, "root.qcow2"))
	return m, err
}

// qcow2Bytes is the size of the disk that an image file describes.
func qcow2Bytes(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	header := make([]byte, 32)
	if _, err := f.ReadAt(header, 0); err != nil {
		return 0, err
	}
	if string(header[:4]) != "QFI\xfb" {
		return 0, fmt.Errorf("%s is no qcow2 file", path)
	}
	return binary.BigEndian.Uint64(header[24:]), nil
}

// awaitBanner asks for an ssh banner until one comes, and returns what that took since the machine's process started.
func awaitBanner(ctx context.Context, pid int, dial func(context.Context) (net.Conn, error)) (boot, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()
	arrived := make(chan time.Duration)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		attempts.Go(func() {
			if at, err := banner(ctx, dial); err == nil {
				select {
				case arrived <- at:
				case <-ctx.Done():
				}
			}
		})
		select {
		case at := <-arrived:
			started, processor, err := timesOf(pid)
			return boot{at - started, processor}, err
		case <-ctx.Done():
			return boot{}, fmt.Errorf("wait for port 22: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// banner makes one attempt and returns when the banner's first line was here.
func banner(ctx context.Context, dial func(context.Context) (net.Conn, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() { stop(); _ = conn.Close() }()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(line, "SSH-2.0-") {
		return 0, fmt.Errorf("port 22 says %q", line)
	}
	return sinceBoot()
}

// timesOf reads when a process started, on the clock of sinceBoot, and how much processor time it has had, both to a
// hundredth of a second.
func timesOf(pid int) (started, processor time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the command in parentheses and may hold any byte: count from the last parenthesis.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("process %d: malformed stat", pid)
	}
	var ticks [3]int64
	for i, field := range []int{19, 11, 12} { // fields 22, 14 and 15
		if ticks[i], err = strconv.ParseInt(fields[field], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("process %d: malformed stat: %w", pid, err)
		}
	}
	tick := time.Second / ticksPerSecond
	return time.Duration(ticks[0]) * tick, time.Duration(ticks[1]+ticks[2]) * tick, nil
}
