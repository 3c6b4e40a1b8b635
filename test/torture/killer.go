package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// kill ends processes of the cloud with kill -9, lets them be gone for a while, and has them started again, until ctx ends.
// At its end everything runs.
func kill(ctx context.Context, c *cloud, b *books) {
	random := choices(c.o.seed, 1<<32)
	pause(ctx, random, 5*time.Second) // something runs by then
	for ctx.Err() == nil {
		killSome(ctx, c, b, random)
		pause(ctx, random, 3*time.Second)
		if err := c.up(ctx); err != nil && ctx.Err() == nil {
			b.wrong(&b.broken, "bring the cloud up again: %v", err)
		}
		pause(ctx, random, 4*time.Second)
	}
}

func pause(ctx context.Context, random *rand.Rand, longest time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(random.Int64N(int64(longest)))):
	}
}

// killSome kills one to four processes. What died by itself before is a defect.
func killSome(ctx context.Context, c *cloud, b *books, random *rand.Rand) {
	all, err := c.processes(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.wrong(&b.broken, "list processes: %v", err)
		}
		return
	}
	if want := 1 + c.o.hosts + c.o.fakeHosts; len(all) != want {
		b.wrong(&b.broken, "%d processes run, want %d: some died by themselves", len(all), want)
	}
	for range 1 + random.IntN(4) {
		switch dice := random.IntN(10); {
		case dice < 2:
			for _, p := range all {
				if p.Name == "server" {
					end(b, "server", p.PID)
				}
			}
		case dice < 4:
			p := all[random.IntN(len(all))]
			end(b, kindOf(p.Name), p.PID)
		case dice < 7: // agents of real hosts come first by name and number
			name := fmt.Sprint("host-", 1+random.IntN(c.o.hosts))
			for _, p := range all {
				if p.Name == name {
					end(b, "agent", p.PID)
				}
			}
		default:
			machines := c.machines()
			ids := slices.Sorted(maps.Keys(machines))
			if len(ids) > 0 {
				end(b, "qemu", machines[ids[random.IntN(len(ids))]])
			}
		}
	}
}

func kindOf(name string) string {
	if name == "server" {
		return name
	}
	return "agent"
}

// end kills a process of the cloud; it may have been chosen twice.
func end(b *books, kind string, pid int) {
	if syscall.Kill(pid, syscall.SIGKILL) == nil {
		b.count("killed-" + kind)
	}
}
