package server_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/store/tuple"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// What no invariant finds, by the family of the row, and why.
var (
	unseenDeleted = map[string]string{
		"dispatch item": "a tombstone is forgotten in time", "op": "an ended operation is forgotten in time", "tag": "a resource need not have tags",
		"vpc pool": "the element taken last only spreads the next ones",
	}
	unseenRaised = map[string]string{
		"compute owned": "it is there or not", "image owner": "it is there or not", "vpc pool": "the element taken last only spreads the next ones",
		"vpc identity-last": "a number may be given up", "vpc vni": "a number may be given up", "dispatch seq": "a sequence goes ahead with deletes",
	}
	unseenCopied = map[string]string{
		"op": "an ended operation of nothing is forgotten in time", "dispatch seq": "a section without items",
		"account left": "a quota of a later version", "account limit": "a quota of a later version",
		"vpc identity-last": "it is 0 until there is one", "compute left": "read with its host",
	}
)

// broken is a copy of a world's rows, with its invariants, for a test to break.
type broken struct {
	*world
	db         *store.DB
	invariants []check.Invariant
	bit        map[string]bool // the invariants that found something
}

// wholeCloud is a world with a row of nearly every family.
func wholeCloud(t *testing.T) *world {
	w := newWorld(t, 2)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := w.Accounts.CreateKeyPair(w.ctx, account.KeyPairRequest{Account: w.Account, Name: "k", Type: account.KeyEd25519, Tags: map[string]string{"a": "b"}})
	must(err)
	must(w.Accounts.Tags().CreateTags(w.ctx, w.Account, []string{string(w.Image)}, map[string]string{"a": "b"}))
	g, err := w.Networks.CreateGroup(w.ctx, vpc.CreateGroupRequest{Account: w.Account, VPC: w.VPC, Name: "x", Description: "x", Tags: map[string]string{"a": "b"}})
	must(err)
	peer := vpc.RuleSpec{Protocol: vpc.TCP, FromPort: 1, ToPort: 2, Peer: w.Group}
	_, err = w.Networks.Authorize(w.ctx, vpc.AuthorizeRequest{Account: w.Account, Group: g.ID, Rules: []vpc.RuleSpec{peer}})
	must(err)
	_, err = w.Networks.CreateVPC(w.ctx, vpc.CreateVPCRequest{Account: w.Account, CIDR: netip.MustParsePrefix("10.9.0.0/16")})
	must(err)

	kept, named, both := w.Request(1), w.Request(2), w.Request(1)
	kept.RootDisk.Keep = true
	named.ClientToken, named.KeyName = "token", key.Name
	named.InstanceTags, named.VolumeTags = map[string]string{"a": "b"}, map[string]string{"a": "b"}
	both.Groups = []ids.SecurityGroup{g.ID, w.Group}
	a, bs, c := idsOf(w.launch(kept).Instances), idsOf(w.launch(named).Instances), idsOf(w.launch(both).Instances)
	w.await(compute.Running, slices.Concat(a, bs, c)...)
	w.stop(bs[0])
	w.await(compute.Stopped, bs[0])
	w.terminate(a[0], bs[1])
	w.await(compute.Terminated, a[0], bs[1])
	return w
}

// copyRows reads a world's rows into a store that nobody works on.
func copyRows(t *testing.T, w *world) (*broken, []store.KV) {
	w.Stop()
	engine := storetest.NewMemory()
	t.Cleanup(func() { engine.Close() })
	b := &broken{world: w, db: store.New(engine, store.Options{Tenant: "copy"}), bit: map[string]bool{}}
	b.invariants = slices.Concat(accountrows.Invariants(), vpcrows.Invariants(), imagerows.Invariants(), computerows.Invariants())
	for _, i := range dispatchrows.Invariants() {
		b.invariants = append(b.invariants, check.Invariant{Name: i.Name, Doc: i.Doc, Check: i.Check})
	}
	var rows []store.KV
	err := w.DB.View(w.ctx, func(r store.Reader) error {
		return check.Scan(w.ctx, r, nil, func(kv store.KV) error { rows = append(rows, kv); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	for chunk := range slices.Chunk(rows, 100) {
		b.put(chunk...)
	}
	if found := b.findings(); len(found) > 0 {
		t.Fatalf("before anything is broken: %v", found)
	}
	return b, rows
}

func (b *broken) edit(fn func(tx *store.Tx)) {
	b.t.Helper()
	if _, err := b.db.Transact(b.ctx, func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broken) put(rows ...store.KV) {
	b.t.Helper()
	b.edit(func(tx *store.Tx) {
		for _, kv := range rows {
			value := store.Bytes(kv.Value.Bytes)
			if kv.Value.Kind == store.KindInt64 {
				value = store.Int(kv.Value.Int)
			}
			tx.Put(store.Template{Base: kv.Key}, value)
		}
	})
}

func (b *broken) drop(key []byte) {
	b.t.Helper()
	b.edit(func(tx *store.Tx) { tx.Delete(store.Template{Base: key}) })
}

// findings names the invariants that find something now, or cannot be checked.
func (b *broken) findings() []string {
	report, err := check.Run(b.ctx, b.db, b.invariants)
	found := map[string]bool{}
	for _, f := range report.Findings {
		found[f.Invariant], b.bit[f.Invariant] = true, true
	}
	if err != nil {
		found[err.Error()] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// with is a row with fields of its value changed.
func with(t *testing.T, kv store.KV, fields map[int]any) store.KV {
	t.Helper()
	var all map[int]any
	if err := cbor.Unmarshal(kv.Value.Bytes, &all); err != nil {
		t.Fatal(err)
	}
	maps.Copy(all, fields)
	value, err := cbor.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return store.KV{Key: kv.Key, Value: store.BytesValue(value)}
}

// familyOf names the kind of a row.
func familyOf(t *testing.T, key []byte) (string, []any) {
	t.Helper()
	parts, err := tuple.Decode(key)
	if err != nil {
		t.Fatal(err)
	}
	if parts[0] == "op" || parts[0] == "tag" {
		return fmt.Sprint(parts[0]), parts
	}
	return fmt.Sprintf("%v %v", parts[0], parts[1]), parts
}

// TestInvariantsBite breaks each row of a whole cloud in turn: it is deleted, a number is raised, a second one is put
// beside it. Each is found, but for what unseen… explains; and each invariant finds something.
func TestInvariantsBite(t *testing.T) {
	b, rows := copyRows(t, wholeCloud(t))
	used := map[string]bool{}
	expect := func(what, family string, unseen map[string]string) {
		t.Helper()
		if len(b.findings()) > 0 {
			return
		}
		if used[what+family] = true; unseen[family] == "" {
			t.Errorf("nothing finds that a row of %s is %s", family, what)
		}
	}
	for _, kv := range rows {
		family, parts := familyOf(t, kv.Key)
		b.drop(kv.Key)
		expect("gone", family, unseenDeleted)
		if raised := kv; kv.Value.Kind == store.KindInt64 {
			raised.Value.Int += 3
			b.put(raised)
			expect("raised", family, unseenRaised)
		}
		b.put(kv)
		last, isText := parts[len(parts)-1].(string)
		if !isText || len(parts) < 3 && family != "op" {
			continue
		}
		second := kv
		second.Key = store.Key(append(slices.Clone(parts[:len(parts)-1]), last+"x")...).Base
		b.put(second)
		expect("doubled", family, unseenCopied)
		b.drop(second.Key)
	}
	for what, unseen := range map[string]map[string]string{"gone": unseenDeleted, "raised": unseenRaised, "doubled": unseenCopied} {
		for family := range unseen {
			if !used[what+family] {
				t.Errorf("a row of %s that is %s is found: it needs no excuse", family, what)
			}
		}
	}
	b.breakByHand(rows)
	if found := b.findings(); len(found) > 0 {
		t.Errorf("after all is put back: %v", found)
	}
	for _, i := range b.invariants {
		if !b.bit[i.Name] && i.Name != "dispatch.identities" { // its own test breaks it: no host of this world has a key
			t.Errorf("%s has found nothing", i.Name)
		}
	}
}

// breakByHand changes fields of rows: what is neither a row too many nor one too few.
func (b *broken) breakByHand(rows []store.KV) {
	for _, c := range []struct {
		invariant, family string
		fields            map[int]any
	}{
		{"compute.pending", "compute instance", map[int]any{10: compute.Pending, 6: 1}},
		{"compute.operations", "compute instance", map[int]any{10: compute.Stopping}},
		{"compute.operations", "op", map[int]any{5: 0}},
		{"compute.interfaces", "vpc interface", map[int]any{14: "i-00000000000000000"}},
		{"compute.volumes", "compute volume", map[int]any{4: 1 << 10, 6: nil}},
		{"vpc.indexes", "vpc group", map[int]any{4: "another"}},
		{"vpc.topology", "vpc vpc", map[int]any{8: "rtb-00000000000000000"}},
		{"image.names", "image row", map[int]any{3: "another"}},
		{"account.names", "account account", map[int]any{2: "another"}},
	} {
		for _, kv := range rows {
			if family, _ := familyOf(b.t, kv.Key); family != c.family {
				continue
			}
			b.put(with(b.t, kv, c.fields))
			if found := strings.Join(b.findings(), " "); !strings.Contains(found, c.invariant) {
				b.t.Errorf("%s with %v: %q, want %s", c.family, c.fields, found, c.invariant)
			}
			b.put(kv)
		}
	}
}
