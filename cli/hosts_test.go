package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// busyAPI has many operations and one host.
type busyAPI struct {
	operatorgen.API
	operations int
}

func (f busyAPI) ListOperations(_ context.Context, in *operatorgen.ListOperationsInput) (*operatorgen.ListOperationsOutput, error) {
	from := 0
	if in.NextToken != "" {
		fmt.Sscan(in.NextToken, &from) //nolint:errcheck // the token is this fake's own
	}
	out := &operatorgen.ListOperationsOutput{Operations: []operatorgen.Operation{}}
	for i := from; i < min(from+int(*in.MaxResults), f.operations); i++ {
		out.Operations = append(out.Operations, operatorgen.Operation{OperationId: fmt.Sprintf("op-%d", i), State: operatorgen.OperationStateRunning})
	}
	if next := from + len(out.Operations); next < f.operations {
		out.NextToken = fmt.Sprint(next)
	}
	return out, nil
}

func (f busyAPI) DrainHost(_ context.Context, in *operatorgen.DrainHostInput) (*operatorgen.DrainHostOutput, error) {
	out := &operatorgen.DrainHostOutput{HostId: in.HostId, Draining: in.Draining, Remaining: []operatorgen.Instance{}}
	if in.HostId == "full" {
		out.Remaining = append(out.Remaining, operatorgen.Instance{InstanceId: "i-1", State: operatorgen.InstanceStateRunning})
		out.RemainingCount = 1
	}
	return out, nil
}

func (f busyAPI) FenceHost(_ context.Context, in *operatorgen.FenceHostInput) (*operatorgen.FenceHostOutput, error) {
	out := &operatorgen.FenceHostOutput{HostId: in.HostId, Remaining: []operatorgen.Instance{}}
	if in.Off {
		out.Freed = 3
	}
	if in.HostId == "full" {
		out.Remaining = append(out.Remaining, operatorgen.Instance{InstanceId: "i-1", State: operatorgen.InstanceStateRunning})
		out.RemainingCount = 1
	}
	return out, nil
}

func (f busyAPI) Explain(_ context.Context, in *operatorgen.ExplainInput) (*operatorgen.ExplainOutput, error) {
	return &operatorgen.ExplainOutput{
		Subject: in.Subject, Summary: "it stands", Notes: []string{"the host drains"}, Operations: []operatorgen.Operation{},
		Events: []operatorgen.Event{
			{AtMs: 1000, Source: "server", OperationId: "op-1", What: "accepted"},
			{AtMs: 1200, Source: "host", OperationId: "op-1", What: "received"},
			{AtMs: 1250, Source: "server", OperationId: "op-1", What: "succeeded"},
		},
	}, nil
}

func TestOperationsTurnPages(t *testing.T) {
	socket := serve(t, busyAPI{operations: 250})
	for limit, want := range map[string]int{"1000": 250, "120": 120, "100": 100} {
		text, err := run(t, "ops", "--socket", socket, "--limit", limit)
		if got := strings.Count(text, "op-"); err != nil || got != want {
			t.Errorf("--limit %s shows %d operations, want %d (%v)", limit, got, want, err)
		}
		if said := strings.Contains(text, "raise --limit"); said != (want < 250) {
			t.Errorf("--limit %s says that there is more: %v", limit, said)
		}
	}
	if _, err := run(t, "ops", "--socket", socket, "--limit", "0"); err == nil {
		t.Error("--limit 0 is no error")
	}
}

func TestDrainSaysWhatIsLeft(t *testing.T) {
	socket := serve(t, busyAPI{})
	for line, want := range map[string]string{
		"drain full": "1 instances are still there", "drain empty": "drains and is empty", "resume full": "takes new instances",
		"fence empty": "empty is fenced; it has no more instances\n", "fence full --off": "full is fenced; 3 terminated instances gave back what they had; 1 instances are still there\nINSTANCE",
	} {
		text, err := run(t, append([]string{"hosts", "--socket", socket}, strings.Fields(line)...)...)
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("hosts %s: %q, %v: want %q", line, text, err, want)
		}
	}
	text, err := run(t, "hosts", "drain", "full", "--json", "--socket", socket)
	var out operatorgen.DrainHostOutput
	if err != nil || json.Unmarshal([]byte(text), &out) != nil || !out.Draining {
		t.Errorf("JSON: %v\n%s", err, text)
	}
}

// TestExplainAddsUp: the times between events add up to the wall time.
func TestExplainAddsUp(t *testing.T) {
	text, err := run(t, "explain", "op-1", "--socket", serve(t, busyAPI{}))
	for _, want := range []string{"it stands\n", "note: the host drains\n", "200ms", "250ms", "50ms"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no %q: %v\n%s", want, err, text)
		}
	}
}

// TestRawCommandsRefuseJSON: what carries a guest's bytes does not take --json and ignore it.
func TestRawCommandsRefuseJSON(t *testing.T) {
	const id = "i-0123456789abcdef0"
	for _, line := range [][]string{{"console", id}, {"forward", id, "22"}, {"ssh", id, "-i", "/nonexistent"}} {
		_, err := run(t, append(line, "--json", "--socket", "/nonexistent")...)
		if err == nil || !strings.Contains(err.Error(), "leave --json out") {
			t.Errorf("%s --json: %v", line[0], err)
		}
	}
}
