package vpc

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// SecurityGroup is a named set of rules that interfaces refer to.
type SecurityGroup struct {
	ID          ids.SecurityGroup
	Account     ids.Account
	VPC         ids.VPC
	Name        string // unique within the VPC
	Description string
	Default     bool
	Rules       []Rule // by id; Describe fills it
	Created     time.Time
	Tags        map[string]string
}

// Protocol is an IP protocol number, or AllProtocols.
type Protocol int16

// The protocols whose ports have a meaning, and the wildcard.
const (
	AllProtocols Protocol = -1
	ICMP         Protocol = 1
	TCP          Protocol = 6
	UDP          Protocol = 17
	ICMPv6       Protocol = 58
)

// String returns the spelling that clients expect: tcp, udp, icmp, icmpv6, -1, or the number.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads a protocol's name or number; "all" and "-1" mean all.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	case "icmp":
		return ICMP, nil
	case "icmpv6":
		return ICMPv6, nil
	case "all":
		return AllProtocols, nil
	}
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil || n < -1 || n > 255 {
		return 0, fmt.Errorf("invalid protocol %q: want tcp, udp, icmp, icmpv6, -1 or a number of 0 to 255", s)
	}
	return Protocol(n), nil
}

// AnyPort stands for all ports, ICMP types or ICMP codes.
const AnyPort = -1

// RuleSpec is what a rule permits, and what makes two rules of one direction the same (Description aside).
// Exactly one of CIDR and Peer is set.
type RuleSpec struct {
	Protocol    Protocol
	FromPort    int // ICMP: the type. AnyPort for protocols without ports
	ToPort      int // ICMP: the code
	CIDR        netip.Prefix
	Peer        ids.SecurityGroup // of the same VPC; may be the group itself
	Description string
}

// Canonical returns the rule in the one form that is stored: prefix masked, and ports set to AnyPort where they mean
// nothing. The error is a *PermissionError with ProblemMalformed.
func (r RuleSpec) Canonical() (RuleSpec, error) {
	if err := r.checkSource(); err != nil {
		return r, err
	}
	if len(r.Description) > MaxDescriptionBytes {
		return r, r.malformed("the description is longer than %d bytes", MaxDescriptionBytes)
	}
	if !IsText(r.Description) {
		return r, r.malformed("the description holds characters other than letters, digits and" + TextMarks)
	}
	if r.CIDR.IsValid() {
		r.CIDR = r.CIDR.Masked()
	}
	switch r.Protocol {
	case TCP, UDP:
		return r.canonicalPorts()
	case ICMP, ICMPv6:
		return r.canonicalICMP()
	}
	if r.Protocol < AllProtocols || r.Protocol > 255 {
		return r, r.malformed("protocol %d is not one of -1 to 255", r.Protocol)
	}
	r.FromPort, r.ToPort = AnyPort, AnyPort
	return r, nil
}

func (r RuleSpec) checkSource() error {
	switch {
	case r.CIDR.IsValid() == (r.Peer != ""):
		return r.malformed("a rule needs either a range or a group")
	case r.CIDR.IsValid() && !r.CIDR.Addr().Is4():
		return r.malformed("range %s is not IPv4; IPv6 is not offered", r.CIDR)
	}
	return nil
}

func (r RuleSpec) canonicalPorts() (RuleSpec, error) {
	if r.FromPort == AnyPort && r.ToPort == AnyPort {
		r.FromPort, r.ToPort = 0, 65535
	}
	if r.FromPort < 0 || r.ToPort > 65535 || r.FromPort > r.ToPort {
		return r, r.malformed("ports %d to %d are not a range within 0 to 65535", r.FromPort, r.ToPort)
	}
	return r, nil
}

func (r RuleSpec) canonicalICMP() (RuleSpec, error) {
	inRange := func(n int) bool { return n >= AnyPort && n <= 255 }
	if !inRange(r.FromPort) || !inRange(r.ToPort) || (r.FromPort == AnyPort && r.ToPort != AnyPort) {
		return r, r.malformed("ICMP type %d and code %d are not -1 to 255 with a type for each code", r.FromPort, r.ToPort)
	}
	return r, nil
}

func (r RuleSpec) malformed(format string, args ...any) error {
	return &PermissionError{Problem: ProblemMalformed, Rule: r, Reason: fmt.Sprintf(format, args...)}
}

// String returns the rule in words for errors and logs.
func (r RuleSpec) String() string {
	from := string(r.Peer)
	if r.CIDR.IsValid() {
		from = r.CIDR.String()
	}
	return fmt.Sprintf("peer: %s, protocol: %s, from port: %d, to port: %d", from, r.Protocol, r.FromPort, r.ToPort)
}

// Rule is a stored permission of one direction of a group.
type Rule struct {
	ID      ids.SecurityGroupRule
	Account ids.Account
	Group   ids.SecurityGroup
	Egress  bool
	RuleSpec
	Tags map[string]string
}
