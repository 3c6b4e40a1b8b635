package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// TestExplain follows one launch from accepted to running, with the times that its host tells before and after.
func TestExplain(t *testing.T) {
	o := openOffice(t, 1)
	at := time.Now().UnixMilli()
	h := computetest.Info(0, computetest.Zone).ID
	o.Fleet.Refuse(h, func(i host.Instance) *host.InstanceStatus {
		return &host.InstanceStatus{ID: i.ID, Generation: i.Generation, State: host.VMRunning, ReceivedMs: at + 1, ImageMs: at + 2, PortsMs: at + 3, StartedMs: at + 4}
	})
	launched, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(1))
	if err != nil {
		t.Fatal(err)
	}
	i := launched.Instances[0]
	o.running(i.ID)
	got := must[*operatorgen.ExplainOutput](t)(o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: string(i.Operation)}))
	for _, want := range []string{"accepted and placed", "received", "image ready", "network ready", "machine started", "succeeded"} {
		if !slices.ContainsFunc(got.Events, func(e operatorgen.Event) bool { return e.What == want }) {
			t.Errorf("no event %q in %+v", want, got.Events)
		}
	}
	if !strings.Contains(got.Summary, "RunInstances of "+string(i.ID)+" succeeded after ") {
		t.Errorf("summary %q", got.Summary)
	}
	// What the host says after the operation's end comes from its report, and once.
	o.Fleet.Report(h, func(s *host.InstanceStatus) { s.DHCPMs = at + 60_000 }, i.ID)
	var seen []operatorgen.Event
	if err := o.Await(o.ctx, func() bool {
		got := must[*operatorgen.ExplainOutput](t)(o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: string(i.ID)}))
		seen = got.Events
		return seen[len(seen)-1].What == "guest's first DHCP"
	}); err != nil {
		t.Fatalf("events %+v: %v", seen, err)
	}
	if len(seen) != 7 || seen[6].Source != "host" || !slices.IsSortedFunc(seen, func(a, b operatorgen.Event) int { return int(a.AtMs - b.AtMs) }) {
		t.Errorf("events %+v", seen)
	}
	for _, subject := range []string{"vpc-1", "i-1", "op-nothing"} {
		_, err := o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: subject})
		wantCode(t, err, operatorgen.CodeInvalidInput)
	}
	for _, subject := range []string{"i-0123456789abcdef0", "op-00000000000000000"} {
		_, err := o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: subject})
		wantCode(t, err, operatorgen.CodeNotFound)
	}
}

// TestExplainNames holds what a person is told besides: a draining host, a failure's reason, clocks that disagree.
func TestExplainNames(t *testing.T) {
	o := openOffice(t, 1)
	h := computetest.Info(0, computetest.Zone).ID
	o.Fleet.Refuse(h, func(i host.Instance) *host.InstanceStatus {
		return &host.InstanceStatus{ID: i.ID, Generation: i.Generation, State: host.VMRunning, ReceivedMs: time.Now().Add(-time.Hour - 30*time.Second).UnixMilli()}
	})
	launched, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(1))
	if err != nil {
		t.Fatal(err)
	}
	id := launched.Instances[0].ID
	o.running(id)
	drained := must[*operatorgen.DrainHostOutput](t)(o.DrainHost(o.ctx, &operatorgen.DrainHostInput{HostId: "fake-0", Draining: true}))
	if drained.HostId != string(h) || drained.RemainingCount != 1 || drained.Remaining[0].InstanceId != string(id) {
		t.Errorf("drained %+v", drained)
	}
	got := must[*operatorgen.ExplainOutput](t)(o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: string(id)}))
	notes := strings.Join(got.Notes, "\n")
	for _, want := range []string{"drains", "clock is at least 1h0m", "simulated"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note of %q: %s", want, notes)
		}
	}
	hosts := must[*operatorgen.ListHostsOutput](t)(o.ListHosts(o.ctx, &operatorgen.ListHostsInput{}))
	if hosts.Hosts[0].State != operatorgen.HostStateDraining || hosts.Hosts[0].Draining == nil {
		t.Errorf("host %+v", hosts.Hosts[0])
	}
	resumed := must[*operatorgen.DrainHostOutput](t)(o.DrainHost(o.ctx, &operatorgen.DrainHostInput{HostId: string(h)}))
	if resumed.Draining {
		t.Errorf("resumed %+v", resumed)
	}
	_, err = o.DrainHost(o.ctx, &operatorgen.DrainHostInput{HostId: "no-such", Draining: true})
	wantCode(t, err, operatorgen.CodeNotFound)
	if log := o.log.String(); !strings.Contains(log, "action=DrainHost") || !strings.Contains(log, "action=ResumeHost") {
		t.Errorf("audit log: %s", log)
	}
}

// TestSuperseded: a stop that a terminate overtakes has not failed, and the terminate is named.
func TestSuperseded(t *testing.T) {
	o := openOffice(t, 1)
	launched, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(1))
	if err != nil {
		t.Fatal(err)
	}
	id := launched.Instances[0].ID
	o.running(id)
	o.Fleet.Disconnect(computetest.Info(0, computetest.Zone).ID) // which leaves the stop unfinished
	if _, err := o.Compute().StopInstances(o.ctx, o.Account, []ids.Instance{id}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Compute().TerminateInstances(o.ctx, o.Account, []ids.Instance{id}); err != nil {
		t.Fatal(err)
	}
	list := must[*operatorgen.ListOperationsOutput](t)(o.ListOperations(o.ctx, &operatorgen.ListOperationsInput{Subject: string(id)})).Operations
	kinds := map[string]operatorgen.Operation{} // those of one millisecond are in no order
	for _, one := range list {
		kinds[one.Kind] = one
	}
	stop, end := kinds["StopInstances"], kinds["TerminateInstances"]
	by := "by TerminateInstances " + end.OperationId
	if stop.State != operatorgen.OperationStateSuperseded || stop.Detail != by {
		t.Errorf("the stop is %s, %q; want superseded %s", stop.State, stop.Detail, by)
	}
	if end.State != operatorgen.OperationStateRunning || kinds["RunInstances"].State != operatorgen.OperationStateSucceeded || len(list) != 3 {
		t.Errorf("operations %+v", list)
	}
	got := must[*operatorgen.ExplainOutput](t)(o.Explain(o.ctx, &operatorgen.ExplainInput{Subject: stop.OperationId}))
	if !strings.Contains(got.Summary, "was superseded "+by+" after ") {
		t.Errorf("summary %q", got.Summary)
	}
	unfinished := true
	list = must[*operatorgen.ListOperationsOutput](t)(o.ListOperations(o.ctx, &operatorgen.ListOperationsInput{Unfinished: &unfinished})).Operations
	if len(list) != 1 || list[0].Kind != "TerminateInstances" {
		t.Errorf("unfinished operations %+v", list)
	}
}

// TestRowsHideUserData: neither an instance's row nor what its host is told shows user data, unless asked, and that is
// audited.
func TestRowsHideUserData(t *testing.T) {
	o := openOffice(t, 1)
	request := o.Request(1)
	request.UserData = []byte("password=hunter2")
	launched, err := o.Compute().RunInstances(o.ctx, o.Account, request)
	if err != nil {
		t.Fatal(err)
	}
	o.running(launched.Instances[0].ID)
	const inHex = "70617373776f72643d68756e74657232"
	scan := func(reveal bool) (text string) {
		for after, more := "", true; more; {
			out := must[*operatorgen.StoreScanOutput](t)(o.StoreScan(o.ctx, &operatorgen.StoreScanInput{After: after, Reveal: &reveal}))
			for _, row := range out.Rows {
				text += row.Key + " " + string(row.Value) + "\n"
				after = row.Key
			}
			more = out.More
		}
		return text
	}
	if text := scan(false); strings.Contains(text, inHex) || strings.Count(text, "not shown: user data") != 2 {
		t.Errorf("rows show user data, or hide it %d times and not 2", strings.Count(text, "not shown: user data"))
	}
	if strings.Contains(o.log.String(), "StoreScan") {
		t.Error("an ordinary scan is audited")
	}
	if text := scan(true); strings.Count(text, inHex) != 2 || strings.Contains(text, "not shown") {
		t.Errorf("revealed %d times, want 2", strings.Count(text, inHex))
	}
	if !strings.Contains(o.log.String(), "action=StoreScan") {
		t.Error("who looks at secrets is not audited")
	}
}

func (o *office) running(id ids.Instance) {
	o.t.Helper()
	if err := o.Await(o.ctx, func() bool {
		now, err := o.Compute().DescribeInstances(o.ctx, o.Account, []ids.Instance{id}, nil)
		return err == nil && now[0].State == compute.Running
	}); err != nil {
		o.t.Fatal(err)
	}
}
