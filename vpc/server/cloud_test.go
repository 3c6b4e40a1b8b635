package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// cloud is the accounts and networks parts on a store in memory.
type cloud struct {
	*Service
	accounts *accounts.Service
	db       *store.DB
	zones    []string
}

// yielding lets other goroutines run between a transaction's reads and its commit, where races are.
type yielding struct{ store.Engine }

func (e yielding) Commit(ctx context.Context, c *store.Commit) (*store.Answer, error) {
	for range 8 {
		runtime.Gosched()
	}
	return e.Engine.Commit(ctx, c)
}

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

func newCloud(t tester) *cloud {
	t.Helper()
	c := &cloud{db: store.New(yielding{storetest.NewMemory()}, store.Options{Tenant: "root"}), zones: []string{"z-1a", "z-1b", "z-1c"}}
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	withDefault := func(ctx context.Context, tx *store.Tx, a ids.Account) error {
		return c.CreateDefault(ctx, tx, a)
	}
	c.accounts = accounts.New(c.db, key, accounts.Options{
		OnCreate: []func(context.Context, *store.Tx, ids.Account) error{withDefault},
	})
	for _, k := range vpcrows.Taggables() {
		c.accounts.Tags().Register(k.IDPrefix, string(k.Kind), k.Expect)
	}
	c.Service, err = New(c.db, Options{Region: "us-test-1", Zones: c.zones, Tags: c.accounts.Tags()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- c.accounts.Run(ctx) }()
	go func() { done <- c.Service.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}
		c.check(t)
	})
	return c
}

// check runs the invariants of both parts.
func (c *cloud) check(t tester) {
	t.Helper()
	report, err := check.Run(context.Background(), c.db, append(accountrows.Invariants(), vpcrows.Invariants()...))
	if err != nil || !report.Clean() {
		t.Errorf("invariants: %+v, %v", report.Findings, err)
	}
}

func (c *cloud) account(t tester, name string) ids.Account {
	t.Helper()
	a, _, _, err := c.accounts.Create(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return a.ID
}

func (c *cloud) vpc(t tester, a ids.Account, cidr string) vpc.VPC {
	t.Helper()
	v, err := c.CreateVPC(context.Background(), vpc.CreateVPCRequest{Account: a, CIDR: netip.MustParsePrefix(cidr)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (c *cloud) subnet(t tester, v vpc.VPC, cidr string) vpc.Subnet {
	t.Helper()
	s, err := c.CreateSubnet(context.Background(), vpc.CreateSubnetRequest{Account: v.Account, VPC: v.ID, CIDR: netip.MustParsePrefix(cidr)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *cloud) group(t tester, v vpc.VPC, name string) vpc.SecurityGroup {
	t.Helper()
	g, err := c.CreateGroup(context.Background(), vpc.CreateGroupRequest{Account: v.Account, VPC: v.ID, Name: name, Description: name})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// launch attaches one interface as a launch does: prepared before, on a host that the transaction chooses.
func (c *cloud) launch(ctx context.Context, r vpc.PrepareRequest, address netip.Addr) (ids.Interface, netip.Addr, *store.Result, error) {
	p, err := c.Prepare(ctx, r)
	if err != nil {
		return "", netip.Addr{}, nil, err
	}
	return c.attach(ctx, p, address, testHost)
}

const testHost ids.Host = "h-0123456789abcdef0"

func (c *cloud) attach(ctx context.Context, p vpc.Prepared, address netip.Addr, h ids.Host) (ids.Interface, netip.Addr, *store.Result, error) {
	id := ids.New[ids.Interface](rand.Reader)
	var attached vpcrows.Attached
	result, err := c.db.Transact(ctx, func(tx *store.Tx) (err error) {
		vpcrows.ExpectPrepared(tx, p)
		label := tx.FirstOf([]store.Alternative{{Label: []byte(h), Guards: func(*store.Tx) {}}})
		attached, err = vpcrows.Attach(tx, vpcrows.AttachRequest{
			Prepared: p, Interface: id, Instance: "i-0123456789abcdef0", Attachment: "eni-attach-0123456789abcdef0",
			Host: label, Address: address, Created: c.now(), DeleteOnTermination: true,
		})
		return err
	})
	if err != nil {
		return "", netip.Addr{}, nil, err
	}
	return id, attached.Address(result), result, nil
}

func (c *cloud) detach(ctx context.Context, a ids.Account, id ids.Interface) error {
	_, err := c.db.Transact(ctx, func(tx *store.Tx) error { return vpcrows.Detach(ctx, tx, a, id) })
	return err
}

// as asserts that err is an E.
func as[E error](t tester, err error) E {
	t.Helper()
	var want E
	if !errors.As(err, &want) {
		t.Fatalf("error %v is no %T", err, want)
	}
	return want
}

// must returns a value, or ends the test.
func must[T any](v T, err error) func(t tester) T {
	return func(t tester) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func name(i int) string { return fmt.Sprintf("n%d", i) }
