package reconcile

import (
	"errors"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
)

var now = time.Unix(1_000_000, 0)

func wanted(change func(*Want)) Want {
	w := Want{Known: true, Present: true, Ready: true, Instance: host.Instance{Generation: 1}}
	if change != nil {
		change(&w)
	}
	return w
}

func having(change func(*Have)) Have {
	h := Have{Directory: true, Named: true, Generation: 1, Running: true}
	if change != nil {
		change(&h)
	}
	return h
}

func ago(d time.Duration) time.Time { return now.Add(-d) }

func TestDecide(t *testing.T) {
	absent := Want{Known: true}
	stop := wanted(func(w *Want) { w.Instance.Power = host.PowerStop })
	ended := func(cause Cause) Have {
		return having(func(h *Have) { h.Running, h.Cause = false, cause })
	}
	pressed := func(first, last time.Duration) Have {
		return having(func(h *Have) { h.PressedAt, h.LastPress = ago(first), ago(last) })
	}
	failed := func(attempts int, since time.Duration) Have {
		return Have{Attempts: attempts, Attempted: 1, AttemptedAt: ago(since), Code: host.CodeImage, Reason: "no image"}
	}
	for _, c := range []struct {
		name    string
		want    Want
		have    Have
		step    Step
		state   host.VMState
		code    string
		settled bool
		again   time.Duration
	}{
		{"new", wanted(nil), Have{}, Start, host.VMPreparing, "", false, 0},
		{"new, network not ready", wanted(func(w *Want) { w.Ready = false }), Have{}, None, host.VMPreparing, "", false, 0},
		{"new, to be off", stop, Have{}, None, host.VMStopped, host.CodeUserShutdown, true, 0},
		{"runs", wanted(nil), having(nil), None, host.VMRunning, "", true, 0},
		{"runs an older generation", wanted(func(w *Want) { w.Instance.Generation = 2 }), having(nil), PressButton, host.VMStopping, "", false, 0},
		{"runs a newer generation", wanted(nil), having(func(h *Have) { h.Generation = 2 }), None, host.VMRunning, "", true, 0},
		{"next generation", wanted(func(w *Want) { w.Instance.Generation = 2 }), ended(PoweredOff), Start, host.VMPreparing, "", false, 0},
		{"next generation after a crash", wanted(func(w *Want) { w.Instance.Generation = 2 }), ended(Crashed), Start, host.VMPreparing, "", false, 0},

		{"failed once, just now", wanted(nil), failed(1, time.Second), None, host.VMPreparing, host.CodeImage, false, time.Second},
		{"failed once, a while ago", wanted(nil), failed(1, RetryPause), Start, host.VMPreparing, host.CodeImage, false, 0},
		{"failed for good", wanted(nil), failed(MaxAttempts, time.Hour), None, host.VMFailed, host.CodeImage, true, 0},
		{"failed in an older generation", wanted(func(w *Want) { w.Instance.Generation = 2 }), failed(MaxAttempts, 0), Start, host.VMPreparing, "", false, 0},
		{"invalid", wanted(func(w *Want) { w.Invalid = errors.New("bad") }), Have{}, None, host.VMFailed, host.CodeInvalid, true, 0},
		{"runs, now invalid", wanted(func(w *Want) { w.Invalid = errors.New("bad") }), having(nil), None, host.VMRunning, host.CodeInvalid, true, 0},

		{"stop", stop, having(nil), PressButton, host.VMStopping, "", false, 0},
		{"stop, pressed", stop, pressed(time.Second, time.Second), None, host.VMStopping, "", false, PressAgain - time.Second},
		{"stop, press again", stop, pressed(PressAgain, PressAgain), PressButton, host.VMStopping, "", false, 0},
		{"stop, almost out of patience", stop, pressed(StopPatience-time.Second, time.Second), None, host.VMStopping, "", false, time.Second},
		{"stop, out of patience", stop, pressed(StopPatience, time.Second), Kill, host.VMStopping, "", false, 0},
		{"stop at once", wanted(func(w *Want) { w.Instance.Power = host.PowerKill }), having(nil), Kill, host.VMStopping, "", false, 0},
		{"stopped as asked", stop, ended(PoweredOff), None, host.VMStopped, host.CodeUserShutdown, true, 0},
		{"killed as asked", stop, ended(Killed), None, host.VMStopped, host.CodeUserShutdown, true, 0},

		{"guest went off", wanted(nil), ended(PoweredOff), None, host.VMStopped, host.CodeGuestShutdown, true, 0},
		{"crashed", wanted(nil), ended(Crashed), None, host.VMFailed, host.CodeInternal, true, 0},
		{"host booted", wanted(nil), ended(HostBooted), None, host.VMFailed, host.CodeHostRestarted, true, 0},

		{"reboot", wanted(func(w *Want) { w.Instance.RebootID = "op-1" }), having(nil), Reboot, host.VMRunning, "", false, 0},
		{"reboot done", wanted(func(w *Want) { w.Instance.RebootID = "op-1" }), having(func(h *Have) { h.RebootID = "op-1" }), None, host.VMRunning, "", true, 0},
		{"stop overtakes reboot", wanted(func(w *Want) { w.Instance.RebootID, w.Instance.Power = "op-1", host.PowerStop }), having(nil), PressButton, host.VMStopping, "", false, 0},

		{"terminate", absent, having(nil), PressButton, host.VMStopping, "", false, 0},
		{"terminate, out of patience", absent, pressed(TerminatePatience, time.Second), Kill, host.VMStopping, "", false, 0},
		{"terminate, off", absent, ended(PoweredOff), Remove, host.VMStopping, "", false, 0},
		{"terminate, never started", absent, Have{Directory: true, Named: true}, Remove, host.VMStopping, "", false, 0},
		{"gone", absent, Have{}, None, 0, "", true, 0},
		{"never named, runs", absent, having(func(h *Have) { h.Named = false }), None, host.VMQuarantined, "", true, 0},
		{"never named, off", absent, having(func(h *Have) { h.Named, h.Running, h.Cause = false, false, Crashed }), None, host.VMFailed, host.CodeInternal, true, 0},

		{"terminate, unknown", absent, having(func(h *Have) { h.Running, h.Unknown = false, "damaged" }), None, host.VMQuarantined, host.CodeInternal, true, 0},
		{"start, unknown", wanted(nil), Have{Directory: true, Unknown: "damaged"}, None, host.VMQuarantined, host.CodeInternal, true, 0},

		{"no document yet", Want{}, having(nil), None, host.VMRunning, "", true, 0},
		{"a version waits", Want{Known: true, Unsure: true}, having(nil), None, host.VMRunning, "", false, 0},
		{"a version waits, never named", Want{Known: true, Unsure: true}, having(func(h *Have) { h.Named = false }), None, host.VMRunning, "", false, 0},
		{"of another history", Want{Known: true, Orphan: true}, having(nil), None, host.VMQuarantined, host.CodeInternal, true, 0},
		{"of another history, never named", Want{Known: true, Orphan: true}, having(func(h *Have) { h.Named = false }), None, host.VMQuarantined, host.CodeInternal, true, 0},
		{"of another history, off", Want{Known: true, Orphan: true}, ended(PoweredOff), None, host.VMStopped, host.CodeInternal, true, 0},
		{"of another history, gone", Want{Known: true, Orphan: true}, Have{}, None, 0, "", true, 0},
	} {
		got := Decide(c.want, c.have, now)
		if got.Step != c.step || got.State != c.state || got.Code != c.code || got.Settled != c.settled || got.Again != c.again {
			t.Errorf("%s: %v %v %q settled=%v again=%v; want %v %v %q settled=%v again=%v", c.name,
				got.Step, got.State, got.Code, got.Settled, got.Again, c.step, c.state, c.code, c.settled, c.again)
		}
	}
}

// TestNothingEndsByGuess enumerates the small scope: a guest is killed or removed only when a complete document wants it.
func TestNothingEndsByGuess(t *testing.T) {
	bools := []bool{false, true}
	for _, known := range bools {
		for _, orphan := range bools {
			d := Decide(Want{Known: known, Orphan: orphan}, having(func(h *Have) { h.PressedAt, h.LastPress = ago(time.Hour), ago(time.Hour) }), now)
			if ends := d.Step != None; ends != (known && !orphan) {
				t.Errorf("known=%v orphan=%v: %v", known, orphan, d.Step)
			}
		}
		for _, unsure := range bools {
			for _, named := range bools {
				for _, running := range bools {
					have := having(func(h *Have) {
						h.Named, h.Running, h.PressedAt, h.LastPress = named, running, ago(time.Hour), ago(time.Hour)
					})
					d := Decide(Want{Known: known, Unsure: unsure}, have, now)
					ends := d.Step == Kill || d.Step == Remove || d.Step == PressButton
					if ends != (known && !unsure && named) {
						t.Errorf("known=%v unsure=%v named=%v running=%v: %v", known, unsure, named, running, d.Step)
					}
				}
			}
		}
	}
}

// TestProgress holds that an unsettled decision always has something that ends the wait: a step, a time, or an arrival.
func TestProgress(t *testing.T) {
	for power := host.PowerRun; power <= host.PowerKill; power++ {
		for pressed := time.Duration(0); pressed <= 2*StopPatience; pressed += time.Second {
			have := having(func(h *Have) { h.PressedAt, h.LastPress = ago(pressed), ago(pressed%PressAgain) })
			d := Decide(wanted(func(w *Want) { w.Instance.Power = power }), have, now)
			if !d.Settled && d.Step == None && d.Again <= 0 {
				t.Errorf("power %v, pressed %v ago: stuck in %+v", power, pressed, d)
			}
		}
	}
}

func TestReach(t *testing.T) {
	for _, c := range []struct {
		name           string
		started, heard time.Time
		want           host.Reach
	}{
		{"just started", ago(time.Second), time.Time{}, host.ReachInitializing},
		{"heard", ago(time.Minute), ago(time.Second), host.ReachOK},
		{"heard in an earlier life", ago(time.Second), ago(time.Minute), host.ReachInitializing},
		{"heard within the clock's grain", ago(100 * time.Millisecond), ago(time.Second), host.ReachOK},
		{"silent", ago(time.Hour), ago(Silence + time.Second), host.ReachImpaired},
		{"never spoke", ago(BootSilence + time.Second), time.Time{}, host.ReachImpaired},
	} {
		if got := Reach(c.started, c.heard, now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
