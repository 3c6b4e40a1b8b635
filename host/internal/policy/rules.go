package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Direction is seen from the port that the rules protect.
type Direction uint8

const (
	Ingress Direction = 0
	Egress  Direction = 1
)

func (d Direction) String() string { return [...]string{"ingress", "egress"}[d&1] }

// IP protocol numbers whose rules bound ports, or types and codes.
const (
	ICMP = 1
	TCP  = 6
	UDP  = 17
)

// Peer is the other end of a flow: for ingress its source, for egress its destination.
type Peer struct {
	Identity uint16 // 0: nobody, or outside the VPC
	Address  netip.Addr
}

// ErrTooComplex refuses a rule set whose tables would outgrow the data path's maps.
var ErrTooComplex = errors.New("rule set is too complex")

// rule is a host.Rule in the form that both evaluation and compilation use. Equal rules are equal values.
type rule struct {
	any      bool
	protocol uint8
	low      uint16 // destination port, or ICMP type << 8 | code; both bounds included
	high     uint16
	block    netip.Prefix      // masked; invalid when group is set
	group    ids.SecurityGroup // or ""
}

func (r rule) everyPort() bool { return r.low == 0 && r.high == 0xffff }

func (r rule) covers(protocol uint8, port uint16) bool {
	return r.any || (r.protocol == protocol && (r.everyPort() || (r.low <= port && port <= r.high)))
}

// normalize reads a group's rule. Its error names what the sender must mend.
func normalize(r host.Rule) (rule, error) {
	out := rule{any: r.Any, group: r.Group, high: 0xffff}
	if r.Group == "" {
		block, err := netip.ParsePrefix(r.CIDR)
		if err != nil || !block.Addr().Is4() {
			return rule{}, fmt.Errorf("compile rule %s: block %q is not IPv4", r.ID, r.CIDR)
		}
		out.block = block.Masked()
	}
	if r.Any {
		return out, nil
	}
	out.protocol = r.Protocol
	switch r.Protocol {
	case TCP, UDP:
		out.low, out.high = r.FromPort, r.ToPort
		if r.FromPort == host.PortAny {
			out.low = 0
		}
	case ICMP:
		out.low, out.high = icmpRange(r.FromPort, r.ToPort)
	}
	if out.low > out.high {
		return rule{}, fmt.Errorf("compile rule %s: ports %d to %d are reversed", r.ID, r.FromPort, r.ToPort)
	}
	return out, nil
}

// icmpRange puts type and code into one number, so that ICMP needs no tables of its own.
func icmpRange(kind, code uint16) (low, high uint16) {
	switch {
	case kind == host.PortAny:
		return 0, 0xffff
	case code == host.PortAny:
		return kind << 8, kind<<8 | 0xff
	}
	return kind<<8 | code&0xff, kind<<8 | code&0xff
}

// normalizeAll reads the rules of a port's groups in one direction, sorted, without repeats.
func normalizeAll(groups []host.Group, direction Direction) ([]rule, error) {
	var rules []rule
	for _, group := range groups {
		list := group.Ingress
		if direction == Egress {
			list = group.Egress
		}
		for _, r := range list {
			normal, err := normalize(r)
			if err != nil {
				return nil, err
			}
			rules = append(rules, normal)
		}
	}
	slices.SortFunc(rules, compareRules)
	return slices.Compact(rules), nil
}

func compareRules(a, b rule) int {
	return strings.Compare(a.text(), b.text())
}

// text is the rule's canonical form: rule sets are interned by it.
func (r rule) text() string {
	block := ""
	if r.group == "" {
		block = r.block.String()
	}
	return fmt.Sprintf("%t %03d %05d %05d %s %s", r.any, r.protocol, r.low, r.high, block, r.group)
}

// Allowed reads the rules of a port's groups directly: the meaning that Compile must keep. members gives the groups of
// an identity. It is as slow as it is plain.
func Allowed(groups []host.Group, direction Direction, members map[uint16][]ids.SecurityGroup, peer Peer, protocol uint8, port uint16) (bool, error) {
	rules, err := normalizeAll(groups, direction)
	if err != nil {
		return false, err
	}
	for _, r := range rules {
		if !r.covers(protocol, port) {
			continue
		}
		if r.group == "" && r.block.Contains(peer.Address) {
			return true, nil
		}
		if r.group != "" && peer.Identity != 0 && slices.Contains(members[peer.Identity], r.group) {
			return true, nil
		}
	}
	return false, nil
}
