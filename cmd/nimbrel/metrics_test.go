package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nimbrel/nimbrel/host/agent"
	images "github.com/nimbrel/nimbrel/image/server"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/svc/obs/obstest"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.txt")

// TestMetricsList compares what a real server and a real agent gather with the list that operators rely on.
func TestMetricsList(t *testing.T) {
	const path = "../../docs/metrics.txt"
	got := strings.Join(slices.Concat(serverMetrics(t), agentMetrics(t)), "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("metrics differ from %s; if that is meant, run this test with -update and tell operators. Now:\n%s", path, got)
	}
}

// serverMetrics describes what an open control plane gathers after one refused request.
func serverMetrics(t *testing.T) []string {
	t.Helper()
	log := obstest.Logger(t)
	plane, err := openControlPlane(t.TempDir(), "us-nimbrel-1", []string{"us-nimbrel-1a"}, images.Options{}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer plane.close(log)
	registry, requests := plane.registry()
	door, err := plane.ec2(&serverFlags{region: "us-nimbrel-1", listen: "127.0.0.1:1"}, requests, log)
	if err != nil {
		t.Fatal(err)
	}
	door.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader("Action=Invented")))
	lines := describe(t, registry)
	for _, label := range []string{`action="other"`, `liveness="dead"`, `state="shutting-down"`, `outcome="guard_failed"`} {
		if !slices.ContainsFunc(series(t, registry), func(s string) bool { return strings.Contains(s, label) }) {
			t.Errorf("no series with %s", label)
		}
	}
	return lines
}

// agentMetrics describes what a simulated host's agent shows on its own address.
func agentMetrics(t *testing.T) []string {
	t.Helper()
	started := make(chan func() agent.Stats, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	o := agent.Options{
		ID: "h-00000000000000001", StateDir: filepath.Join(t.TempDir(), "agent"), Driver: agent.DriverFake, Log: obstest.Logger(t),
		Started: func(read func() agent.Stats) { started <- read },
	}
	go func() { ended <- agent.Run(ctx, o) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	select {
	case read := <-started:
		return describe(t, agentRegistry(func() (agent.Stats, bool) { return read(), true }))
	case err := <-ended:
		ended <- err
		t.Fatalf("agent ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("agent does not begin")
	}
	return nil
}

// describe lists a registry's own metrics: name, kind, labels and help.
func describe(t *testing.T, r *prometheus.Registry) (lines []string) {
	t.Helper()
	gathered, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gathered {
		if !strings.HasPrefix(f.GetName(), "nimbrel_") {
			continue // Go's and the process's own
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		lines = append(lines, fmt.Sprintf("%s{%s} %s: %s", f.GetName(), strings.Join(labels, ","), strings.ToLower(f.GetType().String()), f.GetHelp()))
	}
	return lines
}

// series lists every series as name and labels.
func series(t *testing.T, r *prometheus.Registry) (all []string) {
	t.Helper()
	gathered, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gathered {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			all = append(all, f.GetName()+"{"+strings.Join(labels, ",")+"}")
		}
	}
	return all
}

func TestActionLabelIsBounded(t *testing.T) {
	for action, want := range map[string]string{"RunInstances": "RunInstances", "GetCallerIdentity": "GetCallerIdentity", "": otherAction, "Run\x00": otherAction} {
		if got := actionLabel(action); got != want {
			t.Errorf("%q is labelled %q, want %q", action, got, want)
		}
	}
}

func TestSyncHistogram(t *testing.T) {
	var s embed.Stats
	s.SyncMicros[0], s.SyncMicros[10], s.SyncMicros[31] = 1, 2, 4 // < 1 µs, < 1024 µs, beyond a minute
	s.SyncTotal = 3 * time.Second
	buckets, count, sum := syncHistogram(s)
	if count != 7 || sum != 3 || buckets[64e-6] != 1 || buckets[512e-6] != 1 || buckets[1024e-6] != 3 || buckets[67.108864] != 3 {
		t.Errorf("%d in %v s: %v", count, sum, buckets)
	}
}

func TestMetricsStayOnLoopback(t *testing.T) {
	for _, f := range []serverFlags{
		{region: "us-nimbrel-1", zones: 1, listen: "127.0.0.1:1", metrics: "0.0.0.0:1"},
		{region: "us-nimbrel-1", zones: 1, listen: "0.0.0.0:1", metrics: "127.0.0.1:1"},
	} {
		if err := f.Validate(); err == nil {
			t.Errorf("%+v: accepted", f)
		}
	}
	open := serverFlags{region: "us-nimbrel-1", zones: 1, listen: "0.0.0.0:1", metrics: "127.0.0.1:1", insecure: true, images: imageLimits{1, 1, 1, time.Minute}}
	if err := open.Validate(); err != nil {
		t.Error(err)
	}
	f := agentFlags{metrics: net.JoinHostPort("0.0.0.0", "0")}
	if err := f.runObserved(t.Context(), agent.Options{}); err == nil || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("agent beyond loopback: %v", err)
	}
}
