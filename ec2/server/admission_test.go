package server_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/svc/ratelimit"
)

// admitting is a door with limits and a clock that the test moves.
func admitting(t *testing.T, o server.AdmissionOptions, edit ...func(*server.Options)) (*door, *server.Admission, *computetest.Clock) {
	admission, clock := server.NewAdmission(o), computetest.NewClock()
	d := openDoor(t, 1, append(edit, func(o *server.Options) { o.Admission, o.Env = admission, env.Env{Clock: clock, Random: rand.Reader} })...)
	return d, admission, clock
}

// TestRatesAreEachAccountsOwn holds that each class of an account has its rate, that a refusal says so as clients' retries
// expect it, and that neither another account nor who merely knows a key can use it up.
func TestRatesAreEachAccountsOwn(t *testing.T) {
	d, admission, clock := admitting(t, server.AdmissionOptions{Rates: map[server.Class]ratelimit.Rate{
		server.Reads: {PerSecond: 1, Burst: 5}, server.Writes: {PerSecond: 1, Burst: 3}, server.Launches: {PerSecond: 0.5, Burst: 2},
	}})
	other := d.as("other")
	forged := *d
	forged.secret = "wrong"
	for range 20 {
		forged.refused(errs.SignatureDoesNotMatch, "DescribeRegions")
	}
	for range 5 {
		d.ok("DescribeRegions")
	}
	limited := d.refused(errs.RequestLimitExceeded, "DescribeInstances")
	if limited.status != http.StatusServiceUnavailable || limited.retryAfter != "1" {
		t.Errorf("status %d, retry after %q", limited.status, limited.retryAfter)
	}
	forged.refused(errs.RequestLimitExceeded, "DescribeInstances") // nothing is verified that would be refused
	for i := range 3 {
		d.refused(errs.InvalidVpcIDNotFound, "DeleteVpc", "VpcId", fmt.Sprintf("vpc-%017x", i))
	}
	d.refused(errs.RequestLimitExceeded, "DeleteVpc", "VpcId", "vpc-00000000000000000")
	d.refused(errs.RequestLimitExceeded, "NoSuchAction")
	for range 2 {
		d.refused(errs.MissingParameter, "RunInstances")
	}
	if launch := d.refused(errs.RequestLimitExceeded, "RunInstances"); launch.retryAfter != "2" {
		t.Errorf("retry after %q", launch.retryAfter)
	}
	other.ok("DescribeRegions")
	other.ok("CreateVpc", "CidrBlock", "10.9.0.0/16")
	clock.Advance(time.Second)
	forged.refused(errs.SignatureDoesNotMatch, "DescribeRegions")
	d.ok("DescribeRegions")
	d.refused(errs.RequestLimitExceeded, "DescribeRegions")
	refused := admission.Stats().Refused
	if refused[server.Reads][server.RefusedRate] != 3 || refused[server.Writes][server.RefusedRate] != 2 || refused[server.Launches][server.RefusedRate] != 1 {
		t.Errorf("counted %v", refused)
	}
}

// stuck is a compute whose reads of one kind wait to be let go.
type stuck struct {
	compute.Service
	entered chan struct{}
	letGo   chan struct{}
}

func (s stuck) Zones(ctx context.Context) ([]compute.Zone, error) {
	s.entered <- struct{}{}
	<-s.letGo
	return s.Service.Zones(ctx)
}

// TestAccountsWaitForTheirOwn holds that an account whose requests hang waits for itself alone, and that no more than its
// share waits.
func TestAccountsWaitForTheirOwn(t *testing.T) {
	hang := stuck{entered: make(chan struct{}), letGo: make(chan struct{})}
	d, admission, _ := admitting(t, server.AdmissionOptions{RunningReads: 2, Waiting: 3, Patience: time.Hour})
	noisy := *d
	noisy.url = d.serve(func(o *server.Options) {
		hang.Service = o.Compute
		o.Compute, o.Admission = hang, admission
	})
	answers := make(chan answer)
	ask := func() { go func() { answers <- noisy.call("DescribeAvailabilityZones") }() }
	for range 2 {
		ask()
		<-hang.entered
	}
	for range 3 {
		ask()
	}
	for admission.Stats().Waiting != 3 {
		time.Sleep(time.Millisecond)
	}
	noisy.refused(errs.RequestLimitExceeded, "DescribeInstances")
	noisy.ok("CreateVpc", "CidrBlock", "10.9.0.0/16")
	if quiet := noisy.as("quiet"); len(quiet.ok("DescribeRegions").all("regionName")) == 0 {
		t.Error("no answer")
	}
	for range 3 {
		hang.letGo <- struct{}{}
		<-hang.entered
	}
	close(hang.letGo)
	for range 5 {
		if a := <-answers; a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.code)
		}
	}
	stats := admission.Stats()
	if stats.Running+stats.Waiting != 0 || stats.Refused[server.Reads][server.RefusedQueue] != 1 {
		t.Errorf("left %+v", stats)
	}
}

// TestEveryActionHasAClass holds that no new action that launches or reads is taken for another by its name.
func TestEveryActionHasAClass(t *testing.T) {
	d, admission, _ := admitting(t, server.AdmissionOptions{Rates: map[server.Class]ratelimit.Rate{
		server.Reads: {PerSecond: 1e-9, Burst: 0.5}, server.Writes: {PerSecond: 1e-9, Burst: 0.5}, server.Launches: {PerSecond: 1e-9, Burst: 0.5},
	}})
	want := map[server.Class]uint64{}
	for name, action := range ec2gen.Actions {
		d.refused(errs.RequestLimitExceeded, name)
		switch {
		case name == "RunInstances" || name == "StartInstances":
			want[server.Launches]++
		case action.ReadOnly && name != "GetConsoleOutput":
			want[server.Reads]++
		default:
			want[server.Writes]++
		}
	}
	for class, n := range want {
		if got := admission.Stats().Refused[class][server.RefusedRate]; got != n {
			t.Errorf("%d %s refused, want %d", got, class, n)
		}
	}
}
