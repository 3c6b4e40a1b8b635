// Command torture mistreats a cloud of real and fake hosts on this machine: accounts launch, stop, start and terminate
// instances and edit rules at random, while every process of the cloud is killed again and again: server, agents, QEMU.
// At the end everything is terminated and recounted. What was acknowledged must have happened, nothing may be handed out
// twice, and nothing may be left behind.
//
//	torture -nimbrel bin/nimbrel -image disk.raw -duration 30m
//
// The seed is printed; with it, the same choices are made in the same order by each account and by the killer. When the
// kills fall within the work is up to the machine.
//
// Figures: torture.leaks, torture.double_handouts and torture.acknowledged_lost; all are 0 or the command fails.
//
// Reading starts at run. An account's life is in tenant.go, the kills in killer.go, the end in verdict.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	nimbrel, image, dir, prefix, underlay string
	port, hosts, fakeHosts, accounts      int
	duration                              time.Duration
	seed                                  uint64
}

func main() {
	var o options
	flag.StringVar(&o.nimbrel, "nimbrel", "bin/nimbrel", "the `command` under test")
	flag.StringVar(&o.image, "image", "", "raw disk `file` that guests boot from")
	flag.StringVar(&o.dir, "dir", "", "state `directory` of the cloud; default: a new one, removed at the end")
	flag.StringVar(&o.prefix, "prefix", "nbt", "what `names` of namespaces and links begin with")
	flag.StringVar(&o.underlay, "underlay", "198.18.93.0/24", "`network` of the hosts")
	flag.IntVar(&o.port, "port", 18793, "`port` of the EC2 API")
	flag.IntVar(&o.hosts, "hosts", 2, "real hosts")
	flag.IntVar(&o.fakeHosts, "fake-hosts", 50, "fake hosts beside them")
	flag.IntVar(&o.accounts, "accounts", 8, "accounts")
	flag.DurationVar(&o.duration, "duration", 30*time.Minute, "how long to go on before everything is counted")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the choices")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("real hosts need root")
	}
	fmt.Printf("seed %d\n", o.seed)
	b, finished := &books{}, false
	c, err := open(o)
	if err != nil {
		return err
	}
	defer func() {
		left, e := c.end()
		err = errors.Join(err, e)
		for _, line := range left {
			b.wrong(&b.leaks, "the cloud is down and left %s", line)
		}
		if finished {
			err = errors.Join(err, b.figures())
		}
	}()
	if err := c.up(ctx); err != nil {
		return err
	}
	tenants, err := makeTenants(ctx, c)
	if err != nil {
		return err
	}
	fmt.Printf("torture: %d accounts on %d real and %d fake hosts for %v\n", o.accounts, o.hosts, o.fakeHosts, o.duration)
	mistreat(ctx, c, tenants, b)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	finished = true
	return verdict(ctx, c, tenants, b)
}

// mistreat lets the accounts work and the killer kill until the time is over.
func mistreat(ctx context.Context, c *cloud, tenants []*tenant, b *books) {
	limited, cancel := context.WithTimeout(ctx, c.o.duration)
	defer cancel()
	var group sync.WaitGroup
	for _, t := range tenants {
		group.Go(func() { t.live(limited, b) })
	}
	group.Go(func() { kill(limited, c, b) })
	ticker := time.NewTicker(30 * time.Second)
	defer ticker.Stop()
	go func() {
		for {
			select {
			case <-limited.Done():
				return
			case <-ticker.C:
				fmt.Println(b.progress())
			}
		}
	}()
	group.Wait()
	fmt.Println(b.progress())
}

// choices makes one stream of random choices for each name, so that streams do not depend on each other's pace.
func choices(seed uint64, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// books counts what was done and what is wrong.
type books struct {
	mu       sync.Mutex
	counts   map[string]int // mu
	order    []string       // mu
	problems []string       // mu; at most maxProblems
	lost     int            // mu; acknowledged, and not so
	doubles  int            // mu; handed out while somebody held it
	leaks    int            // mu; left when everything was terminated
	broken   int            // mu; answers that no correct server gives
	onWrong  func()         // called after each defect; may be nil
}

const maxProblems = 200

// count counts one thing done.
func (b *books) count(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counts == nil {
		b.counts = map[string]int{}
	}
	if b.counts[what] == 0 {
		b.order = append(b.order, what)
	}
	b.counts[what]++
}

// wrong adds to one of the figures.
func (b *books) wrong(figure *int, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*figure++
	if len(b.problems) < maxProblems {
		text := fmt.Sprintf(format, args...)
		b.problems = append(b.problems, text)
		fmt.Println("WRONG", text)
	}
	if b.onWrong != nil {
		b.onWrong()
	}
}

// figures prints the figures; it fails unless all is well.
func (b *books) figures() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Printf("figure torture.leaks %d count\ncheck torture.leaks %s\n", b.leaks, verdictOn(b.leaks))
	fmt.Printf("figure torture.double_handouts %d count\ncheck torture.double_handouts %s\n", b.doubles, verdictOn(b.doubles))
	fmt.Printf("figure torture.acknowledged_lost %d count\ncheck torture.acknowledged_lost %s\n", b.lost, verdictOn(b.lost))
	if n := b.leaks + b.doubles + b.lost + b.broken; n > 0 {
		return fmt.Errorf("%d things are wrong, %d of them answers or ends that nobody asked for", n, b.broken)
	}
	return nil
}

// verdictOn is a check's word for a figure whose goal is 0.
func verdictOn(count int) string {
	if count > 0 {
		return "FAIL"
	}
	return "ok"
}

func (b *books) progress() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	line := "done"
	for _, what := range b.order {
		line += fmt.Sprintf(" %s=%d", what, b.counts[what])
	}
	return line
}
