package dev

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// lister answers one instance a page.
type lister struct {
	operatorgen.API
	states []operatorgen.InstanceState
}

func (l lister) ListInstances(_ context.Context, in *operatorgen.ListInstancesInput) (*operatorgen.ListInstancesOutput, error) {
	at := len(in.NextToken)
	out := &operatorgen.ListInstancesOutput{Instances: []operatorgen.Instance{{InstanceId: "i-00000000000000000", State: l.states[at]}}}
	if at+1 < len(l.states) {
		out.NextToken = in.NextToken + "x"
	}
	return out, nil
}

// cloud makes the directory of a fake cloud whose server lists instances in the given states.
func cloud(t *testing.T, states ...operatorgen.InstanceState) *Cloud {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &Cloud{Dir: dir}
	plan, err := json.Marshal(Plan{Hosts: 1, Fake: true, Zones: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.planPath(), plan, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(c.socket()), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", c.socket())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: operatorgen.NewHandler(lister{states: states}, awsjson.Options{})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return c
}

func TestDownSeesTheRunningInstanceOnTheLastPage(t *testing.T) {
	c := cloud(t, operatorgen.InstanceStateTerminated, operatorgen.InstanceStateTerminated, operatorgen.InstanceStateRunning)
	if err := c.Down(t.Context(), false); !errors.Is(err, ErrRunning) {
		t.Fatalf("down without agreement: %v, want ErrRunning", err)
	}
	if _, err := os.Stat(c.planPath()); err != nil {
		t.Fatalf("a refused down touched the cloud: %v", err)
	}
}

func TestDownNeedsNoAgreementWhenAllIsTerminated(t *testing.T) {
	c := cloud(t, operatorgen.InstanceStateTerminated, operatorgen.InstanceStateTerminated)
	if err := c.Down(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("down left %s: %v", c.Dir, err)
	}
}
