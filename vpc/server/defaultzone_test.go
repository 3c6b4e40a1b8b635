package server

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// restartWith is a server of another list of zones on the same store, until the test ends.
func (c *cloud) restartWith(t *testing.T, zones ...string) *Service {
	t.Helper()
	s, err := New(c.db, Options{Region: "us-test-1", Zones: zones, Tags: c.accounts.Tags()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	if err := s.addZones(t.Context()); err != nil { // what Run does too; the second of the two finds nothing to do
		t.Fatal(err)
	}
	return s
}

func blocks(t *testing.T, s *Service, a ids.Account) (out []string) {
	t.Helper()
	for _, subnet := range must(s.DescribeSubnets(t.Context(), a, nil, func(x *vpc.Subnet) bool { return x.Default }))(t) {
		out = append(out, subnet.Zone+" "+subnet.CIDR.String())
	}
	slices.Sort(out)
	return out
}

// TestNewZonesGetDefaultSubnets restarts with more zones: each account's default VPC has a subnet there, but for accounts
// that deleted theirs, and nothing that was deleted comes back.
func TestNewZonesGetDefaultSubnets(t *testing.T) {
	c := newCloud(t)
	ctx := t.Context()
	a, trimmed, without, taken := c.account(t, "a"), c.account(t, "trimmed"), c.account(t, "without"), c.account(t, "taken")
	drop := func(a ids.Account, zone string) {
		for _, s := range must(c.DescribeSubnets(ctx, a, nil, func(s *vpc.Subnet) bool { return zone == "" || s.Zone == zone }))(t) {
			if err := c.DeleteSubnet(ctx, a, s.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	drop(trimmed, "z-1b")
	drop(without, "")
	if err := c.DeleteVPC(ctx, without, must(c.EnsureDefault(ctx, without))(t).ID); err != nil {
		t.Fatal(err)
	}
	own := c.subnet(t, must(c.EnsureDefault(ctx, taken))(t), "172.31.48.0/24") // in the fourth zone's block
	_, err := c.db.Transact(ctx, func(tx *store.Tx) error {                    // an account of before zones were noted
		for _, zone := range c.zones {
			tx.Delete(store.Key("vpc", "default-zone", a, zone))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now := c.restartWith(t, append(slices.Clone(c.zones), "z-1d")...)
	first := []string{"z-1a 172.31.0.0/20", "z-1b 172.31.16.0/20", "z-1c 172.31.32.0/20"}
	for account, want := range map[ids.Account][]string{
		a: append(slices.Clone(first), "z-1d 172.31.48.0/20"), trimmed: {first[0], first[2], "z-1d 172.31.48.0/20"},
		taken: append(slices.Clone(first), "z-1d 172.31.64.0/20"), without: nil,
	} {
		if got := blocks(t, now, account); !slices.Equal(got, want) {
			t.Errorf("%s: default subnets %v, want %v", account, got, want)
		}
	}
	p := must(now.Prepare(ctx, vpc.PrepareRequest{Account: a, Zone: "z-1d"}))(t)
	if p.Subnet.Zone != "z-1d" {
		t.Errorf("prepared in %+v", p.Subnet)
	}
	must(now.DescribeSubnets(ctx, taken, []ids.Subnet{own.ID}, nil))(t)
	if err := now.DeleteSubnet(ctx, a, p.Subnet.ID); err != nil {
		t.Fatal(err)
	}
	again := c.restartWith(t, append(slices.Clone(c.zones), "z-1d")...)
	if got := blocks(t, again, a); !slices.Equal(got, first) {
		t.Errorf("what was deleted came back: %v", got)
	}
	lacking := map[ids.Account][]string{}
	err = c.db.View(ctx, func(r store.Reader) (err error) {
		lacking, err = vpcrows.WithoutDefaultZone(ctx, r, []string{"z-1a", "z-1d"})
		return err
	})
	if err != nil || len(lacking) != 1 || lacking[without] == nil {
		t.Errorf("accounts without a zone: %v, %v", lacking, err)
	}
}
