package vpc

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Conditions without data.
var (
	// ErrBehind reports that the in-memory view did not reach the version current at the call within a second. The call
	// had no effect and can be repeated.
	ErrBehind = errors.New("the view of networks lags behind the store; retry")
	// ErrNoDefaultVPC reports a call that names no network in an account whose default VPC was deleted.
	ErrNoDefaultVPC = errors.New("the account has no default VPC; name a subnet")
	// ErrDefaultGroup reports an attempt to delete a VPC's default group.
	ErrDefaultGroup = errors.New("the default security group of a VPC cannot be deleted")
	// ErrStale reports that what Prepare returned has gone since. Call Prepare again and repeat once: it may succeed, or
	// say what is missing.
	ErrStale = errors.New("the security groups changed during the call; retry")
	// ErrVNIsExhausted reports that every network identifier was used.
	ErrVNIsExhausted = errors.New("no network identifier is left")
)

// Kind names a sort of resource, in EC2's spelling of resource types.
type Kind string

// The kinds of this part.
const (
	KindVPC           Kind = "vpc"
	KindSubnet        Kind = "subnet"
	KindGroup         Kind = "security-group"
	KindRule          Kind = "security-group-rule"
	KindInterface     Kind = "network-interface"
	KindRouteTable    Kind = "route-table"
	KindNetworkACL    Kind = "network-acl"
	KindDHCPOptions   Kind = "dhcp-options"
	KindDefaultVPC    Kind = "default-vpc"
	KindGroupName     Kind = "security-group-name" // a group asked for by name
	KindDefaultSubnet Kind = "default-subnet"      // no default subnet in the zone
)

// NotFoundError reports a resource that does not exist in the account, or not in the VPC at hand.
type NotFoundError struct {
	Kind Kind
	ID   string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("the %s %q does not exist", e.Kind, e.ID) }

// RangeError reports a range that a VPC or subnet (Kind) cannot have.
type RangeError struct {
	Kind   Kind
	CIDR   netip.Prefix
	Reason string
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("the range %s is invalid for a %s: %s", e.CIDR, e.Kind, e.Reason)
}

// ConflictError reports a subnet range that overlaps one of the same VPC.
type ConflictError struct {
	CIDR netip.Prefix
	With ids.Subnet
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the range %s overlaps subnet %s", e.CIDR, e.With)
}

// Dependent is something that keeps a resource from being deleted.
type Dependent struct {
	Kind Kind
	ID   string
}

// DependencyError reports that a resource is in use. Dependents names at most MaxDependents users; it can be empty when
// they went away meanwhile.
type DependencyError struct {
	Kind       Kind
	ID         string
	Dependents []Dependent
}

func (e *DependencyError) Error() string {
	if len(e.Dependents) == 0 {
		return fmt.Sprintf("the %s %q has dependencies and cannot be deleted", e.Kind, e.ID)
	}
	by := make([]string, len(e.Dependents))
	for i, d := range e.Dependents {
		by[i] = d.ID
	}
	return fmt.Sprintf("the %s %q has dependencies and cannot be deleted: %s", e.Kind, e.ID, strings.Join(by, ", "))
}

// GroupDuplicateError reports a group name that is taken in its VPC.
type GroupDuplicateError struct {
	VPC  ids.VPC
	Name string
}

func (e *GroupDuplicateError) Error() string {
	return fmt.Sprintf("the security group %q already exists for VPC %s", e.Name, e.VPC)
}

// Problem says what is wrong with a permission.
type Problem uint8

// The problems of permissions.
const (
	ProblemMalformed Problem = 1 // cannot be a rule
	ProblemDuplicate Problem = 2 // exists already
	ProblemNotFound  Problem = 3 // to be revoked, but not there
	ProblemRepeated  Problem = 4 // twice in one call
)

// PermissionError reports the first rule of a call that cannot be authorized or revoked; none of them was.
type PermissionError struct {
	Problem Problem
	Group   ids.SecurityGroup // empty for ProblemMalformed
	Rule    RuleSpec
	Reason  string // for ProblemMalformed
}

func (e *PermissionError) Error() string {
	switch e.Problem {
	case ProblemDuplicate:
		return fmt.Sprintf("the rule (%s) already exists in group %s", e.Rule, e.Group)
	case ProblemNotFound:
		return fmt.Sprintf("the rule (%s) does not exist in group %s", e.Rule, e.Group)
	case ProblemRepeated:
		return fmt.Sprintf("the rule (%s) appears more than once in the call", e.Rule)
	}
	return fmt.Sprintf("the rule (%s) is malformed: %s", e.Rule, e.Reason)
}

// Limit names a fixed bound of this part.
type Limit string

// The limits that LimitError reports.
const (
	LimitSubnetsPerVPC      Limit = "subnets-per-vpc"
	LimitRulesPerGroup      Limit = "rules-per-security-group"
	LimitGroupsPerInterface Limit = "security-groups-per-interface"
	LimitIdentitiesPerVPC   Limit = "identities-per-vpc"
	LimitRulesPerCall       Limit = "rules-per-call"
)

// LimitError reports that a bound is reached. ID is the resource that is full.
type LimitError struct {
	Limit Limit
	ID    string
	Max   int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the limit of %d %s is reached in %s", e.Max, e.Limit, e.ID)
}

// NoAddressError reports a subnet without a free address.
type NoAddressError struct{ Subnet ids.Subnet }

func (e *NoAddressError) Error() string {
	return fmt.Sprintf("subnet %s has no free address", e.Subnet)
}

// AddressInUseError reports that the address asked for belongs to an interface, or did until its host confirms.
type AddressInUseError struct {
	Subnet  ids.Subnet
	Address netip.Addr
}

func (e *AddressInUseError) Error() string {
	return fmt.Sprintf("address %s of subnet %s is in use", e.Address, e.Subnet)
}

// AddressError reports an address that an interface of the subnet cannot have: outside its range, or reserved.
type AddressError struct {
	Subnet  ids.Subnet
	Address netip.Addr
	Reason  string
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %s is invalid in subnet %s: %s", e.Address, e.Subnet, e.Reason)
}

// InvalidError reports a parameter that cannot be accepted ("GroupName", "GroupDescription", "AvailabilityZone").
type InvalidError struct {
	Param  string
	Value  string
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("value %q for %s is invalid: %s", e.Value, e.Param, e.Reason)
}
