package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/host/internal/policy"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// ruleSets are the compiled security groups of the host's ports. A set's id stands for its rules: changed rules get a
// new id, and a port moves to it by one store, so that no packet is judged by half a change.
type ruleSets struct {
	numbers *table[[16]byte, uint32]
	policy  *table[policyKey, uint32]
	classes *table[portClassKey, uint32]
	cidrs   *table[cidrKey, uint32]
	last    uint32 // id given out
}

func openRuleSets(p *programs) (*ruleSets, error) {
	var errs [4]error
	r := &ruleSets{}
	r.numbers, errs[0] = openTable[[16]byte, uint32](p.RuleSets, "rule_sets")
	r.policy, errs[1] = openTable[policyKey, uint32](p.Policy, "policy")
	r.classes, errs[2] = openTable[portClassKey, uint32](p.PortClasses, "port_classes")
	r.cidrs, errs[3] = openTable[cidrKey, uint32](p.CIDRs, "cidrs")
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	for _, number := range r.numbers.content {
		r.last = max(r.last, number)
	}
	return r, nil
}

// plan is the desired content of the rule set tables while it is collected.
type plan struct {
	numbers map[[16]byte]uint32
	policy  map[policyKey]uint32
	classes map[portClassKey]uint32
	cidrs   map[cidrKey]uint32
	byName  map[string]uint32 // ids of what was compiled already, by VPC, direction and groups
}

func newPlan() *plan {
	return &plan{
		numbers: map[[16]byte]uint32{},
		policy:  map[policyKey]uint32{},
		classes: map[portClassKey]uint32{},
		cidrs:   map[cidrKey]uint32{},
		byName:  map[string]uint32{},
	}
}

// setFor adds the rule set of an interface's groups to the plan and returns its id. On an error the id is 0, which allows
// nothing, unless only some groups are missing.
func (r *ruleSets) setFor(p *plan, vpc *VPCState, groups []ids.SecurityGroup, direction policy.Direction) (uint32, error) {
	sorted := slices.Sorted(slices.Values(groups))
	var name strings.Builder
	fmt.Fprintf(&name, "%d %s %v", vpc.VNI, direction, sorted)
	if number, done := p.byName[name.String()]; done {
		return number, nil
	}
	known, missing := vpc.groupsOf(sorted)
	set, err := policy.Compile(vpc.VNI, direction, known, vpc.Identities)
	if err != nil {
		return 0, fmt.Errorf("compile %s of groups %v in VPC %d: %w", direction, sorted, vpc.VNI, err)
	}
	number := r.numberOf(p, set.Digest)
	p.byName[name.String()] = number
	p.add(number, set)
	return number, missing
}

func (r *ruleSets) numberOf(p *plan, digest [16]byte) uint32 {
	number, known := p.numbers[digest]
	if !known {
		number, known = r.numbers.content[digest]
	}
	if !known {
		r.last++
		number = r.last
	}
	p.numbers[digest] = number
	return number
}

func (p *plan) add(number uint32, set *policy.RuleSet) {
	for entry := range set.Entries {
		p.policy[policyKey{Set: number, Peer: entry.Peer, Class: entry.Class, Kind: uint8(entry.Kind), Protocol: entry.Protocol}] = 1
	}
	for prefix, class := range set.Ports {
		key := portClassKey{PrefixBits: uint32(policyPortBits + prefix.Bits), Set: number, Protocol: prefix.Protocol}
		binary.BigEndian.PutUint16(key.Port[:], prefix.Port)
		p.classes[key] = uint32(class)
	}
	for block, class := range set.Blocks {
		p.cidrs[cidrKey{PrefixBits: uint32(policyAddrBits + block.Bits()), Set: number, Address: block.Addr().As4()}] = uint32(class)
	}
}

// publish adds what the plan has and the kernel lacks. Once no port refers to the rest, withdraw removes it, as soon as no
// packet is being judged by it either.
func (r *ruleSets) publish(p *plan) error {
	return errors.Join(r.numbers.add(p.numbers), r.classes.add(p.classes), r.cidrs.add(p.cidrs), r.policy.add(p.policy))
}

func (r *ruleSets) withdraw(p *plan, waitForPrograms func() error) error {
	if !r.surpass(p) {
		return nil
	}
	if err := waitForPrograms(); err != nil {
		return err
	}
	return errors.Join(r.policy.trim(p.policy), r.cidrs.trim(p.cidrs), r.classes.trim(p.classes), r.numbers.trim(p.numbers))
}

// surpass tells whether there are sets that the plan does not have. A set's entries never change.
func (r *ruleSets) surpass(p *plan) bool {
	for digest := range r.numbers.content {
		if _, wanted := p.numbers[digest]; !wanted {
			return true
		}
	}
	return false
}

// vpcOf finds a VPC's state; an unknown VPC has no groups, and so allows nothing.
func (s *State) vpcOf(vni uint32) *VPCState {
	for i := range s.VPCs {
		if s.VPCs[i].VNI == vni {
			return &s.VPCs[i]
		}
	}
	return &VPCState{VNI: vni}
}
