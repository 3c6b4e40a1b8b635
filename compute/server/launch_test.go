package server_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/vpc"
)

func TestLaunch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	r := w.Request(3)
	r.InstanceTags, r.VolumeTags = map[string]string{"Name": "web"}, map[string]string{"disk": "root"}
	r.UserData, r.RootDisk.SizeGiB = []byte("#!/bin/sh\n"), 9
	got := w.launch(r)
	if len(got.Instances) != 3 {
		t.Fatalf("launched %d instances, want 3", len(got.Instances))
	}
	for k, i := range got.Instances {
		if i.State != compute.Pending || i.LaunchIndex != k || i.Reservation != got.ID || !i.PrivateIP.IsValid() || i.Host == "" || i.Tags["Name"] != "web" {
			t.Errorf("answer %d is %+v", k, i)
		}
	}
	w.await(compute.Running, idsOf(got.Instances)...)
	hosts := map[ids.Host]bool{}
	for k, i := range w.all() {
		first := got.Instances[k]
		if i.ID != first.ID || i.PrivateIP != first.PrivateIP || i.Host != first.Host || i.PrivateDNSName != first.PrivateDNSName || !i.Simulated {
			t.Errorf("described as %+v, launched as %+v", i, first)
		}
		mustContain(t, "DNS name", i.PrivateDNSName, "."+computetest.Region+".compute.internal")
		if !slices.Equal(i.Groups, []ids.SecurityGroup{w.Group}) || i.Tags["Name"] != "web" || i.Reason != (compute.Reason{}) {
			t.Errorf("described as %+v", i)
		}
		hosts[i.Host] = true
		w.told("all of it", i.ID, func(item host.Instance) bool {
			return item.Validate() == nil && item.RootDiskGiB == 9 && string(item.UserData) == "#!/bin/sh\n" && item.MemoryMiB == 128
		})
	}
	if len(hosts) != 3 {
		t.Errorf("3 instances went to %d of 3 empty hosts", len(hosts))
	}
	volumes, err := w.Compute().DescribeVolumes(w.ctx, w.Account, nil, nil)
	if err != nil || len(volumes) != 3 || volumes[0].SizeGiB != 9 || volumes[0].State != compute.VolumeInUse || volumes[0].Tags["disk"] != "root" || !volumes[0].DeleteOnTermination {
		t.Errorf("volumes are %+v (%v)", volumes, err)
	}
	statuses, err := w.Compute().DescribeInstanceStatus(w.ctx, w.Account, nil, nil)
	if err != nil || len(statuses) != 3 || statuses[0].System != compute.CheckOK || statuses[0].Reachability != compute.CheckOK {
		t.Errorf("statuses are %+v (%v)", statuses, err)
	}
	console, _, err := w.Compute().ConsoleOutput(w.ctx, w.Account, got.Instances[0].ID)
	if err != nil || string(console) != "console of "+host.DocHost(got.Instances[0].Host)+"\n" {
		t.Errorf("console is %q (%v)", console, err)
	}
	zones, err := w.Compute().Zones(w.ctx)
	if err != nil || len(zones) != 1 || zones[0] != (compute.Zone{Name: computetest.Zone, ID: "usn1-az1", Hosts: 3, Up: 3}) {
		t.Errorf("zones are %+v (%v)", zones, err)
	}
}

func TestRequestsRefusedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for name, edit := range map[string]func(*compute.RunRequest){
		"MinCount":                          func(r *compute.RunRequest) { r.MinCount = 0 },
		"MaxCount":                          func(r *compute.RunRequest) { r.MaxCount = compute.MaxPerRequest + 1 },
		"InstanceType":                      func(r *compute.RunRequest) { r.Type = "t9.huge" },
		"UserData":                          func(r *compute.RunRequest) { r.UserData = make([]byte, compute.MaxUserDataBytes+1) },
		"PrivateIpAddress":                  func(r *compute.RunRequest) { r.MaxCount = 2; r.PrivateIP = netip.MustParseAddr("10.0.0.9") },
		"BlockDeviceMapping.Ebs.VolumeSize": func(r *compute.RunRequest) { r.RootDisk.SizeGiB = compute.MaxRootDiskGiB + 1 },
		"MetadataOptions.HttpPutResponseHopLimit": func(r *compute.RunRequest) { r.Metadata.HopLimit = 65 },
		"Placement.AvailabilityZone":              func(r *compute.RunRequest) { r.Zone = "us-nimbrel-1b" },
	} {
		r := w.Request(1)
		edit(&r)
		var refused *compute.RequestError
		if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &refused) || refused.Parameter != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var noImage *image.NotFoundError
	r := w.Request(1)
	r.Image = "ami-00000000000000000"
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &noImage) {
		t.Errorf("unknown image: got %v", err)
	}
	var noKey *account.NotFoundError
	r = w.Request(1)
	r.KeyName = "nobody"
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &noKey) {
		t.Errorf("unknown key: got %v", err)
	}
	if n := len(w.all()); n != 0 {
		t.Errorf("%d instances exist after refusals", n)
	}
}

func TestMinAndMaxCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.resize(func(i *host.Info) { i.VCPUs = 3 }, 0)
	r := w.Request(4)
	var full *compute.CapacityError
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &full) {
		t.Fatalf("4 at least on room for 3: %v", err)
	}
	mustContain(t, "capacity error", full.Error(), "room for one, not for all")
	r.MinCount = 2
	if got := w.launch(r); len(got.Instances) != 3 {
		t.Fatalf("2 to 4 on room for 3 launched %d", len(got.Instances))
	}
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); !errors.As(err, &full) {
		t.Fatalf("1 on a full host: %v", err)
	}
	mustContain(t, "capacity error", full.Error(), "1 lack vcpu")
}

// TestEverySizeOfLaunch: whatever the count, the commit stays within the store's bounds.
func TestEverySizeOfLaunch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 12)
	for _, q := range []account.Quota{account.QuotaVCPUs, account.QuotaInstances} {
		if err := w.SetQuota(q, 1000); err != nil {
			t.Fatal(err)
		}
	}
	key, err := w.Accounts.CreateKeyPair(w.ctx, account.KeyPairRequest{Account: w.Account, Name: "k", Type: account.KeyEd25519})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= compute.MaxPerRequest; n++ {
		r := w.Request(n)
		r.KeyName, r.ClientToken = key.Name, fmt.Sprint(n)
		if got := w.launch(r); len(got.Instances) != n || got.Instances[0].KeyName != "k" {
			t.Errorf("launched %d of %d", len(got.Instances), n)
		}
	}
	list := idsOf(w.all())
	w.await(compute.Running, list...)
	w.terminate(list...)
	w.await(compute.Terminated, list...)
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	for _, c := range []struct {
		quota account.Quota
		limit int64
	}{{account.QuotaVCPUs, 3}, {account.QuotaInstances, 3}, {account.QuotaVolumes, 3}} {
		if err := w.SetQuota(c.quota, c.limit); err != nil {
			t.Fatal(err)
		}
		r := w.Request(4)
		var over *account.QuotaError
		if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &over) || over.Quota != c.quota {
			t.Errorf("4 at least on quota %s of 3: %v", c.quota, err)
		}
		r.MinCount = 1
		got := w.launch(r)
		if len(got.Instances) != 3 {
			t.Errorf("1 to 4 on quota %s of 3 launched %d", c.quota, len(got.Instances))
		}
		w.terminate(idsOf(got.Instances)...)
		w.await(compute.Terminated, idsOf(got.Instances)...)
		if err := w.SetQuota(c.quota, 64); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddressesRunOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(o *computetest.Options) { o.CIDR = "10.1.0.0/28" })
	r := w.Request(16)
	r.MinCount = 1
	got := w.launch(r)
	if len(got.Instances) != 16-vpc.ReservedPerSubnet {
		t.Fatalf("a /28 gave %d addresses", len(got.Instances))
	}
	var none *vpc.NoAddressError
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, w.Request(1)); !errors.As(err, &none) {
		t.Fatalf("launch in a full subnet: %v", err)
	}
}

func TestPrivateAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	r := w.Request(1)
	r.PrivateIP = netip.MustParseAddr("10.0.0.77")
	if got := w.launch(r); got.Instances[0].PrivateIP != r.PrivateIP {
		t.Errorf("got address %s", got.Instances[0].PrivateIP)
	}
	var used *vpc.AddressInUseError
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &used) {
		t.Errorf("address twice: %v", err)
	}
	var bad *vpc.AddressError
	r.PrivateIP = netip.MustParseAddr("10.0.0.1")
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); !errors.As(err, &bad) {
		t.Errorf("reserved address: %v", err)
	}
}

func TestTokenReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	r := w.Request(2)
	r.ClientToken, r.InstanceTags = "once", map[string]string{"a": "1", "b": "2"}
	first := w.launch(r)
	w.await(compute.Running, idsOf(first.Instances)...)
	again := w.launch(r)
	if again.ID != first.ID || !slices.Equal(idsOf(again.Instances), idsOf(first.Instances)) || again.Instances[0].State != compute.Running {
		t.Errorf("replay gave %s %v, want %s %v, running", again.ID, idsOf(again.Instances), first.ID, idsOf(first.Instances))
	}
	for name, edit := range map[string]func(*compute.RunRequest){
		"count": func(r *compute.RunRequest) { r.MinCount, r.MaxCount = 1, 1 },
		"tag":   func(r *compute.RunRequest) { r.InstanceTags = map[string]string{"a": "1", "b": "3"} },
		"disk":  func(r *compute.RunRequest) { r.RootDisk.Keep = true },
		"type":  func(r *compute.RunRequest) { r.Type = "t3.nano" },
	} {
		other := r
		edit(&other)
		var mismatch *idem.MismatchError
		if _, err := w.Compute().RunInstances(w.ctx, w.Account, other); !errors.As(err, &mismatch) {
			t.Errorf("same token, other %s: %v", name, err)
		}
	}
	w.terminate(idsOf(first.Instances)...)
	w.await(compute.Terminated, idsOf(first.Instances)...)
	if again := w.launch(r); len(again.Instances) != 2 || again.Instances[0].State != compute.Terminated {
		t.Errorf("replay after terminate gave %+v", again)
	}
}

// TestTokenNotConsumedByFailure: a launch that failed leaves no token.
func TestTokenNotConsumedByFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if err := w.SetQuota(account.QuotaVCPUs, 0); err != nil {
		t.Fatal(err)
	}
	r := w.Request(1)
	r.ClientToken = "again"
	if _, err := w.Compute().RunInstances(w.ctx, w.Account, r); err == nil {
		t.Fatal("a launch beyond the quota succeeded")
	}
	if err := w.SetQuota(account.QuotaVCPUs, 1); err != nil {
		t.Fatal(err)
	}
	w.launch(r)
}

// TestOneTokenFromManyClients: a hundred clients send one request at once and get one answer.
func TestOneTokenFromManyClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	r := w.Request(2)
	r.ClientToken = "race"
	const clients = 100
	var group sync.WaitGroup
	answers := make([]string, clients)
	for k := range clients {
		group.Go(func() {
			got, err := w.Compute().RunInstances(w.ctx, w.Account, r)
			answers[k] = fmt.Sprint(got.ID, idsOf(got.Instances), err)
		})
	}
	group.Wait()
	for _, answer := range answers {
		if answer != answers[0] || !strings.HasSuffix(answer, "<nil>") {
			t.Fatalf("answers differ: %s and %s", answers[0], answer)
		}
	}
	if n := len(w.all()); n != 2 {
		t.Fatalf("%d instances exist, want 2", n)
	}
}

func TestSpreadAndDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	drained := computetest.Info(2, computetest.Zone).ID
	if err := w.Compute().DrainHost(w.ctx, drained, true); err != nil {
		t.Fatal(err)
	}
	for _, i := range w.launch(w.Request(12)).Instances {
		if i.Host == drained {
			t.Fatal("a draining host got an instance")
		}
	}
	if err := w.Compute().DrainHost(w.ctx, drained, true); err != nil {
		t.Fatalf("drain again: %v", err)
	}
	w.check()
	if err := w.Compute().DrainHost(w.ctx, drained, false); err != nil {
		t.Fatal(err)
	}
	w.left(drained) // the chooser's view has caught up
	if got := w.launch(w.Request(1)); got.Instances[0].Host != drained {
		t.Errorf("the emptiest host is %s, the instance went to %s", drained, got.Instances[0].Host)
	}
	var missing *compute.NotFoundError
	if err := w.Compute().DrainHost(w.ctx, "h-none", true); !errors.As(err, &missing) || missing.Kind != "host" {
		t.Errorf("drain of an unknown host: %v", err)
	}
}

func TestDisconnectedHostGetsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	gone := computetest.Info(0, computetest.Zone).ID
	w.Fleet.Disconnect(gone)
	for _, i := range w.launch(w.Request(8)).Instances {
		if i.Host == gone {
			t.Fatal("a disconnected host got an instance")
		}
	}
}
