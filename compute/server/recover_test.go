package server_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/vpc"
)

// rows counts the instances' rows, hidden ones included.
func (w *world) rows() (n int) {
	w.t.Helper()
	p := append(computerows.Prefix(), store.Prefix("instance")...)
	err := w.DB.View(w.ctx, func(r store.Reader) error {
		kvs, err := r.Range(w.ctx, store.RangeOptions{Begin: p, End: store.PrefixEnd(p)})
		n = len(kvs)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func hostID(n int) ids.Host { return computetest.Info(n, computetest.Zone).ID }

// TestTerminateUnreachableThenFill: what an unreachable host holds is handed out to nobody until it confirms, however
// full the cloud gets.
func TestTerminateUnreachableThenFill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, func(o *computetest.Options) { o.CIDR = "10.2.0.0/28" }) // 11 addresses
	w.resize(func(i *host.Info) { i.VCPUs = 4 }, 0, 1)
	victims := w.running(8)
	before := map[string]ids.Instance{}
	for _, i := range w.all() {
		before[i.PrivateIP.String()] = i.ID
	}
	w.Fleet.Disconnect(hostID(0))
	w.terminate(victims...)
	onDead := w.Fleet.Running(hostID(0))
	onLive := slices.DeleteFunc(slices.Clone(victims), func(id ids.Instance) bool { return slices.Contains(onDead, id) })
	if len(onDead) != 4 {
		t.Fatalf("%d of 8 run on the dead host, want 4", len(onDead))
	}
	w.await(compute.Terminated, onLive...)
	w.await(compute.ShuttingDown, onDead...)
	w.check()

	r := w.Request(8) // quota is back for all eight; room only on the live host
	r.MinCount = 1
	fill := w.launch(r).Instances
	if len(fill) != 4 {
		t.Fatalf("filled with %d, want the live host's 4", len(fill))
	}
	for _, i := range fill {
		if i.Host != hostID(1) {
			t.Errorf("%s went to the dead host", i.ID)
		}
		if owner, held := before[i.PrivateIP.String()]; held && slices.Contains(onDead, owner) {
			t.Errorf("%s was handed out while %s holds it", i.PrivateIP, owner)
		}
	}
	var full *compute.CapacityError
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); !errors.As(err, &full) {
		t.Fatalf("one more: %v", err)
	}
	w.await(compute.Running, idsOf(fill)...)

	w.Fleet.Connect(hostID(0)) // the late word
	w.await(compute.Terminated, onDead...)
	w.check()
	late := w.launch(w.Request(4)).Instances
	for _, i := range late {
		if i.Host != hostID(0) {
			t.Errorf("%s went to %s, which is full", i.ID, i.Host)
		}
	}
	if left := w.left(hostID(0)); left.LeftVCPUs != 0 || left.Instances != 4 {
		t.Errorf("the host that came back is %+v", left)
	}
}

// TestAddressMovesAfterItsGuestIsGone: the addresses that an unreachable host holds are the last free ones of their subnet,
// the server is killed meanwhile, and each is handed out again only when the guest that had it is no more.
func TestAddressMovesAfterItsGuestIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, func(o *computetest.Options) { o.CIDR = "10.3.0.0/28" }) // 11 addresses, and room for more machines
	victims := w.running(6)
	had := map[ids.Instance]string{}
	for _, i := range w.all() {
		had[i.ID] = i.PrivateIP.String()
	}
	w.Fleet.Disconnect(hostID(0))
	w.terminate(victims...)
	onDead := w.Fleet.Running(hostID(0))
	if len(onDead) == 0 || len(onDead) == len(victims) {
		t.Fatalf("%d of %d run on the dead host: the test needs some on each", len(onDead), len(victims))
	}
	held := map[string]ids.Instance{}
	for _, id := range onDead {
		held[had[id]] = id
	}
	w.until("the other host confirms", func() bool { return w.left(hostID(1)).Instances == 0 })
	w.Stop()
	w.Start()
	w.until("the live host is back", func() bool { return w.left(hostID(1)).Connected })
	r := w.Request(11)
	r.MinCount = 1
	for _, i := range w.launch(r).Instances {
		if held[i.PrivateIP.String()] != "" {
			t.Errorf("%s was handed out while the dead host may use it", i.PrivateIP)
		}
	}
	one := w.Request(1)
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, one); !errors.As(err, new(*vpc.NoAddressError)) {
		t.Fatalf("one more than the subnet has: %v", err)
	}
	w.Fleet.FailApply(hostID(0), string(onDead[0])) // back, and cannot end one of them
	w.Fleet.Connect(hostID(0))
	w.await(compute.Terminated, onDead[1:]...)
	for range onDead[1:] {
		i := w.launch(one).Instances[0]
		if owner := held[i.PrivateIP.String()]; owner == "" || slices.Contains(w.Fleet.Running(hostID(0)), owner) {
			t.Errorf("%s was handed out; its guest %q runs", i.PrivateIP, owner)
		}
	}
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, one); !errors.As(err, new(*vpc.NoAddressError)) {
		t.Fatalf("the address of a guest that its host could not end: %v", err)
	}
	w.check()
	w.Fleet.FailApply(hostID(0), "")
	w.await(compute.Terminated, onDead[0])
	if i := w.launch(one).Instances[0]; held[i.PrivateIP.String()] != onDead[0] {
		t.Errorf("the last address is %s, of %s", i.PrivateIP, held[i.PrivateIP.String()])
	}
}

// TestRenamedHost: a host that comes back under another name is the same one, with what it holds.
func TestRenamedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	before := w.left(hostID(0))
	info := computetest.Info(0, before.Zone)
	info.ID, info.Name, info.VCPUs, info.MemoryMiB, info.DiskGiB = before.ID, "renamed", before.VCPUs, before.MemoryMiB, before.DiskGiB
	w.Fleet.AddHost(info)
	w.until("the name is known", func() bool { return w.left(hostID(0)).Name == "renamed" })
	hosts, err := w.Compute().Hosts(w.ctx)
	if err != nil || len(hosts) != 1 {
		t.Fatalf("%d hosts, %v; want the one", len(hosts), err)
	}
	if after := hosts[0]; after.LeftVCPUs != before.LeftVCPUs || after.Instances != 1 || w.get(id).State != compute.Running {
		t.Errorf("the renamed host is %+v, was %+v", after, before)
	}
}

// TestFailedRemovalIsNotReleased: a host that acknowledges with a failure still holds the instance.
func TestFailedRemovalIsNotReleased(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]func(*compute.Instance) string{
		"instance":  func(i *compute.Instance) string { return string(i.ID) },
		"interface": func(i *compute.Instance) string { return string(i.Interface) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			id := w.running(1)[0]
			w.Fleet.FailApply(hostID(0), failing(w.get(id)))
			neighbour := w.running(1)[0]
			w.terminate(id, neighbour)
			w.await(compute.Terminated, neighbour) // its acknowledgement names the other one as failed
			acts := w.Fleet.Acts(hostID(0))
			w.Fleet.FailApply(hostID(0), failing(w.get(id))) // said again, past the removal
			w.until("the host has said that it failed", func() bool { return w.Fleet.Acts(hostID(0)) > acts })
			w.running(1) // takes another address: the invariants find one that is held twice
			w.check()
			if i := w.get(id); i.State != compute.ShuttingDown {
				t.Fatalf("an instance that its host could not remove is %s", i.State)
			}
			w.Fleet.FailApply(hostID(0), "")
			w.await(compute.Terminated, id)
		})
	}
}

func TestRetryOnAnotherHost(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(w *world, h ids.Host){
		"hangs": func(w *world, h ids.Host) { w.Fleet.Hang(h) },
		"fails": func(w *world, h ids.Host) { w.Fleet.Refuse(h, failed) },
		"unreachable": func(w *world, h ids.Host) {
			w.Fleet.Hang(h)
			w.Fleet.Disconnect(h)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.Fleet.Hang(hostID(0))
			w.Fleet.Hang(hostID(1))
			first := w.launch(w.Request(1)).Instances[0]
			other := hostID(0)
			if first.Host == other {
				other = hostID(1)
			}
			w.until("the host knows", func() bool { _, told := w.Fleet.Instance(first.Host, first.ID); return told })
			w.Fleet.Refuse(other, nil)
			fail(w, first.Host)
			if name != "fails" {
				w.clock.Advance(compute.PendingTimeout)
			}
			w.await(compute.Running, first.ID)
			i := w.get(first.ID)
			if i.Host != other || i.PrivateIP != first.PrivateIP || i.Interface != first.Interface {
				t.Errorf("moved to %+v from %+v", i, first)
			}
			if name == "unreachable" {
				if left := w.left(first.Host); left.Instances != 1 {
					t.Errorf("the first host's capacity returned without its word: %+v", left)
				}
				w.terminate(i.ID)
				w.until("the second host confirms", func() bool { return w.left(other).Instances == 0 })
				if i := w.get(first.ID); i.State != compute.ShuttingDown {
					t.Errorf("terminated while the first host has not confirmed: %s", i.State)
				}
				w.check()
				w.Fleet.Connect(first.Host)
				w.await(compute.Terminated, i.ID)
			}
			w.until("the first host confirms", func() bool { return w.left(first.Host).Instances == 0 })
		})
	}
}

func failed(i host.Instance) *host.InstanceStatus {
	return &host.InstanceStatus{ID: i.ID, Generation: i.Generation, State: host.VMFailed, Code: host.CodeImage, Reason: "no such image file"}
}

func TestLaunchFails(t *testing.T) {
	t.Parallel()
	for name, hosts := range map[string]int{"nowhere else": 1, "second host fails too": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, hosts)
			for n := range hosts {
				w.Fleet.Refuse(hostID(n), failed)
			}
			id := w.launch(w.Request(1)).Instances[0].ID
			w.await(compute.Terminated, id)
			if i := w.get(id); i.Reason.Code != "Server.InternalError" || i.Reason.Message != "Server.InternalError: no such image file" {
				t.Errorf("failed with %+v", i.Reason)
			}
		})
	}
}

func TestPendingIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.Fleet.Hang(hostID(0))
	id := w.launch(w.Request(1)).Instances[0].ID
	w.clock.Advance(compute.PendingTimeout)
	w.check()
	w.clock.Advance(compute.PendingLimit - compute.PendingTimeout)
	w.await(compute.Terminated, id)
	if i := w.get(id); i.Reason.Code != "Server.InternalError" {
		t.Errorf("timed out with %+v", i.Reason)
	}
}

// TestStartFails: an instance that ran before goes back to stopped, since its disk is where it is.
func TestStartFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	id := w.running(1)[0]
	home := w.get(id).Host
	w.stop(id)
	w.await(compute.Stopped, id)
	w.Fleet.Refuse(home, failed)
	w.start(id)
	w.await(compute.Stopped, id)
	if i := w.get(id); i.Host != home || i.Reason.Code != host.CodeImage {
		t.Errorf("failed start left %+v", i)
	}
	w.Fleet.Hang(home)
	w.start(id)
	w.clock.Advance(compute.PendingLimit)
	w.await(compute.Stopped, id)
}

func TestHostSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	status := func() *compute.Status {
		out, err := w.Compute().DescribeInstanceStatus(w.ctx, w.Account, []ids.Instance{id}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	w.Fleet.Disconnect(hostID(0))
	if s := status(); s.System != compute.CheckImpaired || s.Reachability != compute.CheckInsufficientData || s.ImpairedSince.IsZero() {
		t.Errorf("silent host: %+v", s)
	}
	w.Fleet.Connect(hostID(0))
	w.Fleet.Report(hostID(0), func(s *host.InstanceStatus) { s.Reach = host.ReachImpaired }, id)
	w.until("the guest is impaired", func() bool {
		s := status()
		return s.System == compute.CheckOK && s.Reachability == compute.CheckImpaired
	})
}

// TestFullReport: what a whole report does not mention is not known any more.
func TestFullReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	check := func() compute.Check {
		out, err := w.Compute().DescribeInstanceStatus(w.ctx, w.Account, []ids.Instance{id}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out[0].System
	}
	if got := check(); got != compute.CheckOK {
		t.Fatalf("system check is %s", got)
	}
	w.Compute().Actual(host.DocHost(hostID(0)), host.SectionInstances, true, nil, nil)
	if got := check(); got != compute.CheckInsufficientData {
		t.Errorf("system check after an empty whole report is %s", got)
	}
}

// TestUnknownReportChangesNothing: a report on an instance that nobody knows changes nothing.
func TestUnknownReportChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.Fleet.Report(hostID(0), func(s *host.InstanceStatus) { s.ID, s.State = "i-00000000000000009", host.VMQuarantined }, "i-00000000000000009")
	id := w.running(1)[0]
	if n := len(w.all()); n != 1 || w.get(id) == nil {
		t.Errorf("%d instances exist", n)
	}
}

var errDead = errors.New("the service was killed")

// TestKilledBetweenTransactions runs one life of two instances again and again, and each time kills the service after one
// more commit. A new service on the same store goes on: the client's retries give the same instances, and all is
// accounted for.
func TestKilledBetweenTransactions(t *testing.T) {
	var ended atomic.Int64
	t.Run("kill", func(t *testing.T) {
		for kill := range 16 {
			t.Run(fmt.Sprint(kill), func(t *testing.T) {
				t.Parallel()
				if lifeWithKill(t, kill) {
					ended.Add(1)
				}
			})
		}
	})
	if n := ended.Load(); n == 0 || n > 8 {
		t.Errorf("%d of 16 lives ended before their kill: want some, to know that every commit was killed, and not most", n)
	}
}

// lifeWithKill tells whether the life ended before the kill.
func lifeWithKill(t *testing.T, kill int) (finished bool) {
	var commits atomic.Int64
	var dead atomic.Bool
	first := true
	w := newWorld(t, 2, func(o *computetest.Options) {
		o.Between = func(e store.Engine) store.Engine {
			if !first {
				return e
			}
			first = false
			return &counting{Engine: e, before: func(*store.Commit) error {
				if dead.Load() || commits.Add(1) > int64(kill)+2 { // two: the hosts' registration
					dead.Store(true)
					return errDead
				}
				return nil
			}}
		}
	})
	// do repeats a call until the service that it meets lives.
	do := func(what string, call func() error) {
		t.Helper()
		err := call()
		if errors.Is(err, errDead) {
			w.Stop()
			w.Start()
			err = call()
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	settle := func(s compute.State, list []ids.Instance) {
		t.Helper()
		w.until("instances are "+s.String(), func() bool {
			if dead.Load() {
				dead.Store(false)
				w.Stop()
				w.Start()
			}
			for _, id := range list {
				if i := w.get(id); i == nil || i.State != s {
					return false
				}
			}
			return true
		})
		w.check()
	}
	r := w.Request(2)
	r.ClientToken = "life"
	var list []ids.Instance
	do("run", func() error {
		got, err := w.Compute().RunInstances(w.ctx, w.Account, r)
		list = idsOf(got.Instances)
		return err
	})
	settle(compute.Running, list)
	do("stop", func() error {
		_, err := w.Compute().StopInstances(w.ctx, w.Account, list, false)
		return err
	})
	settle(compute.Stopped, list)
	do("start", func() error {
		_, err := w.Compute().StartInstances(w.ctx, w.Account, list)
		return err
	})
	settle(compute.Running, list)
	do("terminate", func() error {
		_, err := w.Compute().TerminateInstances(w.ctx, w.Account, list)
		return err
	})
	settle(compute.Terminated, list)
	if n := w.rows(); n != 2 {
		t.Errorf("%d instances were ever made, want 2", n)
	}
	return first || commits.Load() <= int64(kill)+2
}

// TestNoConflicts: launches into one subnet and group conflict with nothing, while others edit the group's rules and the
// quota.
func TestNoConflicts(t *testing.T) {
	t.Parallel()
	var conflicts atomic.Int64
	count := func(e store.Engine) store.Engine {
		return &counting{Engine: e, after: func(_ *store.Commit, a *store.Answer) {
			if a.Outcome == store.OutcomeConflict {
				conflicts.Add(1)
				t.Logf("conflict on %q", a.Key)
			}
		}}
	}
	w := newWorld(t, 4, func(o *computetest.Options) { o.Engine = count(storetest.NewMemory()) })
	if err := w.SetQuota(account.QuotaVCPUs, 1000); err != nil {
		t.Fatal(err)
	}
	const launchers, each = 16, 4
	done := make(chan struct{})
	var edits, launches sync.WaitGroup
	edits.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			w.editRules(n)
			if err := w.SetQuota(account.QuotaVCPUs, int64(1000+n%2)); err != nil {
				t.Error(err)
			}
		}
	})
	for range launchers {
		launches.Go(func() {
			for range each {
				if _, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	launches.Wait()
	w.until("all run", func() bool {
		return !slices.ContainsFunc(w.all(), func(i *compute.Instance) bool { return i.State != compute.Running })
	})
	close(done)
	edits.Wait()
	if n := len(w.all()); n != launchers*each {
		t.Errorf("%d instances run, want %d", n, launchers*each)
	}
	if n := conflicts.Load(); n != 0 {
		t.Errorf("%d conflicts", n)
	}
}

// editRules adds a rule to the group that all launch into, or takes it away again.
func (w *world) editRules(n int) {
	rules := []vpc.RuleSpec{{Protocol: 6, FromPort: 80, ToPort: 80, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}
	var err error
	if n%2 == 0 {
		_, err = w.Networks.Authorize(w.ctx, vpc.AuthorizeRequest{Account: w.Account, Group: w.Group, Rules: rules})
	} else {
		_, err = w.Networks.Revoke(w.ctx, vpc.RevokeRequest{Account: w.Account, Group: w.Group, Rules: rules})
	}
	if err != nil {
		w.t.Errorf("edit rules: %v", err)
	}
}
