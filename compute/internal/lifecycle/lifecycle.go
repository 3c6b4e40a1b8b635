// Package lifecycle decides: which verbs an instance's state allows, and what a host's report or the passing of time
// does to it.
//
// Pure: state and report in, step out. compute/server turns a step into one transaction. Every function is level-triggered: it
// looks at what is, not at what happened, so a lost or repeated report changes nothing.
package lifecycle

import (
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Verb is what a client asks of an instance.
type Verb uint8

const (
	Start Verb = iota
	Stop
	Reboot
	Terminate
	ModifyStopped // change an attribute that only a stopped instance may change
)

var pastTense = [...]string{"started", "stopped", "rebooted", "terminated", "modified"}

// Next returns the state that verb leads to from s, or a *compute.StateError. The same state means that nothing is to be
// done, except for Reboot.
func Next(id ids.Instance, s compute.State, v Verb) (compute.State, error) {
	switch {
	case v == Terminate && (s == compute.ShuttingDown || s == compute.Terminated):
		return s, nil
	case v == Terminate:
		return compute.ShuttingDown, nil
	case v == Start && s == compute.Stopped:
		return compute.Pending, nil
	case v == Start && (s == compute.Pending || s == compute.Running):
		return s, nil
	case v == Stop && s == compute.Running:
		return compute.Stopping, nil
	case v == Stop && (s == compute.Stopping || s == compute.Stopped):
		return s, nil
	case v == Reboot && s == compute.Running:
		return s, nil
	case v == ModifyStopped && s == compute.Stopped:
		return s, nil
	}
	return s, &compute.StateError{Instance: id, State: s, Verb: pastTense[v]}
}

// ChargesVCPU says whether an instance in state s uses the account's vCPU quota. A stopping instance's quota has
// returned already: undo never waits for a host.
func ChargesVCPU(s compute.State) bool { return s == compute.Pending || s == compute.Running }

// ChargesInstance says whether an instance in state s uses the account's instance quota.
func ChargesInstance(s compute.State) bool {
	return s != compute.ShuttingDown && s != compute.Terminated
}

// Step is what is to be done with an instance.
type Step uint8

const (
	Keep      Step = iota
	Run            // pending → running
	Halt           // → stopped, Reason says why; quota returns if the instance still used it
	Retry          // pending on this host is hopeless: another host, once
	Fail           // pending is hopeless: terminate with Server.InternalError
	Vanish         // the guest ended itself and asked to be terminated
	StopGuest      // the guest ended itself: → stopped, Client.InstanceInitiatedShutdown
)

// Situation is what decides, apart from the report.
type Situation struct {
	State        compute.State
	Generation   uint64
	Attempt      int       // hosts tried in this launch, from 1
	PendingSince time.Time // entered pending
	AttemptSince time.Time // this host was told
	OnShutdown   compute.ShutdownBehavior
}

// launching says whether the instance has never run: only then may its disk be made anew on another host.
func (s Situation) launching() bool { return s.State == compute.Pending && s.Generation == 1 }

// Fold is the step that a host's report calls for. Reports of an older start are history.
func Fold(s Situation, r host.InstanceStatus) Step {
	if r.Generation != s.Generation {
		return Keep
	}
	ended := r.State == host.VMStopped || r.State == host.VMFailed
	switch {
	case s.State == compute.Pending && r.State == host.VMRunning:
		return Run
	case s.State == compute.Pending && r.State == host.VMFailed:
		return s.hopeless()
	case s.State == compute.Stopping && ended:
		return Halt
	case s.State == compute.Running && r.State == host.VMFailed:
		return Halt
	case (s.State == compute.Running || s.State == compute.Pending) && r.State == host.VMStopped:
		return s.guestEnded()
	}
	return Keep
}

func (s Situation) guestEnded() Step {
	if s.OnShutdown == compute.ShutdownTerminates {
		return Vanish
	}
	return StopGuest
}

// hopeless is the step when this attempt cannot succeed. A start of an instance that ran before has its disk here, so it
// returns to stopped.
func (s Situation) hopeless() Step {
	switch {
	case !s.launching():
		return Halt
	case s.Attempt < 2:
		return Retry
	}
	return Fail
}

// Overdue is the step that time calls for, and when to look again; zero means that time changes nothing.
func Overdue(s Situation, now time.Time) (Step, time.Time) {
	if s.State != compute.Pending {
		return Keep, time.Time{}
	}
	limit := s.PendingSince.Add(compute.PendingLimit)
	if !now.Before(limit) {
		if s.launching() {
			return Fail, time.Time{}
		}
		return Halt, time.Time{}
	}
	attempt := s.AttemptSince.Add(compute.PendingTimeout)
	if s.launching() && s.Attempt < 2 {
		if !now.Before(attempt) {
			return Retry, limit
		}
		return Keep, attempt
	}
	return Keep, limit
}

// SystemCheck is whether the instance's host and machine are well, as far as this server knows. heard is whether the host's
// session is younger than compute.HostDownAfter; known is whether the host has reported the instance.
func SystemCheck(s compute.State, heard, known bool, r host.InstanceStatus) compute.Check {
	switch {
	case s == compute.Pending:
		return compute.CheckInitializing
	case s != compute.Running:
		return compute.CheckNotApplicable
	case !heard:
		return compute.CheckImpaired
	case !known:
		return compute.CheckInsufficientData
	case r.State == host.VMRunning:
		return compute.CheckOK
	}
	return compute.CheckImpaired
}

// ReachCheck is whether the guest answers on its network.
func ReachCheck(s compute.State, heard, known bool, r host.InstanceStatus) compute.Check {
	system := SystemCheck(s, heard, known, r)
	switch {
	case system == compute.CheckImpaired && !heard:
		return compute.CheckInsufficientData
	case system != compute.CheckOK:
		return system
	case r.Reach == host.ReachOK:
		return compute.CheckOK
	case r.Reach == host.ReachImpaired:
		return compute.CheckImpaired
	}
	return compute.CheckInitializing
}
