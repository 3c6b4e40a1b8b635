package server_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/op"
	"github.com/nimbrel/nimbrel/vpc"
)

// verb is one lifecycle call and where it leads from running, alone and settled.
type verb struct {
	name string
	call func(w *world, id ids.Instance) error
	ends compute.State
}

var verbs = []verb{
	{"start", func(w *world, id ids.Instance) error {
		_, err := w.Compute().StartInstances(w.ctx, w.Account, []ids.Instance{id})
		return err
	}, compute.Running},
	{"stop", func(w *world, id ids.Instance) error {
		_, err := w.Compute().StopInstances(w.ctx, w.Account, []ids.Instance{id}, false)
		return err
	}, compute.Stopped},
	{"kill", func(w *world, id ids.Instance) error {
		_, err := w.Compute().StopInstances(w.ctx, w.Account, []ids.Instance{id}, true)
		return err
	}, compute.Stopped},
	{"reboot", func(w *world, id ids.Instance) error {
		return w.Compute().RebootInstances(w.ctx, w.Account, []ids.Instance{id})
	}, compute.Running},
	{"terminate", func(w *world, id ids.Instance) error {
		_, err := w.Compute().TerminateInstances(w.ctx, w.Account, []ids.Instance{id})
		return err
	}, compute.Terminated},
}

// settled says whether an instance is where only a client moves it.
func settled(s compute.State) bool {
	return s == compute.Running || s == compute.Stopped || s == compute.Terminated
}

// TestVerbPairs sends every ordered pair of verbs, from pending and from running, waiting in between or not. Whatever
// the interleaving, each call either works or is an IncorrectInstanceState, the instance settles, its host agrees, and
// every invariant holds.
func TestVerbPairs(t *testing.T) {
	for _, fromPending := range []bool{true, false} {
		for _, wait := range []bool{true, false} {
			t.Run(fmt.Sprintf("pending=%t,wait=%t", fromPending, wait), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 2)
				for _, first := range verbs {
					for _, second := range verbs {
						t.Run(first.name+","+second.name, func(t *testing.T) {
							t.Parallel()
							pair(w.in(t), first, second, fromPending, wait)
						})
					}
				}
			})
		}
	}
}

func pair(w *world, first, second verb, fromPending, wait bool) {
	id := w.launch(w.Request(1)).Instances[0].ID
	if !fromPending {
		w.await(compute.Running, id)
	}
	want := compute.Running
	for _, v := range []verb{first, second} {
		var illegal *compute.StateError
		switch err := v.call(w, id); {
		case err == nil:
			if v.name != "start" || want != compute.Terminated {
				want = v.ends
			}
		case errors.As(err, &illegal):
			if !wait || fromPending {
				break // whether it is legal depends on who was faster
			}
			if legal := want == compute.Running || (want == compute.Stopped && v.name != "reboot") || v.name == "terminate"; legal {
				w.t.Errorf("%s from %s was refused: %v", v.name, want, err)
			}
		default:
			w.t.Fatalf("%s: %v", v.name, err)
		}
		if wait {
			w.until("the instance settles", func() bool { return settled(w.get(id).State) })
		}
	}
	w.await(want, id)
	h := w.get(id).Host
	w.until("the host agrees", func() bool { return slices.Contains(w.Fleet.Running(h), id) == (want == compute.Running) })
}

func TestStateTextsAndQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if err := w.SetQuota(account.QuotaVCPUs, 1); err != nil {
		t.Fatal(err)
	}
	id := w.running(1)[0]
	created := w.get(id)
	w.clock.Advance(time.Minute)
	w.stop(id)
	w.await(compute.Stopped, id)
	i := w.get(id)
	if i.Reason != compute.ReasonUserShutdown || i.TransitionReason != "User initiated ("+w.clock.Now().UTC().Format("2006-01-02 15:04:05")+" GMT)" {
		t.Errorf("stopped with %+v, %q", i.Reason, i.TransitionReason)
	}
	if i.PrivateIP != created.PrivateIP || i.Host != created.Host || i.Interface != created.Interface || i.RootVolume != created.RootVolume {
		t.Errorf("stop changed %+v to %+v", created, i)
	}
	if got := w.left(i.Host); got.Instances != 1 || got.LeftVCPUs != got.VCPUs-1 {
		t.Errorf("a stopped instance gave its host's capacity back: %+v", got)
	}
	other := w.running(1)[0] // with the quota that the stop returned
	var over *account.QuotaError
	if _, err := w.Compute().StartInstances(w.ctx, w.Account, []ids.Instance{id}); !errors.As(err, &over) {
		t.Fatalf("start beyond the quota: %v", err)
	}
	w.terminate(other)
	w.start(id)
	w.await(compute.Running, id)
	if again := w.get(id); again.Generation != 2 || !again.LaunchTime.Equal(w.clock.Now()) || again.PrivateIP != created.PrivateIP || again.Reason != (compute.Reason{}) {
		t.Errorf("started as %+v", again)
	}
	w.terminate(id)
	w.await(compute.Terminated, id)
	if i := w.get(id); i.Reason != compute.ReasonUserShutdown || i.PrivateIP.IsValid() {
		t.Errorf("terminated with %+v, address %s", i.Reason, i.PrivateIP)
	}
}

// TestAllOrNone: one illegal instance keeps the others from moving.
func TestAllOrNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	list := w.running(2)
	w.stop(list[1])
	w.await(compute.Stopped, list[1])
	var illegal *compute.StateError
	if err := w.Compute().RebootInstances(w.ctx, w.Account, list); !errors.As(err, &illegal) || illegal.Instance != list[1] {
		t.Errorf("reboot of a stopped one: %v", err)
	}
	if i := w.get(list[0]); i.Operation == "" || i.State != compute.Running {
		t.Errorf("the running one is %+v", i)
	}
	var missing *compute.NotFoundError
	_, err := w.Compute().TerminateInstances(w.ctx, w.Account, append(list, "i-00000000000000001", "i-00000000000000002"))
	if !errors.As(err, &missing) || len(missing.IDs) != 2 {
		t.Errorf("terminate with two unknown: %v", err)
	}
	if _, err := w.Compute().TerminateInstances(w.ctx, "999999999999", list); !errors.As(err, &missing) {
		t.Errorf("terminate of another account's: %v", err)
	}
	w.await(compute.Running, list[0])
	w.stop(list[0])
	w.told("to stop, and never to reboot", list[0], func(i host.Instance) bool { return i.Power == host.PowerStop && i.RebootID == "" })
}

// TestManyAtOnce: more instances than one transaction holds move with one call, and an illegal one at the end of the list keeps the
// first from moving.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8)
	if err := errors.Join(w.SetQuota(account.QuotaInstances, 200), w.SetQuota(account.QuotaVCPUs, 400)); err != nil {
		t.Fatal(err)
	}
	var list []ids.Instance
	for len(list) <= 2*compute.MaxPerTransaction {
		list = append(list, w.running(compute.MaxPerRequest)...)
	}
	w.stop(list[len(list)-1])
	w.await(compute.Stopped, list[len(list)-1])
	var illegal *compute.StateError
	if err := w.Compute().RebootInstances(w.ctx, w.Account, list); !errors.As(err, &illegal) {
		t.Errorf("reboot with a stopped one: %v", err)
	}
	var missing *compute.NotFoundError
	if _, err := w.Compute().TerminateInstances(w.ctx, w.Account, append(slices.Clone(list), "i-00000000000000001", "i-00000000000000002")); !errors.As(err, &missing) || len(missing.IDs) != 2 {
		t.Errorf("terminate with two unknown: %v", err)
	}
	for _, i := range w.all() {
		if i.State != compute.Running && i.ID != list[len(list)-1] {
			t.Fatalf("%s is %s after refused calls", i.ID, i.State)
		}
	}
	if changes := w.terminate(list...); len(changes) != len(list) || changes[len(list)-1].Instance != list[len(list)-1] {
		t.Errorf("%d changes for %d", len(changes), len(list))
	}
	w.await(compute.Terminated, list...)
	tooMany := make([]ids.Instance, compute.MaxIDsPerRequest+1)
	for k := range tooMany {
		tooMany[k] = ids.Instance(fmt.Sprintf("i-%017x", k))
	}
	var refused *compute.RequestError
	if _, err := w.Compute().StartInstances(w.ctx, w.Account, tooMany); !errors.As(err, &refused) {
		t.Errorf("%d ids: %v", len(tooMany), err)
	}
}

// TestResize: a stopped instance takes another type where its host has room, and its host and quota follow.
func TestResize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	resize := func(name string) error {
		return w.Compute().ModifyInstanceAttributes(w.ctx, w.Account, id, compute.Attributes{Type: &name})
	}
	var illegal *compute.StateError
	if err := resize("t3.small"); !errors.As(err, &illegal) {
		t.Errorf("resize of a running one: %v", err)
	}
	w.stop(id)
	w.await(compute.Stopped, id)
	var refused *compute.RequestError
	if err := resize("z9.huge"); !errors.As(err, &refused) {
		t.Errorf("resize to nothing: %v", err)
	}
	h := w.left(w.get(id).Host)
	var full *compute.CapacityError
	if err := resize("m5.24xlarge"); !errors.As(err, &full) || w.left(h.ID) != h {
		t.Errorf("resize beyond the host: %v, left %+v", err, w.left(h.ID))
	}
	was, _ := compute.TypeNamed(w.get(id).Type)
	if err := resize("t3.small"); err != nil {
		t.Fatal(err)
	}
	w.check()
	is, _ := compute.TypeNamed("t3.small")
	got := w.left(h.ID)
	if got.LeftVCPUs != h.LeftVCPUs-is.VCPUs+was.VCPUs || got.LeftMemoryMiB != h.LeftMemoryMiB-is.MemoryMiB+was.MemoryMiB {
		t.Errorf("left %+v, before %+v", got, h)
	}
	w.start(id)
	w.await(compute.Running, id)
	w.told("of the type", id, func(i host.Instance) bool {
		return i.Type == "t3.small" && i.VCPUs == is.VCPUs && i.MemoryMiB == is.MemoryMiB
	})
	w.stop(id)
	w.await(compute.Stopped, id)
	if err := resize(was.Name); err != nil || w.left(h.ID).LeftVCPUs != h.LeftVCPUs {
		t.Errorf("back to %s: %v, left %+v", was.Name, err, w.left(h.ID))
	}
	w.terminate(id)
	w.await(compute.Terminated, id)
}

// TestRegroup: an instance's interface takes other groups while it runs; the group it left can be deleted, the new one not.
func TestRegroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	made, err := w.Networks.CreateGroup(w.ctx, vpc.CreateGroupRequest{Account: w.Account, VPC: w.VPC, Name: "new", Description: "d"})
	if err != nil {
		t.Fatal(err)
	}
	regroup := func(groups ...ids.SecurityGroup) error {
		return w.Compute().ModifyInstanceAttributes(w.ctx, w.Account, id, compute.Attributes{Groups: groups})
	}
	for _, want := range [][]ids.SecurityGroup{{made.ID}, {w.Group, made.ID}, {made.ID}, {made.ID}} {
		if err := regroup(want...); err != nil {
			t.Fatal(err)
		}
		w.check()
		got := w.get(id).Groups
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("groups %v, want %v", got, want)
		}
	}
	w.told("of the groups' names", id, func(i host.Instance) bool { return slices.Equal(i.GroupNames, []string{"new"}) })
	if err := w.Networks.DeleteGroup(w.ctx, w.Account, made.ID); !errors.As(err, new(*vpc.DependencyError)) {
		t.Errorf("deleting a group in use: %v", err)
	}
	var missing *vpc.NotFoundError
	if err := regroup("sg-00000000000000001"); !errors.As(err, &missing) {
		t.Errorf("a group that is not there: %v", err)
	}
	if err := regroup(w.Group); err != nil {
		t.Fatal(err)
	}
	if err := w.Networks.DeleteGroup(w.ctx, w.Account, made.ID); err != nil {
		t.Errorf("deleting a group that was left: %v", err)
	}
	w.terminate(id)
	w.await(compute.Terminated, id)
	if err := regroup(w.Group); err == nil {
		t.Error("a terminated instance took groups")
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.running(1)[0]
	if err := w.Compute().RebootInstances(w.ctx, w.Account, []ids.Instance{id, id}); err != nil {
		t.Fatal(err)
	}
	first := w.get(id).Operation
	w.until("the reboot has ended", func() bool { return w.operation(first).State == op.Succeeded })
	if err := w.Compute().RebootInstances(w.ctx, w.Account, []ids.Instance{id}); err != nil {
		t.Fatal(err)
	}
	second := w.get(id).Operation
	if second == first {
		t.Fatal("the second reboot has the first one's id: the host would ignore it")
	}
	w.told("the second reboot", id, func(i host.Instance) bool { return i.RebootID == string(second) })
	w.until("the second reboot has ended", func() bool { return w.operation(second).State == op.Succeeded })
}

// operation reads one operation.
func (w *world) operation(id ids.Operation) (o op.Operation) {
	w.t.Helper()
	err := w.DB.View(w.ctx, func(r store.Reader) (err error) {
		o, _, err = op.Get(w.ctx, r, id)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func TestProtectionAndAttributes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	r := w.Request(1)
	r.DisableAPITermination = true
	id := w.launch(r).Instances[0].ID
	w.await(compute.Running, id)
	var protected *compute.ProtectedError
	if _, err := w.Compute().TerminateInstances(w.ctx, w.Account, []ids.Instance{id}); !errors.As(err, &protected) {
		t.Fatalf("terminate of a protected one: %v", err)
	}
	modify := func(a compute.Attributes) error { return w.Compute().ModifyInstanceAttributes(w.ctx, w.Account, id, a) }
	data := []byte("new")
	var illegal *compute.StateError
	if err := modify(compute.Attributes{UserData: &data}); !errors.As(err, &illegal) {
		t.Errorf("user data of a running one: %v", err)
	}
	off, behavior := false, compute.ShutdownTerminates
	err := modify(compute.Attributes{
		DisableAPITermination: &off, ShutdownBehavior: &behavior, DeleteRootOnTerminate: &off,
		Metadata: &compute.MetadataOptions{TokensRequired: true, HopLimit: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.check()
	i := w.get(id)
	if i.DisableAPITermination || i.ShutdownBehavior != behavior || !i.Metadata.TokensRequired || i.DeleteRootOnTerminate {
		t.Errorf("modified to %+v", i)
	}
	w.told("of the change", id, func(i host.Instance) bool {
		return i.MetadataTokensRequired && i.MetadataHopLimit == 2 && !i.DeleteRootOnTermination
	})
	w.stop(id)
	w.await(compute.Stopped, id)
	if err := modify(compute.Attributes{UserData: &data}); err != nil || string(w.get(id).UserData) != "new" {
		t.Errorf("user data of a stopped one: %v", err)
	}
	w.terminate(id)
	w.await(compute.Terminated, id)
	if err := modify(compute.Attributes{DisableAPITermination: &off}); !errors.As(err, &illegal) {
		t.Errorf("modify of a terminated one: %v", err)
	}
	volumes, err := w.Compute().DescribeVolumes(w.ctx, w.Account, []ids.Volume{i.RootVolume}, nil)
	if err != nil || volumes[0].State != compute.VolumeAvailable || volumes[0].Instance != "" {
		t.Errorf("kept volume is %+v (%v)", volumes, err)
	}
	if got := w.left(i.Host); got.LeftDiskGiB != got.DiskGiB-volumes[0].SizeGiB || got.LeftVCPUs != got.VCPUs {
		t.Errorf("a kept disk holds no capacity of its host: %+v", got)
	}
	quotas, err := w.Accounts.Quotas(w.ctx, w.Account)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range quotas {
		if used := q.Limit - q.Left; q.Quota == account.QuotaVolumes && used != 1 || q.Quota == account.QuotaInstances && used != 0 {
			t.Errorf("with one kept disk %d of quota %s are used", used, q.Quota)
		}
	}
}

func TestGuestEndsItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	off := func(s *host.InstanceStatus) { s.State, s.Code = host.VMStopped, host.CodeGuestShutdown }
	id := w.running(1)[0]
	h := w.get(id).Host
	w.Fleet.Report(h, off, id)
	w.await(compute.Stopped, id)
	if i := w.get(id); i.Reason != compute.ReasonInstanceShutdown {
		t.Errorf("stopped with %+v", i.Reason)
	}
	w.told("not to start the guest again by itself", id, func(i host.Instance) bool { return i.Power == host.PowerStop })
	w.start(id)
	w.await(compute.Running, id)
	w.Fleet.Report(h, func(s *host.InstanceStatus) { s.State, s.Code, s.Reason = host.VMFailed, host.CodeInternal, "killed" }, id)
	w.await(compute.Stopped, id)
	if i := w.get(id); i.Reason.Code != host.CodeInternal || i.Reason.Message != "Server.InternalError: killed" {
		t.Errorf("crashed with %+v", i.Reason)
	}
	r := w.Request(1)
	r.ShutdownBehavior = compute.ShutdownTerminates
	ephemeral := w.launch(r).Instances[0].ID
	w.await(compute.Running, ephemeral)
	w.Fleet.Report(h, off, ephemeral)
	w.await(compute.Terminated, ephemeral)
	if i := w.get(ephemeral); i.Reason != compute.ReasonInstanceShutdown {
		t.Errorf("terminated with %+v", i.Reason)
	}
}

// TestPurge: a terminated instance is visible for an hour; its token holds its row for a day, unseen.
func TestPurge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	plain := w.running(1)[0]
	r := w.Request(1)
	r.ClientToken, r.InstanceTags = "t", map[string]string{"a": "b"}
	tokened := w.launch(r).Instances[0].ID
	w.await(compute.Running, tokened)
	w.terminate(plain, tokened)
	w.await(compute.Terminated, plain, tokened)
	w.clock.Advance(compute.TerminatedFor - time.Second)
	if w.get(plain) == nil || w.get(tokened) == nil {
		t.Fatal("a terminated instance is gone within the hour")
	}
	w.clock.Advance(2 * time.Second)
	if w.get(plain) != nil || w.get(tokened) != nil || len(w.all()) != 0 {
		t.Fatal("a terminated instance is visible after an hour")
	}
	if again := w.launch(r); len(again.Instances) != 1 || again.Instances[0].ID != tokened {
		t.Errorf("replay of a hidden launch gave %+v", again)
	}
	w.until("the row without a token is purged", func() bool { return w.rows() == 1 })
	w.check()
	w.clock.Advance(24 * time.Hour)
	w.Stop() // tokens are collected every ten minutes, and at a start
	w.Start()
	w.until("the row whose token is forgotten is purged", func() bool { return w.rows() == 0 })
	if fresh := w.launch(r); fresh.Instances[0].ID == tokened {
		t.Error("a forgotten token still gives the old instance")
	}
}
