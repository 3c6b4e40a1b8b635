package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

const (
	region     = "us-nimbrel-1"
	maxHeld    = 12 // instances of an account at once
	maxReal    = 4  // of all accounts on real hosts, which emulate them perhaps
	fakeZones  = 3  // dev's default
	longestGap = 400 * time.Millisecond
)

// tenant is one account and what it was told. One goroutine owns it.
type tenant struct {
	n       int
	api     *api
	random  *rand.Rand
	image   string
	group   string
	real    []string // subnets of the zones of real hosts
	fake    []string
	onReal  *atomic.Int64 // of all tenants
	tokens  int
	held    map[string]*holding // by instance id: launched, and its termination not acknowledged
	ended   map[string]bool     // termination acknowledged
	holder  map[string]string   // subnet and address to the instance that had it last
	rules   map[int]bool        // ports that are let in
	unknown map[int]bool        // ports of a call whose answer was not heard
}

// holding is an instance that was acknowledged.
type holding struct {
	real    bool
	stopped bool // and not started since
}

// makeTenants makes accounts, each with a network of its own.
func makeTenants(ctx context.Context, c *cloud) ([]*tenant, error) {
	var all []*tenant
	onReal := &atomic.Int64{}
	for n := range c.o.accounts {
		made, err := into[struct{ AccessKeyId, SecretAccessKey string }](ctx, c, "account", "create", fmt.Sprint("torture-", n))
		if err != nil {
			return nil, err
		}
		t := &tenant{
			n: n, random: choices(c.o.seed, uint64(n)), onReal: onReal,
			api:  &api{devcloud.NewAPI("http://127.0.0.1:"+strconv.Itoa(c.o.port), region, made.AccessKeyId, made.SecretAccessKey, patience)},
			held: map[string]*holding{}, ended: map[string]bool{}, holder: map[string]string{}, rules: map[int]bool{}, unknown: map[int]bool{},
		}
		if err := t.furnish(ctx, c); err != nil {
			return nil, fmt.Errorf("furnish account %d: %w", n, err)
		}
		all = append(all, t)
	}
	return all, nil
}

// furnish makes what launches refer to. Subnets are as small as EC2 has them, so that addresses are soon used again.
func (t *tenant) furnish(ctx context.Context, c *cloud) error {
	var images struct {
		IDs []string `xml:"imagesSet>item>imageId"`
	}
	if err := t.api.call(ctx, &images, "DescribeImages", "Filter.1.Name", "name", "Filter.1.Value.1", "nimbrel-guest"); err != nil {
		return err
	}
	if len(images.IDs) != 1 {
		return fmt.Errorf("images %v, want one", images.IDs)
	}
	t.image = images.IDs[0]
	var vpc struct {
		ID string `xml:"vpc>vpcId"`
	}
	if err := t.api.call(ctx, &vpc, "CreateVpc", "CidrBlock", "10.0.0.0/24"); err != nil { // the same for all
		return err
	}
	for z := range c.o.hosts + min(fakeZones, c.o.fakeHosts) {
		var subnet struct {
			ID string `xml:"subnet>subnetId"`
		}
		err := t.api.call(ctx, &subnet, "CreateSubnet", "VpcId", vpc.ID, "CidrBlock", fmt.Sprintf("10.0.0.%d/28", 16*z), "AvailabilityZone", region+string(rune('a'+z)))
		if err != nil {
			return err
		}
		if z < c.o.hosts {
			t.real = append(t.real, subnet.ID)
		} else {
			t.fake = append(t.fake, subnet.ID)
		}
	}
	var group struct {
		ID string `xml:"groupId"`
	}
	err := t.api.call(ctx, &group, "CreateSecurityGroup", "GroupName", "torture", "GroupDescription", "torture", "VpcId", vpc.ID)
	t.group = group.ID
	return err
}

// live does one random thing after another until ctx ends.
func (t *tenant) live(ctx context.Context, b *books) {
	for ctx.Err() == nil {
		t.step(ctx, b)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(t.random.Int64N(int64(longestGap)))):
		}
	}
}

func (t *tenant) step(ctx context.Context, b *books) {
	switch dice := t.random.IntN(100); {
	case dice < 30 && len(t.held) < maxHeld:
		t.launch(ctx, b)
	case dice < 50:
		t.terminate(ctx, b)
	case dice < 60:
		t.power(ctx, b, true)
	case dice < 70:
		t.power(ctx, b, false)
	case dice < 90:
		t.editRule(ctx, b)
	default:
		t.look(ctx, b)
	}
}

// expected are refusals that a correct server gives a client that acts at random.
var expected = map[string]bool{
	"InsufficientInstanceCapacity": true, "InsufficientFreeAddressesInSubnet": true, "IncorrectInstanceState": true,
	"VcpuLimitExceeded": true, "InstanceLimitExceeded": true,
}

// failed counts an error; those of calls that ctx cut off are nobody's.
func (t *tenant) failed(b *books, what string, err error) {
	switch c := devcloud.Code(err); {
	case c == "":
		b.count("unanswered")
	case expected[c]:
		b.count("refused")
	default:
		b.wrong(&b.broken, "account %d: %s: %v", t.n, what, err)
	}
}

func (t *tenant) launch(ctx context.Context, b *books) {
	subnet, real := t.fake[t.random.IntN(len(t.fake))], t.random.IntN(6) == 0
	count := 1 + t.random.IntN(3)
	if again := t.random.IntN(8) == 0; real {
		if count = 1; t.onReal.Add(1) > maxReal {
			t.onReal.Add(-1)
			return
		}
		t.launchIn(ctx, b, t.real[t.random.IntN(len(t.real))], count, true, again)
	} else {
		t.launchIn(ctx, b, subnet, count, false, again)
	}
}

func (t *tenant) launchIn(ctx context.Context, b *books, subnet string, count int, real, again bool) {
	t.tokens++
	request := []string{
		"ImageId", t.image, "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", strconv.Itoa(count), "SubnetId", subnet,
		"SecurityGroupId.1", t.group, "ClientToken", fmt.Sprintf("torture-%d-%d", t.n, t.tokens),
	}
	var out devcloud.Launched
	if err := t.api.call(ctx, &out, "RunInstances", request...); err != nil {
		if real {
			t.onReal.Add(-1)
		}
		t.failed(b, "launch", err)
		return
	}
	b.count("launches")
	for _, i := range out.Instances {
		t.held[i.ID] = &holding{real: real}
		t.handedOut(ctx, b, i)
	}
	if !again {
		return
	}
	var second devcloud.Launched
	if err := t.api.call(ctx, &second, "RunInstances", request...); err != nil {
		t.failed(b, "launch again", err)
	} else if a, z := idsOf(out.Instances), idsOf(second.Instances); !slices.Equal(a, z) {
		b.wrong(&b.doubles, "account %d: one client token gave %v and %v", t.n, a, z)
	}
}

func idsOf(list []devcloud.Instance) (ids []string) {
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	return ids
}

// handedOut notes who has an address now. Who had it before must be at its end: host and all.
func (t *tenant) handedOut(ctx context.Context, b *books, i devcloud.Instance) {
	key := i.Subnet + " " + i.Address
	before := t.holder[key]
	t.holder[key] = i.ID
	if before == "" {
		return
	}
	b.count("reused")
	found, err := t.api.describe(ctx, before)
	switch {
	case devcloud.Code(err) == "InvalidInstanceID.NotFound":
		b.wrong(&b.lost, "account %d: %s is not found", t.n, before)
	case err != nil:
		t.failed(b, "describe "+before, err)
	case len(found) != 1 || found[0].State != "terminated":
		b.wrong(&b.doubles, "account %d: %s was given to %s while %+v had it", t.n, key, i.ID, found)
	}
}

// choose picks an instance; false when there is none.
func (t *tenant) choose() (string, bool) {
	if len(t.held) == 0 {
		return "", false
	}
	ids := slices.Sorted(maps.Keys(t.held))
	return ids[t.random.IntN(len(ids))], true
}

func (t *tenant) terminate(ctx context.Context, b *books) {
	id, found := t.choose()
	if !found {
		return
	}
	if err := t.api.call(ctx, &struct{}{}, "TerminateInstances", "InstanceId.1", id); err != nil {
		t.changeFailed(b, "terminate", id, err)
		return
	}
	b.count("terminations")
	t.hasEnded(id)
}

func (t *tenant) hasEnded(id string) {
	if t.held[id].real {
		t.onReal.Add(-1)
	}
	delete(t.held, id)
	t.ended[id] = true
}

// changeFailed counts an error of a call about an instance that was acknowledged.
func (t *tenant) changeFailed(b *books, what, id string, err error) {
	if devcloud.Code(err) == "InvalidInstanceID.NotFound" {
		b.wrong(&b.lost, "account %d: %s %s: %v", t.n, what, id, err)
		return
	}
	t.failed(b, what, err)
}

// power stops or starts an instance. A lost answer leaves open whether it is stopped.
func (t *tenant) power(ctx context.Context, b *books, stop bool) {
	id, found := t.choose()
	if !found {
		return
	}
	action, what := "StartInstances", "starts"
	if stop {
		action, what = "StopInstances", "stops"
	}
	t.held[id].stopped = false
	if err := t.api.call(ctx, &struct{}{}, action, "InstanceId.1", id); err != nil {
		t.changeFailed(b, action, id, err)
		return
	}
	b.count(what)
	t.held[id].stopped = stop
}

// editRule lets a port in, or shuts it. Sent again after a lost answer, either may find that it is done.
func (t *tenant) editRule(ctx context.Context, b *books) {
	port := 1 + t.random.IntN(20)
	action, done := "AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate"
	if t.rules[port] {
		action, done = "RevokeSecurityGroupIngress", "InvalidPermission.NotFound"
	}
	text := strconv.Itoa(port)
	err := t.api.call(ctx, &struct{}{}, action, "GroupId", t.group, "IpPermissions.1.IpProtocol", "tcp", "IpPermissions.1.FromPort", text,
		"IpPermissions.1.ToPort", text, "IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/24")
	switch {
	case err == nil || devcloud.Code(err) == done:
		b.count("rules")
		t.rules[port] = !t.rules[port]
	default:
		t.unknown[port] = devcloud.Code(err) == ""
		t.failed(b, action, err)
	}
}

// look compares what is there with what was acknowledged.
func (t *tenant) look(ctx context.Context, b *books) {
	all, err := t.api.describe(ctx)
	if err != nil {
		t.failed(b, "describe", err)
		return
	}
	b.count("looks")
	t.compare(all, b)
}

func (t *tenant) compare(all []devcloud.Instance, b *books) {
	states, addresses := map[string]string{}, map[string]string{}
	for _, i := range all {
		states[i.ID] = i.State
		if i.State == "terminated" || i.Address == "" {
			continue
		}
		key := i.Subnet + " " + i.Address
		if other := addresses[key]; other != "" {
			b.wrong(&b.doubles, "account %d: %s belongs to %s and %s", t.n, key, other, i.ID)
		}
		addresses[key] = i.ID
	}
	for id, h := range t.held {
		switch s := states[id]; {
		case s == "":
			b.wrong(&b.lost, "account %d: %s was acknowledged and is not there", t.n, id)
		case h.stopped && (s == "pending" || s == "running"):
			b.wrong(&b.lost, "account %d: %s is %s, its stop was acknowledged", t.n, id, s)
		}
	}
	for id := range t.ended {
		if s := states[id]; s != "shutting-down" && s != "terminated" {
			b.wrong(&b.lost, "account %d: %s is %q, its termination was acknowledged", t.n, id, s)
		}
	}
}
