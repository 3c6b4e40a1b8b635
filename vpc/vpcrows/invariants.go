package vpcrows

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/vpc"
)

// Invariants returns what must hold of this part's rows.
func Invariants() []check.Invariant {
	return []check.Invariant{
		{
			Name:  "vpc.topology",
			Doc:   "Rows are under their own keys; VNIs are unique and were given out; subnets lie in their VPC, do not overlap and are found by address.",
			Check: over(checkTopology),
		},
		{
			Name:  "vpc.addresses",
			Doc:   "The addresses taken from a subnet's pool are those of its interfaces, releasing ones included; no two are the same.",
			Check: over(checkAddresses),
		},
		{
			Name:  "vpc.mappings",
			Doc:   "A VPC's document maps exactly the interfaces in use, and the document of each one's host has it.",
			Check: over(checkMappings),
		},
		{
			Name:  "vpc.identities",
			Doc:   "An identity's count is that of the interfaces with it, its groups exist, hosts know it, and its number is not retired.",
			Check: over(checkIdentities),
		},
		{
			Name:  "vpc.policy",
			Doc:   "Rules belong to groups and refer to groups that exist, and hosts know each group as it is.",
			Check: over(checkPolicy),
		},
		{
			Name:  "vpc.indexes",
			Doc:   "No index, count or pool is left of what does not exist.",
			Check: over(checkIndexes),
		},
		accountrows.QuotaInvariant("vpc.vpc-quota", account.QuotaVPCs, counting(func(s *rows) map[ids.Account]int64 {
			return count(s.vpcs, func(v VPC) (ids.Account, bool) { return v.Account, true })
		})),
		accountrows.QuotaInvariant("vpc.group-quota", account.QuotaSecurityGroups, counting(func(s *rows) map[ids.Account]int64 {
			return count(s.groups, func(g vpc.SecurityGroup) (ids.Account, bool) { return g.Account, true })
		})),
		accountrows.QuotaInvariant("vpc.interface-quota", account.QuotaInterfaces, counting(func(s *rows) map[ids.Account]int64 {
			return count(s.interfaces, func(i Interface) (ids.Account, bool) { return i.Account, i.State == vpc.InterfaceInUse })
		})),
		tagrows.Invariant("vpc.tags", exists),
	}
}

// rows is this part's rows, read whole.
type rows struct {
	r          store.Reader
	vpcs       map[ids.VPC]VPC
	subnets    map[ids.Subnet]Subnet
	groups     map[ids.SecurityGroup]vpc.SecurityGroup
	rules      []vpc.Rule
	interfaces map[ids.Interface]Interface
	dhcp       map[ids.DHCPOptions]vpc.DHCPOptions
	misplaced  []string // rows under keys that are not theirs
	identities []vpc.Identity
	retired    []Retired
}

type finding func(subject, detail string)

func over(fn func(ctx context.Context, s *rows, report finding) error) func(context.Context, store.Reader, func(subject, detail string)) error {
	return func(ctx context.Context, r store.Reader, report func(subject, detail string)) error {
		s, err := read(ctx, r)
		if err != nil {
			return err
		}
		return fn(ctx, s, report)
	}
}

func counting(fn func(*rows) map[ids.Account]int64) func(context.Context, store.Reader) (map[ids.Account]int64, error) {
	return func(ctx context.Context, r store.Reader) (map[ids.Account]int64, error) {
		s, err := read(ctx, r)
		if err != nil {
			return nil, err
		}
		return fn(s), nil
	}
}

func count[K comparable, R any](table map[K]R, owner func(R) (ids.Account, bool)) map[ids.Account]int64 {
	out := map[ids.Account]int64{}
	for _, r := range table {
		if a, counts := owner(r); counts {
			out[a]++
		}
	}
	return out
}

func read(ctx context.Context, r store.Reader) (*rows, error) {
	s := &rows{r: r}
	var err error
	if s.vpcs, err = table(ctx, s, FamilyVPC, DecodeVPC, func(v VPC) (ids.Account, ids.VPC) { return v.Account, v.ID }); err != nil {
		return nil, err
	}
	if s.subnets, err = table(ctx, s, FamilySubnet, DecodeSubnet, func(v Subnet) (ids.Account, ids.Subnet) { return v.Account, v.ID }); err != nil {
		return nil, err
	}
	if s.groups, err = table(ctx, s, FamilyGroup, DecodeGroup, func(g vpc.SecurityGroup) (ids.Account, ids.SecurityGroup) { return g.Account, g.ID }); err != nil {
		return nil, err
	}
	if s.interfaces, err = table(ctx, s, FamilyInterface, DecodeInterface, func(i Interface) (ids.Account, ids.Interface) { return i.Account, i.ID }); err != nil {
		return nil, err
	}
	if s.dhcp, err = table(ctx, s, FamilyDHCP, DecodeDHCP, func(o vpc.DHCPOptions) (ids.Account, ids.DHCPOptions) { return o.Account, o.ID }); err != nil {
		return nil, err
	}
	if s.rules, err = list(ctx, r, FamilyRule, DecodeRule); err != nil {
		return nil, err
	}
	if s.identities, err = list(ctx, r, FamilyIdentity, DecodeIdentity); err != nil {
		return nil, err
	}
	err = check.Scan(ctx, r, prefix(familyRetired), func(kv store.KV) error {
		gone, err := decodeRetired(kv)
		s.retired = append(s.retired, gone)
		return err
	})
	return s, err
}

func list[R any](ctx context.Context, r store.Reader, f Family, decode func(store.Value) (R, error)) ([]R, error) {
	var out []R
	err := check.Scan(ctx, r, prefix(f), func(kv store.KV) error {
		v, err := decode(kv.Value)
		out = append(out, v)
		return err
	})
	return out, err
}

func table[K ids.ID, R any](ctx context.Context, s *rows, f Family, decode func(store.Value) (R, error), id func(R) (ids.Account, K)) (map[K]R, error) {
	out := map[K]R{}
	err := check.Scan(ctx, s.r, prefix(f), func(kv store.KV) error {
		v, err := decode(kv.Value)
		a, k := id(v)
		if err == nil && !bytes.Equal(kv.Key, prefix(f, a, k)) {
			s.misplaced = append(s.misplaced, fmt.Sprintf("%s of account %s is under the key %q", k, a, kv.Key))
		}
		out[k] = v
		return err
	})
	return out, err
}

func checkMappings(ctx context.Context, s *rows, report finding) error {
	mapped := map[ids.Interface]host.Mapping{}
	for id := range s.vpcs {
		if err := items(ctx, s.r, host.DocVPC(id), host.SectionMappings, func(_ string, m host.Mapping) { mapped[m.Interface] = m }); err != nil {
			return err
		}
	}
	for id, i := range s.interfaces {
		m, found := mapped[id]
		delete(mapped, id)
		inUse := i.State == vpc.InterfaceInUse
		if found != inUse {
			report(string(id), fmt.Sprintf("is %s, and mapped: %t", i.State, found))
		}
		if address, err := m.Address(); found && (err != nil || address != i.Address || m.Host != i.Host || m.Identity != i.Identity || m.MAC != i.MAC) {
			report(string(id), fmt.Sprintf("is mapped as %+v", m))
		}
	}
	for id := range mapped {
		report(string(id), "is mapped, but does not exist")
	}
	return checkHostItems(ctx, s, report)
}

// checkHostItems compares the interfaces in use with what their hosts are told.
func checkHostItems(ctx context.Context, s *rows, report finding) error {
	told := map[ids.Interface]host.Interface{}
	hosts := map[ids.Host]bool{}
	for _, i := range s.interfaces {
		if hosts[i.Host] {
			continue
		}
		hosts[i.Host] = true
		err := items(ctx, s.r, host.DocHost(i.Host), host.SectionInterfaces, func(_ string, h host.Interface) { told[h.ID] = h })
		if err != nil {
			return err
		}
	}
	for id, i := range s.interfaces {
		h, found := told[id]
		delete(told, id)
		if found != (i.State == vpc.InterfaceInUse) {
			report(string(id), fmt.Sprintf("is %s, and in the document of %s: %t", i.State, i.Host, found))
		}
		if address, err := h.Address(); found && (err != nil || address != i.Address || h.Identity != i.Identity || h.VNI != s.vpcs[i.VPC].VNI) {
			report(string(id), fmt.Sprintf("its host is told %+v", h))
		}
	}
	for id := range told {
		report(string(id), "is in a host's document, but does not exist")
	}
	return nil
}

// items reads a section of a document.
func items[T host.Payload](ctx context.Context, r store.Reader, doc, section string, fn func(key string, v T)) error {
	all, err := dispatchrows.Items(ctx, r, doc, section)
	if err != nil {
		return err
	}
	for _, it := range all {
		v, err := host.Decode[T](it.Payload)
		if err != nil {
			return err
		}
		fn(it.Key, v)
	}
	return nil
}

func checkIdentities(ctx context.Context, s *rows, report finding) error {
	type at struct {
		vpc    ids.VPC
		number uint16
	}
	users := map[at]int64{}
	for _, i := range s.interfaces {
		users[at{i.VPC, i.Identity}]++
	}
	for _, i := range s.identities {
		subject := fmt.Sprintf("%s identity %d", i.VPC, i.Number)
		use, found, err := s.r.Get(ctx, identityUseKey(i.VPC, i.Number).Base)
		if err != nil {
			return err
		}
		if n := users[at{i.VPC, i.Number}]; !found || use.Int != n {
			report(subject, fmt.Sprintf("is counted %d times and used by %d interfaces", use.Int, n))
		}
		delete(users, at{i.VPC, i.Number})
		for _, g := range i.Groups {
			if s.groups[g].VPC != i.VPC {
				report(subject, "holds a group that is not in the VPC: "+string(g))
			}
		}
		of, _, err := s.r.Get(ctx, prefix(familyIdentityOf, i.VPC, set(i.Groups)))
		if err != nil {
			return err
		}
		if of.Int != int64(i.Number) {
			report(subject, fmt.Sprintf("its groups lead to %d", of.Int))
		}
	}
	for i, n := range users {
		report(fmt.Sprintf("%s identity %d", i.vpc, i.number), fmt.Sprintf("does not exist, but %d interfaces have it", n))
	}
	if err := checkNumbers(ctx, s, report); err != nil {
		return err
	}
	return checkKnownIdentities(ctx, s, report)
}

// checkNumbers: of the numbers that were given, each is an identity's or waits for the hosts, and is so once.
func checkNumbers(ctx context.Context, s *rows, report finding) error {
	given := map[ids.VPC]map[uint16]int{}
	give := func(v ids.VPC, number uint16) {
		if given[v] == nil {
			given[v] = map[uint16]int{}
		}
		given[v][number]++
	}
	for _, i := range s.identities {
		give(i.VPC, i.Number)
	}
	for _, gone := range s.retired {
		if s.vpcs[gone.VPC].ID == "" {
			report(fmt.Sprintf("%s identity %d", gone.VPC, gone.Number), "is retired of a VPC that does not exist")
		}
		give(gone.VPC, gone.Number)
	}
	for v, numbers := range given {
		last, err := LastIdentity(ctx, s.r, v)
		if err != nil {
			return err
		}
		for number, n := range numbers {
			if n > 1 || int(number) > last {
				report(fmt.Sprintf("%s identity %d", v, number), fmt.Sprintf("is there %d times, of %d numbers given", n, last))
			}
		}
	}
	return nil
}

func checkKnownIdentities(ctx context.Context, s *rows, report finding) error {
	for id := range s.vpcs {
		known := map[uint16][]ids.SecurityGroup{}
		err := items(ctx, s.r, host.DocVPC(id), host.SectionIdentities, func(_ string, i host.Identity) { known[i.Number] = i.Groups })
		if err != nil {
			return err
		}
		for _, i := range s.identities {
			if i.VPC == id && !slices.Equal(known[i.Number], i.Groups) {
				report(fmt.Sprintf("%s identity %d", id, i.Number), fmt.Sprintf("holds %v, hosts know %v", i.Groups, known[i.Number]))
			}
			if i.VPC == id {
				delete(known, i.Number)
			}
		}
		for number := range known {
			report(fmt.Sprintf("%s identity %d", id, number), "is known to hosts, but does not exist")
		}
	}
	return nil
}

func checkPolicy(ctx context.Context, s *rows, report finding) error {
	of := map[ids.SecurityGroup][]vpc.Rule{}
	for _, r := range s.rules {
		of[r.Group] = append(of[r.Group], r)
		g, found := s.groups[r.Group]
		if !found {
			report(string(r.ID), "is of a group that does not exist: "+string(r.Group))
		}
		if r.Peer != "" && s.groups[r.Peer].VPC != g.VPC {
			report(string(r.ID), "refers to a group that is not in the VPC: "+string(r.Peer))
		}
		byID, _, err := s.r.Get(ctx, prefix(familyRuleID, r.Account, r.ID))
		if err != nil {
			return err
		}
		if string(byID.Bytes) != string(r.Group) {
			report(string(r.ID), "is not found by its id")
		}
	}
	for id := range s.vpcs {
		if err := checkKnownGroups(ctx, s, id, of, report); err != nil {
			return err
		}
	}
	return nil
}

func checkKnownGroups(ctx context.Context, s *rows, id ids.VPC, of map[ids.SecurityGroup][]vpc.Rule, report finding) error {
	known := map[ids.SecurityGroup]host.Group{}
	err := items(ctx, s.r, host.DocVPC(id), host.SectionGroups, func(_ string, g host.Group) { known[g.ID] = g })
	if err != nil {
		return err
	}
	for g, row := range s.groups {
		if row.VPC != id {
			continue
		}
		if !bytes.Equal(host.Encode(known[g]), host.Encode(hostGroup(g, of[g]))) {
			report(string(g), fmt.Sprintf("hosts know it as %+v", known[g]))
		}
		delete(known, g)
	}
	for g := range known {
		report(string(g), "is known to hosts, but does not exist")
	}
	return nil
}

// checkIndexes counts the rows of each family that goes with others.
func checkIndexes(ctx context.Context, s *rows, report finding) error {
	members, peers := 0, 0
	for _, i := range s.identities {
		members += len(i.Groups)
	}
	for _, r := range s.rules {
		if r.Peer != "" && r.Peer != r.Group {
			peers++
		}
	}
	for family, want := range map[Family]int{
		familySubnetAt: len(s.subnets), familyGroupName: len(s.groups), familyRuleID: len(s.rules), familyPeer: peers,
		familyIdentityOf: len(s.identities), familyIdentityUse: len(s.identities), familyIdentityWith: members,
		familyRouteTable: len(s.vpcs), familyACL: len(s.vpcs),
	} {
		got := 0
		err := check.Scan(ctx, s.r, prefix(family), func(store.KV) error { got++; return nil })
		if err != nil {
			return err
		}
		if got != want {
			report(string(family), fmt.Sprintf("%d rows, want %d", got, want))
		}
	}
	for id, g := range s.groups {
		if of, _, err := s.r.Get(ctx, prefix(familyGroupName, g.VPC, g.Name)); err != nil || string(of.Bytes) != string(id) {
			report(string(id), fmt.Sprintf("is not found by its name %q (%v)", g.Name, err))
		}
	}
	return checkPools(ctx, s, report)
}

// checkPools looks for pools of subnets that do not exist.
func checkPools(ctx context.Context, s *rows, report finding) error {
	return check.Scan(ctx, s.r, prefix(familyPool), func(kv store.KV) error {
		_, parts, err := ParseKey(kv.Key)
		if err != nil {
			return err
		}
		if id, ok := parts[0].(string); !ok || s.subnets[ids.Subnet(id)].ID == "" {
			report(fmt.Sprint(parts[0]), "has a pool of addresses, but does not exist")
		}
		return nil
	})
}

// EachInterface calls fn for every interface of all accounts. It serves the checker of those who attach them.
func EachInterface(ctx context.Context, r store.Reader, fn func(Interface)) error {
	return check.Scan(ctx, r, prefix(FamilyInterface), func(kv store.KV) error {
		i, err := DecodeInterface(kv.Value)
		if err == nil {
			fn(i)
		}
		return err
	})
}
