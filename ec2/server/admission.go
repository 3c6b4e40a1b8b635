package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/query"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/ratelimit"
)

// Class is a kind of request, with limits of its own.
type Class string

// The classes: what is answered from memory, what commits, and what starts guests.
const (
	Reads    Class = "reads"
	Writes   Class = "writes"
	Launches Class = "launches"
)

// Classes are all of them.
var Classes = []Class{Reads, Writes, Launches}

// AdmissionOptions bound what is admitted of one account. The zero value bounds no rate.
type AdmissionOptions struct {
	Rates map[Class]ratelimit.Rate // requests; a class without one has no bound
	// RunningReads bounds the reads of one account that run at once. They keep a processor busy, so the default is half of
	// the processors, at least 1. RunningWrites bounds the others, which mostly wait for the disk; default 32.
	RunningReads, RunningWrites int
	// Waiting bounds the requests of one account, of each kind, that wait for that. Default 64.
	Waiting int
	// Patience is how long one waits at most. Default 2 s.
	Patience time.Duration
}

func (o *AdmissionOptions) complete() {
	o.RunningReads = defaultTo(o.RunningReads, max(1, runtime.GOMAXPROCS(0)/2))
	o.RunningWrites = defaultTo(o.RunningWrites, 32)
	o.Waiting = defaultTo(o.Waiting, 64)
	o.Patience = defaultTo(o.Patience, 2*time.Second)
}

func defaultTo[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// maxAccounts bounds the accounts that have buckets of their own at one time, and the access keys that are remembered.
const maxAccounts = 1 << 14

// Refusal is why a request was not admitted.
type Refusal string

// The refusals.
const (
	RefusedRate  Refusal = "rate"  // its account asks too often
	RefusedQueue Refusal = "queue" // too much of its account's runs and waits
	RefusedTotal Refusal = "total" // everything that may run at once does
)

// Refusals are all of them.
var Refusals = []Refusal{RefusedRate, RefusedQueue, RefusedTotal}

type refusal struct {
	class Class
	why   Refusal
}

// Admission keeps accounts out of each other's way: each has its own rates, and its own turns at running, so what one asks
// for costs another no more than the processors and the disk that its turns take. It is safe for concurrent use.
//
// Only verified requests are counted. One that merely claims the key of an account is refused unverified while that
// account's own requests would be, and takes nothing: who does not hold a secret can spend nobody's tokens.
type Admission struct {
	options AdmissionOptions
	rates   map[Class]*ratelimit.Buckets[ids.Account]
	reads   *ratelimit.Turns[ids.Account]
	writes  *ratelimit.Turns[ids.Account]
	refused map[refusal]*atomic.Uint64 // fixed when made

	mu   sync.Mutex
	keys map[string]ids.Account // access keys whose requests were verified, at most maxAccounts
}

// NewAdmission makes an Admission. One that several front ends share has one limit for all of them.
func NewAdmission(o AdmissionOptions) *Admission {
	o.complete()
	a := &Admission{
		options: o, rates: map[Class]*ratelimit.Buckets[ids.Account]{}, refused: map[refusal]*atomic.Uint64{}, keys: map[string]ids.Account{},
		reads: ratelimit.NewTurns[ids.Account](o.RunningReads, o.Waiting), writes: ratelimit.NewTurns[ids.Account](o.RunningWrites, o.Waiting),
	}
	for _, class := range Classes {
		a.rates[class] = ratelimit.NewBuckets[ids.Account](o.Rates[class], maxAccounts)
		for _, why := range Refusals {
			a.refused[refusal{class, why}] = new(atomic.Uint64)
		}
	}
	return a
}

// AdmissionStats is what an Admission did and does.
type AdmissionStats struct {
	Refused          map[Class]map[Refusal]uint64 // every class and refusal has an entry
	Running, Waiting int
}

// Stats counts now.
func (a *Admission) Stats() AdmissionStats {
	out := AdmissionStats{Refused: map[Class]map[Refusal]uint64{}}
	for of, n := range a.refused {
		if out.Refused[of.class] == nil {
			out.Refused[of.class] = map[Refusal]uint64{}
		}
		out.Refused[of.class][of.why] = n.Load()
	}
	for _, turns := range []*ratelimit.Turns[ids.Account]{a.reads, a.writes} {
		running, waiting := turns.Now()
		out.Running, out.Waiting = out.Running+running, out.Waiting+waiting
	}
	return out
}

// classOf sorts an action. GetConsoleOutput reads, but waits for a host: it must not hold up reads from memory.
func classOf(action string, readOnly bool) Class {
	switch {
	case action == "RunInstances" || action == "StartInstances":
		return Launches
	case readOnly && !strings.HasPrefix(action, "GetConsole"):
		return Reads
	}
	return Writes
}

func (a *Admission) turns(c Class) *ratelimit.Turns[ids.Account] {
	if c == Reads {
		return a.reads
	}
	return a.writes
}

// shed refuses a request by what it claims, where a verified one would be refused too. It takes nothing.
func (a *Admission) shed(accessKeyID, action string, readOnly bool, now time.Time) error {
	a.mu.Lock()
	account, known := a.keys[accessKeyID]
	a.mu.Unlock()
	if !known {
		return nil
	}
	class := classOf(action, readOnly)
	if wait, empty := a.rates[class].Empty(account, now); empty {
		return a.refuse(class, RefusedRate, wait)
	}
	if a.turns(class).Full(account) {
		return a.refuse(class, RefusedQueue, 0)
	}
	return nil
}

// admit takes a token and waits for a turn of the account of a verified request.
func (a *Admission) admit(ctx context.Context, call query.Call, readOnly bool, now time.Time) (release func(), err error) {
	a.remember(call)
	class := classOf(call.Action, readOnly)
	if wait, ok := a.rates[class].Take(call.Account, now); !ok {
		return nil, a.refuse(class, RefusedRate, wait)
	}
	patient, cancel := context.WithTimeout(ctx, a.options.Patience)
	defer cancel()
	release, err = a.turns(class).Take(patient, call.Account)
	switch {
	case errors.Is(err, ratelimit.ErrQueueFull) || (err != nil && ctx.Err() == nil):
		return nil, a.refuse(class, RefusedQueue, 0)
	case err != nil:
		return nil, fmt.Errorf("wait for a turn of account %s: %w", call.Account, err)
	}
	return release, nil
}

// remember notes whose key it is. What is forgotten costs one verification.
func (a *Admission) remember(call query.Call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.keys[call.AccessKeyID]; known {
		return
	}
	if len(a.keys) >= maxAccounts {
		clear(a.keys)
	}
	a.keys[call.AccessKeyID] = call.Account
}

// refuse counts and answers. Clients' retries back off by themselves; wait is for those that ask when.
func (a *Admission) refuse(c Class, why Refusal, wait time.Duration) error {
	a.refused[refusal{c, why}].Add(1)
	return &query.RetryError{Err: errs.Throttled, After: max(wait, time.Second)}
}

// gate is the Admission with the bound of all accounts together.
type gate struct {
	*Admission
	now     func() time.Time
	max     int64
	running atomic.Int64
}

func (g *gate) shed(accessKeyID, action string, readOnly bool) error {
	return g.Admission.shed(accessKeyID, action, readOnly, g.now())
}

func (g *gate) admit(ctx context.Context, call query.Call, readOnly bool) (release func(), err error) {
	turn, err := g.Admission.admit(ctx, call, readOnly, g.now())
	if err != nil {
		return nil, err
	}
	if g.running.Add(1) > g.max {
		g.running.Add(-1)
		turn()
		return nil, g.refuse(classOf(call.Action, readOnly), RefusedTotal, 0)
	}
	return func() {
		g.running.Add(-1)
		turn()
	}, nil
}
