package main

import (
	"github.com/prometheus/client_golang/prometheus"

	computes "github.com/nimbrel/nimbrel/compute/server"
	links "github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	ec2door "github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/host/agent"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/svc/obs"
)

// serverFamilies are the server's own metrics besides requests and syncs. docs/metrics.txt lists all.
var serverFamilies = []obs.Family{
	{Name: "nimbrel_store_answers_total", Help: "Transactions answered, by outcome: committed, conflict, guard_failed or refused.", Labels: []string{"outcome"}, Counter: true},
	{Name: "nimbrel_store_batches_total", Help: "Group commits.", Counter: true},
	{Name: "nimbrel_store_batch_commits_total", Help: "Transactions in group commits.", Counter: true},
	{Name: "nimbrel_store_durable_version", Help: "Newest version that is durable."},
	{Name: "nimbrel_store_floor_version", Help: "Oldest version that can be read."},
	{Name: "nimbrel_dispatch_targets", Help: "Targets heard since the server started, by liveness.", Labels: []string{"liveness"}},
	{Name: "nimbrel_dispatch_sessions", Help: "Sessions with targets that are open."},
	{Name: "nimbrel_dispatch_connections", Help: "Connections of targets, those that have not said who they are included."},
	{Name: "nimbrel_compute_instances", Help: "Instances by state.", Labels: []string{"state"}},
	{Name: "nimbrel_compute_oldest_in_state_seconds", Help: "How long the oldest instance in a state has been in it, for every state but terminated; 0 when none is.", Labels: []string{"state"}},
	{Name: "nimbrel_compute_reconcile_queued", Help: "Work that waits for a reconciler."},
	{Name: "nimbrel_compute_reconcile_working", Help: "Work that a reconciler does now."},
	{Name: "nimbrel_ec2_refused_total", Help: "Requests that were not admitted, by class and reason: the account's rate, its queue, or everybody's total.", Labels: []string{"class", "reason"}, Counter: true},
	{Name: "nimbrel_ec2_running", Help: "Admitted requests that run."},
	{Name: "nimbrel_ec2_waiting", Help: "Admitted requests that wait for their account's turn."},
	{Name: "nimbrel_ec2_connections", Help: "Open connections to the EC2 API."},
	{Name: "nimbrel_ec2_connections_evicted_total", Help: "Connections that were closed to make room for new ones.", Counter: true},
	{Name: "nimbrel_ec2_connections_refused_total", Help: "New connections that were closed because all others were at work.", Counter: true},
}

// agentFamilies are the agent's own metrics.
var agentFamilies = []obs.Family{
	{Name: "nimbrel_agent_guests", Help: "Guests by state.", Labels: []string{"state"}},
	{Name: "nimbrel_agent_dropped_packets_total", Help: "Packets that the data path dropped, by reason.", Labels: []string{"reason"}, Counter: true},
	{Name: "nimbrel_agent_failures_total", Help: "What failed and is tried again: steps of guests, starts of guests, applications of the network's state.", Labels: []string{"what"}, Counter: true},
}

// otherAction labels requests for what is no action of EC2, so that callers cannot make series.
const otherAction = "other"

// actionLabel is a request's action as a label with a bounded number of values.
func actionLabel(action string) string {
	if ec2gen.Known(action) || action == "GetCallerIdentity" {
		return action
	}
	return otherAction
}

// registry holds the metrics of the process, the parts and the doors.
func (c *controlPlane) registry() (*prometheus.Registry, *prometheus.HistogramVec) {
	r := obs.NewRegistry()
	requests := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "nimbrel_ec2_request_seconds", Help: "Time from a request's arrival to its answer, by action and error code.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
	}, []string{"action", "code"})
	r.MustRegister(requests)
	obs.Register(r, serverFamilies, func(emit obs.Emit) {
		emitStore(emit, c.engine.Stats())
		emitLink(emit, c.link.Stats())
		emitCompute(emit, c.compute.Stats())
		emitTenants(emit, c.admission.Stats(), c.tenants.Stats())
	})
	obs.RegisterHistogram(r, "nimbrel_store_sync_seconds", "Time of group commits from apply to durable.",
		func() (map[float64]uint64, uint64, float64) { return syncHistogram(c.engine.Stats()) })
	return r, requests
}

func emitStore(emit obs.Emit, s embed.Stats) {
	for outcome, n := range map[string]uint64{"committed": s.Commits, "conflict": s.Conflicts, "guard_failed": s.GuardFailures, "refused": s.Refused} {
		emit("nimbrel_store_answers_total", float64(n), outcome)
	}
	emit("nimbrel_store_batches_total", float64(s.Batches))
	emit("nimbrel_store_batch_commits_total", float64(s.BatchCommits))
	emit("nimbrel_store_durable_version", float64(s.Durable))
	emit("nimbrel_store_floor_version", float64(s.Floor))
}

// syncHistogram turns the store's counts by powers of two into cumulative ones. The first buckets, below 64 µs, and the
// last, above a minute, go into their neighbours.
func syncHistogram(s embed.Stats) (buckets map[float64]uint64, count uint64, sum float64) {
	const first, last = 6, 26
	buckets = map[float64]uint64{}
	for i, n := range s.SyncMicros {
		count += n
		if i >= first && i <= last {
			buckets[float64(uint64(1)<<i)/1e6] = count
		}
	}
	return buckets, count, s.SyncTotal.Seconds()
}

func emitLink(emit obs.Emit, s links.Stats) {
	for liveness, n := range s.Targets {
		emit("nimbrel_dispatch_targets", float64(n), liveness.String())
	}
	emit("nimbrel_dispatch_sessions", float64(s.Sessions))
	emit("nimbrel_dispatch_connections", float64(s.Connections))
}

func emitCompute(emit obs.Emit, s computes.Stats) {
	for state, n := range s.Instances {
		emit("nimbrel_compute_instances", float64(n), state.String())
	}
	for state, age := range s.Oldest {
		emit("nimbrel_compute_oldest_in_state_seconds", age.Seconds(), state.String())
	}
	emit("nimbrel_compute_reconcile_queued", float64(s.Queued))
	emit("nimbrel_compute_reconcile_working", float64(s.Working))
}

func emitTenants(emit obs.Emit, a ec2door.AdmissionStats, d obs.DoorStats) {
	for class, reasons := range a.Refused {
		for reason, n := range reasons {
			emit("nimbrel_ec2_refused_total", float64(n), string(class), string(reason))
		}
	}
	emit("nimbrel_ec2_running", float64(a.Running))
	emit("nimbrel_ec2_waiting", float64(a.Waiting))
	emit("nimbrel_ec2_connections", float64(d.Open))
	emit("nimbrel_ec2_connections_evicted_total", float64(d.Evicted))
	emit("nimbrel_ec2_connections_refused_total", float64(d.Refused))
}

// agentRegistry holds the metrics of an agent's process and of the agent itself, once it has begun.
func agentRegistry(read func() (agent.Stats, bool)) *prometheus.Registry {
	r := obs.NewRegistry()
	obs.Register(r, agentFamilies, func(emit obs.Emit) {
		if s, begun := read(); begun {
			emitAgent(emit, s)
		}
	})
	return r
}

func emitAgent(emit obs.Emit, s agent.Stats) {
	for state, n := range s.Guests {
		emit("nimbrel_agent_guests", float64(n), state)
	}
	for reason, n := range s.Drops {
		emit("nimbrel_agent_dropped_packets_total", float64(n), reason)
	}
	for what, n := range map[string]uint64{"step": s.FailedSteps, "start": s.FailedStarts, "network": s.FailedNetworks} {
		emit("nimbrel_agent_failures_total", float64(n), what)
	}
}
