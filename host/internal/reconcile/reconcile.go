// Package reconcile decides what a host does next about one guest.
//
// Decide is pure: what is wanted, what is, and the time go in; one step and the report come out. It takes no event. A
// worker performs the step, looks again, and asks again until there is nothing to do; first time, retry and recovery
// after a crash are the same path.
//
// Invariants, held by tables in the tests:
//
//   - A guest ends for ever only when a complete document no longer names it, and only if a document once did.
//   - A generation is started at most once; a guest that ended stays as it is until the generation rises.
//   - A reboot is done at most once per id.
//   - Power-off is asked for politely first, for a bounded time.
package reconcile

import (
	"time"

	"github.com/nimbrel/nimbrel/host"
)

// Patience of power-offs, from the first press of the button to the kill.
const (
	StopPatience      = 60 * time.Second
	TerminatePatience = 5 * time.Second
	// PressAgain: a guest that was still booting did not see the button.
	PressAgain = 5 * time.Second
	// RebootPatience is how long a rebooting guest may take to go down before it is reset.
	RebootPatience = 60 * time.Second
)

// Attempts of a start within one generation, and the pauses between them.
const (
	MaxAttempts = 3
	RetryPause  = 2 * time.Second
)

// Cause is why a guest ended.
type Cause uint8

const (
	Crashed    Cause = iota // its machine ended by itself
	PoweredOff              // the guest switched itself off, asked or not
	Killed                  // by this host's agent
	HostBooted              // the host booted anew under it
)

// Want is what the documents say.
type Want struct {
	Known    bool // the section was received; absence from an unknown section means nothing
	Present  bool // the instance is named
	Unsure   bool // named by a version that waits: neither present nor absent
	Orphan   bool // named by another history alone, as after a restore of the server's store: nobody here knows of it
	Instance host.Instance
	Ready    bool  // everything the start needs has arrived: its interfaces, and their network is programmed
	Invalid  error // the item asks for what no host could run
}

// Have is what is.
type Have struct {
	Directory  bool   // there is something on disk
	Named      bool   // a document named it once
	Generation uint64 // last started; 0 when never
	Running    bool
	Cause      Cause  // why Generation has ended
	Ending     string // the same for a person
	// Unknown says why it cannot be told whether a guest runs there: a damaged record, or another holder of its lock.
	Unknown   string
	RebootID  string // last executed, or overtaken by a start
	PressedAt time.Time
	LastPress time.Time

	Attempts    int // failed starts of AttemptedGeneration
	AttemptedAt time.Time
	Attempted   uint64 // generation that Attempts are of
	Code        string // of the last failed attempt
	Reason      string
}

// Step is one thing to do.
type Step uint8

const (
	None Step = iota
	Start
	PressButton
	Kill
	Reboot
	Remove // close its ports, keep or remove its disk, forget it
)

func (s Step) String() string {
	return [...]string{"none", "start", "press-button", "kill", "reboot", "remove"}[s]
}

// Decision is what to do and what to say.
type Decision struct {
	Step  Step
	State host.VMState // to report; 0 when there is nothing to report
	// Code and Reason of State.
	Code, Reason string
	// Settled: what is wanted is done, or has failed for good.
	Settled bool
	Failed  bool // settled by failure
	// Again is when to look without any event; 0 is never.
	Again time.Duration
}

// Decide chooses the next step.
func Decide(want Want, have Have, now time.Time) Decision {
	switch {
	case have.Unknown != "": // a guest may run: its ports, disk and address stay taken
		return Decision{State: host.VMQuarantined, Code: host.CodeInternal, Reason: have.Unknown, Settled: true, Failed: true}
	case want.Present:
		return present(want, have, now)
	case !want.Known || want.Unsure:
		return asIs(have, !want.Unsure)
	case want.Orphan && have.Directory: // it holds what it holds: it is named as not applied, for good
		d := asIs(have, true)
		d.Failed, d.Code, d.Reason = true, host.CodeInternal, "only another history than the server's names this guest, as after a restore of its store"
		if have.Running {
			d.State = host.VMQuarantined
		}
		return d
	case !have.Directory:
		return Decision{Settled: true}
	case !have.Named:
		d := asIs(have, true)
		if have.Running {
			d.State, d.Reason = host.VMQuarantined, "no document ever named this guest"
		}
		return d
	case have.Running:
		return powerOff(have, now, TerminatePatience)
	}
	return Decision{Step: Remove, State: host.VMStopping}
}

// asIs leaves a guest alone and reports it.
func asIs(have Have, settled bool) Decision {
	d := Decision{Settled: settled}
	switch {
	case have.Running:
		d.State = host.VMRunning
	case have.Generation > 0:
		d.State, d.Code, d.Reason = ended(have, host.PowerRun)
	}
	return d
}

func present(want Want, have Have, now time.Time) Decision {
	i := &want.Instance
	switch {
	case want.Invalid != nil:
		d := asIs(have, true)
		d.Failed, d.Code, d.Reason = true, host.CodeInvalid, want.Invalid.Error()
		if !have.Running {
			d.State = host.VMFailed
		}
		return d
	case have.Running && have.Generation > i.Generation: // an older document: a newer one started it
		return asIs(have, true)
	case have.Running && i.Power == host.PowerKill:
		return Decision{Step: Kill, State: host.VMStopping}
	case have.Running && (i.Power == host.PowerStop || have.Generation < i.Generation):
		return powerOff(have, now, StopPatience)
	case have.Running && i.RebootID != "" && i.RebootID != have.RebootID:
		return Decision{Step: Reboot, State: host.VMRunning}
	case have.Running:
		return Decision{State: host.VMRunning, Settled: true}
	case i.Power != host.PowerRun:
		return off(have, i.Power)
	case have.Generation >= i.Generation:
		d := Decision{Settled: true}
		d.State, d.Code, d.Reason = ended(have, host.PowerRun)
		return d
	}
	return start(want, have, now)
}

// off: the guest is to be off and is. One that was never started is stopped too.
func off(have Have, power host.Power) Decision {
	d := Decision{State: host.VMStopped, Code: host.CodeUserShutdown, Settled: true}
	if have.Generation > 0 {
		d.State, d.Code, d.Reason = ended(have, power)
	}
	return d
}

// start: the generation is to run and has not run.
func start(want Want, have Have, now time.Time) Decision {
	d := Decision{State: host.VMPreparing}
	tried := have.Attempted == want.Instance.Generation && have.Attempts > 0
	if tried {
		d.Code, d.Reason = have.Code, have.Reason
	}
	switch pause := RetryPause - now.Sub(have.AttemptedAt); {
	case tried && have.Attempts >= MaxAttempts:
		d.State, d.Settled, d.Failed = host.VMFailed, true, true
	case tried && pause > 0:
		d.Again = pause
	case want.Ready:
		d.Step = Start
	}
	return d
}

// powerOff presses the button, again now and then, and kills at the end of patience.
func powerOff(have Have, now time.Time, patience time.Duration) Decision {
	d := Decision{State: host.VMStopping}
	switch {
	case have.PressedAt.IsZero(), now.Sub(have.LastPress) >= PressAgain && now.Sub(have.PressedAt) < patience:
		d.Step = PressButton
	case now.Sub(have.PressedAt) >= patience:
		d.Step = Kill
	default:
		d.Again = min(PressAgain-now.Sub(have.LastPress), patience-now.Sub(have.PressedAt))
	}
	return d
}

// ended says how a guest's end is reported, given the power that was wanted of it.
func ended(have Have, power host.Power) (host.VMState, string, string) {
	switch {
	case power != host.PowerRun:
		return host.VMStopped, host.CodeUserShutdown, ""
	case have.Cause == PoweredOff:
		return host.VMStopped, host.CodeGuestShutdown, have.Ending
	case have.Cause == Killed: // stopped by an earlier document
		return host.VMStopped, host.CodeUserShutdown, have.Ending
	case have.Cause == HostBooted:
		return host.VMFailed, host.CodeHostRestarted, have.Ending
	}
	return host.VMFailed, host.CodeInternal, have.Ending
}

// Silence is how long a guest may leave probes unanswered before it counts as impaired; one that never spoke gets longer,
// for its boot.
const (
	Silence     = 60 * time.Second
	BootSilence = 10 * time.Minute
)

// Reach judges a running guest by when it was last heard on its network; zero is never.
func Reach(started, heard, now time.Time) host.Reach {
	// Times of hearing are good to a second, and a guest cannot speak before it started.
	if heard.Before(started.Add(-time.Second)) {
		if now.Sub(started) > BootSilence {
			return host.ReachImpaired
		}
		return host.ReachInitializing
	}
	if now.Sub(heard) > Silence {
		return host.ReachImpaired
	}
	return host.ReachOK
}
