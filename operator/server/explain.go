package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/internal/runbook"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/op"
)

const (
	// maxExplained bounds the operations that one explanation tells of, the newest of its subject.
	maxExplained = 40
	// stuckAfter is when an operation under way is worth a note.
	stuckAfter = 2 * time.Minute
	// skewNoted is how far a host's clock may be from the server's before an explanation says so.
	skewNoted = time.Second
)

// Sources of an event's time.
const (
	fromServer = "server"
	fromHost   = "host"
)

// Explain tells what is known of an operation or an instance: rows for what ended, the host's last report for the rest.
func (a *api) Explain(ctx context.Context, in *operatorgen.ExplainInput) (*operatorgen.ExplainOutput, error) {
	switch {
	case strings.HasPrefix(in.Subject, "op-"):
		return a.explainOperation(ctx, in.Subject)
	case strings.HasPrefix(in.Subject, "i-"):
		return a.explainInstance(ctx, in.Subject)
	}
	return nil, operatorgen.NewInvalidInput("%q: want an operation (op-…, see `nimbrel ops`) or an instance (i-…, see `nimbrel instances`)", in.Subject)
}

func (a *api) explainOperation(ctx context.Context, text string) (*operatorgen.ExplainOutput, error) {
	id, err := ids.Parse[ids.Operation](text)
	if err != nil {
		return nil, operatorgen.NewInvalidInput("%v", err)
	}
	var o op.Operation
	var found bool
	err = a.DB.View(ctx, func(r store.Reader) (err error) {
		o, found, err = op.Get(ctx, r, id)
		return err
	})
	if err != nil {
		return nil, explain(err)
	}
	if !found {
		return nil, operatorgen.NewNotFound("operation %s does not exist: ended ones are kept for %s", id, op.Keep)
	}
	instance, err := a.instance(ctx, ids.Instance(o.Target))
	if err != nil {
		instance = nil // purged, or no instance: the record tells what it can
	}
	return a.explained(ctx, text, []op.Operation{o}, instance)
}

func (a *api) explainInstance(ctx context.Context, text string) (*operatorgen.ExplainOutput, error) {
	id, err := ids.Parse[ids.Instance](text)
	if err != nil {
		return nil, operatorgen.NewInvalidInput("%v", err)
	}
	instance, missing := a.instance(ctx, id)
	var found []op.Operation
	err = a.DB.View(ctx, func(r store.Reader) (err error) {
		found, err = op.Latest(ctx, r, maxExplained, func(o *op.Operation) bool { return o.Target == text })
		return err
	})
	if err != nil {
		return nil, explain(err)
	}
	if missing != nil && len(found) == 0 {
		return nil, missing
	}
	slices.Reverse(found) // in order of time
	return a.explained(ctx, text, found, instance)
}

// explained tells of operations, in order of time, and of their instance if it is still there.
func (a *api) explained(ctx context.Context, subject string, operations []op.Operation, i *compute.Instance) (*operatorgen.ExplainOutput, error) {
	now := a.Env.Clock.Now()
	out := &operatorgen.ExplainOutput{Subject: subject, Notes: []string{}, Operations: []operatorgen.Operation{}, Events: []operatorgen.Event{}}
	for _, o := range operations {
		out.Operations = append(out.Operations, convertOperation(o))
		out.Events = append(out.Events, a.events(o, i)...)
	}
	slices.SortStableFunc(out.Events, func(x, y operatorgen.Event) int { return cmp.Compare(x.AtMs, y.AtMs) })
	out.Summary = summary(subject, operations, i, now)
	out.Notes = append(out.Notes, operationNotes(operations, now)...)
	if i != nil {
		notes, err := a.instanceNotes(ctx, i)
		if err != nil {
			return nil, explain(err)
		}
		out.Notes = append(out.Notes, notes...)
	}
	return out, nil
}

// events are an operation's own, and what the instance's host has said since, when the start at hand is the operation's.
func (a *api) events(o op.Operation, i *compute.Instance) []operatorgen.Event {
	accepted := operatorgen.Event{AtMs: o.BeganMs, Source: fromServer, OperationId: string(o.ID), What: "accepted", Detail: o.Kind + " by account " + string(o.Account)}
	if i != nil && o.Kind == "RunInstances" && i.Host != "" && !retried(o) {
		accepted.What, accepted.Detail = "accepted and placed", accepted.Detail+", on "+string(i.Host)
	}
	out := []operatorgen.Event{accepted}
	told := map[string]bool{}
	add := func(s op.Step, detail string) {
		name, ofHost := strings.CutPrefix(s.Name, compute.HostStep)
		e := operatorgen.Event{AtMs: s.AtMs, Source: fromServer, OperationId: string(o.ID), What: name, Detail: detail}
		if ofHost {
			e.Source = fromHost
		}
		told[s.Name] = true
		out = append(out, e)
	}
	for _, s := range o.Steps {
		detail := ""
		if s.Name == o.State.String() {
			detail = o.Error
		}
		add(s, detail)
	}
	if i == nil || !starts(o.Kind) || i.Operation != o.ID {
		return out
	}
	if r, known := a.Compute.LastReport(i.ID); known && r.Generation == i.Generation {
		for _, m := range r.Milestones() {
			if name := compute.HostStep + m.Name; !told[name] {
				add(op.Step{Name: name, AtMs: m.AtMs}, "")
			}
		}
	}
	return out
}

func retried(o op.Operation) bool {
	return slices.ContainsFunc(o.Steps, func(s op.Step) bool { return strings.HasPrefix(s.Name, "retried") })
}

// starts says whether an operation makes a guest start, which its host times.
func starts(kind string) bool { return kind == "RunInstances" || kind == "StartInstances" }

// summary says how the subject stands.
func summary(subject string, operations []op.Operation, i *compute.Instance, now time.Time) string {
	if strings.HasPrefix(subject, "op-") {
		o := operations[0]
		if o.State == op.Running {
			return fmt.Sprintf("%s of %s is under way for %s", o.Kind, o.Target, now.Sub(time.UnixMilli(o.BeganMs)).Round(time.Millisecond))
		}
		took := time.Duration(o.EndedMs-o.BeganMs) * time.Millisecond
		if o.State == op.Superseded {
			return fmt.Sprintf("%s of %s was superseded %s after %s", o.Kind, o.Target, o.Error, took)
		}
		text := fmt.Sprintf("%s of %s %s after %s", o.Kind, o.Target, o.State, took)
		if o.Error != "" {
			text += ": " + o.Error
		}
		return text
	}
	if i == nil {
		return subject + " is gone; its operations are what is left"
	}
	text := fmt.Sprintf("%s is %s on %s since %s", i.ID, i.State, cmp.Or(string(i.Host), "no host"), i.TransitionTime.UTC().Format(time.DateTime+" UTC"))
	if i.Reason.Message != "" && i.Reason.Message != i.State.String() {
		text += ": " + i.Reason.Message
	}
	return text
}

// operationNotes name operations that take long, and clocks that disagree: a host cannot receive what is not accepted
// yet, nor can the server know of a start before it.
func operationNotes(operations []op.Operation, now time.Time) (notes []string) {
	for _, o := range operations {
		if age := now.Sub(time.UnixMilli(o.BeganMs)); o.State == op.Running && age > stuckAfter {
			notes = append(notes, fmt.Sprintf("%s is under way for %s: see %s", o.ID, age.Round(time.Second), runbook.StuckOperation))
		}
		if skew := clockSkew(o); skew > skewNoted {
			notes = append(notes, fmt.Sprintf("the host's clock is at least %s off the server's: see %s", skew.Round(time.Millisecond), runbook.ClockOff))
		}
	}
	return notes
}

// clockSkew is by how much, at least, the clocks behind an operation's times disagree.
func clockSkew(o op.Operation) (least time.Duration) {
	for _, s := range o.Steps {
		if !strings.HasPrefix(s.Name, compute.HostStep) {
			continue
		}
		early := time.Duration(o.BeganMs-s.AtMs) * time.Millisecond
		late := time.Duration(0)
		if o.EndedMs > 0 {
			late = time.Duration(s.AtMs-o.EndedMs) * time.Millisecond
		}
		least = max(least, early, late)
	}
	return least
}

// instanceNotes tell of the instance's host, and of what it says that the state does not show.
func (a *api) instanceNotes(ctx context.Context, i *compute.Instance) (notes []string, err error) {
	if i.Simulated {
		notes = append(notes, "simulated: no real guest runs")
	}
	hosts, err := a.Compute.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if h.ID == i.Host {
			notes = append(notes, a.hostNotes(h)...)
		}
	}
	r, known := a.Compute.LastReport(i.ID)
	switch {
	case i.State == compute.Terminated:
	case !known:
		notes = append(notes, "its host has said nothing of it to this server")
	case r.Generation != i.Generation:
		notes = append(notes, fmt.Sprintf("its host still speaks of start %d, not %d", r.Generation, i.Generation))
	default:
		notes = append(notes, reportNote(r))
	}
	return notes, nil
}

func reportNote(r host.InstanceStatus) string {
	text := fmt.Sprintf("its host reports %s, network %s", r.State, r.Reach)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	if r.Resets > 0 {
		text += fmt.Sprintf("; the guest restarted itself %d times", r.Resets)
	}
	return text
}

func (a *api) hostNotes(h compute.Host) (notes []string) {
	if h.Draining {
		notes = append(notes, fmt.Sprintf("its host %s drains: it takes no new instances, and keeps this one (`nimbrel hosts resume %s` ends that)", h.ID, h.ID))
	}
	t, known := a.targets()[targetOf(h.ID)]
	if known && t.Liveness != dispatch.Up || !known && !h.Connected && !h.Awaited {
		notes = append(notes, fmt.Sprintf("its host %s is not connected: see %s", h.ID, runbook.LostHost))
	}
	return notes
}
