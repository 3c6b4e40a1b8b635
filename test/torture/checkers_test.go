package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

// These tests give the checkers worlds with one defect each. A checker that sees nothing there would let any cloud pass.

// totals are the figures of a run so far.
type totals struct{ lost, doubles, leaks, broken int }

func (b *books) totals() totals { return totals{b.lost, b.doubles, b.leaks, b.broken} }

// server answers every action with one instance set, or with an error's code.
type server struct {
	instances []devcloud.Instance
	code      string
	ports     []int
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	switch {
	case s.code != "":
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `<Response><Errors><Error><Code>%s</Code><Message>m</Message></Error></Errors></Response>`, s.code)
	case form.Get("Action") == "DescribeSecurityGroups":
		fmt.Fprint(w, `<r><securityGroupInfo><item><ipPermissions>`)
		for _, p := range s.ports {
			fmt.Fprintf(w, `<item><fromPort>%d</fromPort></item>`, p)
		}
		fmt.Fprint(w, `</ipPermissions></item></securityGroupInfo></r>`)
	default:
		fmt.Fprint(w, `<r><reservationSet><item><instancesSet>`)
		for _, i := range s.instances {
			fmt.Fprintf(w, `<item><instanceId>%s</instanceId><privateIpAddress>%s</privateIpAddress><subnetId>%s</subnetId><instanceState><name>%s</name></instanceState></item>`,
				i.ID, i.Address, i.Subnet, i.State)
		}
		fmt.Fprint(w, `</instancesSet></item></reservationSet></r>`)
	}
}

func newTenant(t *testing.T, s *server) *tenant {
	t.Helper()
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return &tenant{
		api:  &api{devcloud.NewAPI(web.URL, region, "AK", "s", patience)},
		held: map[string]*holding{}, ended: map[string]bool{}, holder: map[string]string{}, rules: map[int]bool{}, unknown: map[int]bool{},
		onReal: &atomic.Int64{}, random: choices(1, 1),
	}
}

func TestCompareBites(t *testing.T) {
	run := func(id, address, state string) devcloud.Instance {
		return devcloud.Instance{ID: id, Address: address, Subnet: "subnet-1", State: state}
	}
	for _, c := range []struct {
		name string
		held map[string]*holding
		gone map[string]bool
		seen []devcloud.Instance
		want totals
	}{
		{"all is well", map[string]*holding{"i-1": {}}, map[string]bool{"i-2": true}, []devcloud.Instance{run("i-1", "10.0.0.4", "running"), run("i-2", "10.0.0.4", "terminated")}, totals{}},
		{"a launch is lost", map[string]*holding{"i-1": {}}, nil, nil, totals{lost: 1}},
		{"a stop is lost", map[string]*holding{"i-1": {stopped: true}}, nil, []devcloud.Instance{run("i-1", "10.0.0.4", "running")}, totals{lost: 1}},
		{"a stop is kept", map[string]*holding{"i-1": {stopped: true}}, nil, []devcloud.Instance{run("i-1", "10.0.0.4", "stopped")}, totals{}},
		{"a termination is lost", nil, map[string]bool{"i-1": true}, []devcloud.Instance{run("i-1", "10.0.0.4", "running")}, totals{lost: 1}},
		{"a terminated one is forgotten", nil, map[string]bool{"i-1": true}, nil, totals{lost: 1}},
		{"one address, two instances", nil, nil, []devcloud.Instance{run("i-1", "10.0.0.4", "running"), run("i-2", "10.0.0.4", "stopped")}, totals{doubles: 1}},
	} {
		x, b := &tenant{held: c.held, ended: c.gone}, &books{}
		x.compare(c.seen, b)
		if got := b.totals(); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if failed := b.figures() != nil; failed != (c.want != totals{}) {
			t.Errorf("%s: the run fails: %v", c.name, failed)
		}
	}
}

func TestHandedOutBites(t *testing.T) {
	fresh := devcloud.Instance{ID: "i-2", Address: "10.0.0.4", Subnet: "subnet-1", State: "pending"}
	for _, c := range []struct {
		name, state, code string
		want              totals
	}{
		{"who had it has ended", "terminated", "", totals{}},
		{"who had it is ending", "shutting-down", "", totals{doubles: 1}},
		{"who had it runs", "running", "", totals{doubles: 1}},
		{"who had it is forgotten", "", "InvalidInstanceID.NotFound", totals{lost: 1}},
	} {
		x, b := newTenant(t, &server{instances: []devcloud.Instance{{ID: "i-1", Address: "10.0.0.4", Subnet: "subnet-1", State: c.state}}, code: c.code}), &books{}
		x.holder["subnet-1 10.0.0.4"] = "i-1"
		x.handedOut(t.Context(), b, fresh)
		if got := b.totals(); got != c.want || x.holder["subnet-1 10.0.0.4"] != "i-2" {
			t.Errorf("%s: %+v, want %+v; holders %v", c.name, got, c.want, x.holder)
		}
	}
}

func TestRulesBite(t *testing.T) {
	x, b := newTenant(t, &server{ports: []int{1, 2, 3}}), &books{}
	x.rules, x.unknown = map[int]bool{1: true, 4: true, 5: true}, map[int]bool{3: true, 5: true}
	x.compareRules(t.Context(), b) // 2 is let in by nobody, 4 was acknowledged; of 3 and 5 nobody knows
	if got := b.totals(); got != (totals{lost: 2}) {
		t.Errorf("%+v, want 2 lost", got)
	}
}

func TestEndBites(t *testing.T) {
	x, b := newTenant(t, &server{instances: []devcloud.Instance{{ID: "i-1", State: "shutting-down"}}}), &books{}
	x.held["i-1"], x.held["i-2"] = &holding{}, &holding{}
	ctx, cancel := context.WithCancel(t.Context())
	b.onWrong = func() { cancel() } // the forgotten one is seen in the first round; the other stays for ever
	x.awaitEnd(ctx, b)
	if got := b.totals(); got.lost != 1 || got.leaks != 1 {
		t.Errorf("%+v, want one forgotten and one that stays", got)
	}
}

// TestLeftoversBite has a command that says what each line of a table says.
func TestLeftoversBite(t *testing.T) {
	const full = `[{"Name":"host-1","Vcpus":4,"VcpusFree":4,"MemoryMib":8,"MemoryFreeMib":8,"Instances":0}]`
	for _, c := range []struct {
		name, check, hosts string
		guest              bool
		want               int
	}{
		{"nothing", "exit 0", full, false, 0},
		{"the checker finds something", "echo 'check compute.quota FAIL 3 of 2'; exit 1", full, false, 1},
		{"a processor did not return", "exit 0", `[{"Name":"host-1","Vcpus":4,"VcpusFree":3,"MemoryMib":8,"MemoryFreeMib":8}]`, false, 1},
		{"memory did not return", "exit 0", `[{"Name":"host-1","Vcpus":4,"VcpusFree":4,"MemoryMib":8,"MemoryFreeMib":7}]`, false, 1},
		{"a host counts an instance", "exit 0", `[{"Name":"host-1","Vcpus":4,"VcpusFree":4,"MemoryMib":8,"MemoryFreeMib":8,"Instances":1}]`, false, 1},
		{"files of a guest", "exit 0", full, true, 1},
	} {
		dir := t.TempDir()
		command := filepath.Join(dir, "nimbrel")
		text := "#!/bin/sh\ncase $1 in check) " + c.check + " ;; hosts) echo '" + c.hosts + "' ;; *) exit 2 ;; esac\n"
		if err := os.WriteFile(command, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		cl := &cloud{o: options{nimbrel: command}, dir: filepath.Join(dir, "state")}
		if c.guest {
			if err := os.MkdirAll(filepath.Join(cl.dir, "hosts", "host-1", "guests", "i-0123456789abcdef0"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := leftOf(t.Context(), cl); err != nil || len(left) != c.want {
			t.Errorf("%s: %q, %v, want %d", c.name, left, err, c.want)
		}
	}
}
