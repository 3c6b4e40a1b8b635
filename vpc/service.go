package vpc

import (
	"context"
	"net/netip"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Service is what the networks part does for the doors and for compute. All methods are safe for concurrent use.
//
// A Describe method returns copies, sorted by id: those named by want (empty: all of the account) for which match holds
// (nil: all). A wanted id that does not exist is a *NotFoundError. It waits until it sees every write acknowledged
// before the call, at most a second, and then returns ErrBehind.
//
// A method that changes something answers *NotFoundError for a resource that it names and that is not the account's,
// *account.QuotaError where an account quota is used up, and *account.InvalidError or *account.TagLimitError for tags.
type Service interface {
	// EnsureDefault returns the account's default VPC, making it with its subnets if the account never had one. One that
	// was deleted is not made again: ErrNoDefaultVPC.
	EnsureDefault(ctx context.Context, a ids.Account) (VPC, error)

	// CreateVPC makes a VPC with its main route table, network ACL and default group. *RangeError.
	CreateVPC(ctx context.Context, r CreateVPCRequest) (VPC, error)
	// DeleteVPC removes a VPC and what was made with it. *DependencyError while it has subnets or other groups.
	DeleteVPC(ctx context.Context, a ids.Account, id ids.VPC) error
	DescribeVPCs(ctx context.Context, a ids.Account, want []ids.VPC, match func(*VPC) bool) ([]VPC, error)
	// ModifyVPC changes the attributes that are not nil.
	ModifyVPC(ctx context.Context, a ids.Account, id ids.VPC, change VPCChange) error

	// CreateSubnet makes a subnet. *RangeError, *ConflictError, *InvalidError (zone), *LimitError.
	CreateSubnet(ctx context.Context, r CreateSubnetRequest) (Subnet, error)
	// DeleteSubnet removes a subnet. *DependencyError while it has interfaces, releasing ones included.
	DeleteSubnet(ctx context.Context, a ids.Account, id ids.Subnet) error
	DescribeSubnets(ctx context.Context, a ids.Account, want []ids.Subnet, match func(*Subnet) bool) ([]Subnet, error)
	// ModifySubnet changes the attributes that are not nil.
	ModifySubnet(ctx context.Context, a ids.Account, id ids.Subnet, change SubnetChange) error

	// CreateGroup makes a group that lets everything out and nothing in. *GroupDuplicateError, *InvalidError.
	CreateGroup(ctx context.Context, r CreateGroupRequest) (SecurityGroup, error)
	// DeleteGroup removes a group with its rules. ErrDefaultGroup; *DependencyError while an interface uses it or a rule
	// of another group refers to it.
	DeleteGroup(ctx context.Context, a ids.Account, id ids.SecurityGroup) error
	DescribeGroups(ctx context.Context, a ids.Account, want []ids.SecurityGroup, match func(*SecurityGroup) bool) ([]SecurityGroup, error)
	// Authorize adds all rules or none and returns them in the order given. *PermissionError (malformed, repeated,
	// duplicate), *LimitError.
	Authorize(ctx context.Context, r AuthorizeRequest) ([]Rule, error)
	// Revoke removes all named rules or none and returns those removed. *PermissionError (malformed, not found);
	// *NotFoundError (KindRule) for a rule id.
	Revoke(ctx context.Context, r RevokeRequest) ([]Rule, error)
	DescribeRules(ctx context.Context, a ids.Account, want []ids.SecurityGroupRule, match func(*Rule) bool) ([]Rule, error)

	DescribeInterfaces(ctx context.Context, a ids.Account, want []ids.Interface, match func(*Interface) bool) ([]Interface, error)
	// Attached returns those of the named interfaces that exist, without their tags, and the names of their groups and of
	// the groups named besides. What does not exist is left out. It costs what is named, not what there is.
	Attached(ctx context.Context, a ids.Account, want []ids.Interface, groups []ids.SecurityGroup) (map[ids.Interface]*Interface, map[ids.SecurityGroup]string, error)
	DescribeRouteTables(ctx context.Context, a ids.Account, want []ids.RouteTable, match func(*RouteTable) bool) ([]RouteTable, error)
	DescribeNetworkACLs(ctx context.Context, a ids.Account, want []ids.NetworkACL, match func(*NetworkACL) bool) ([]NetworkACL, error)
	DescribeDHCPOptions(ctx context.Context, a ids.Account, want []ids.DHCPOptions, match func(*DHCPOptions) bool) ([]DHCPOptions, error)

	// Prepare resolves where an interface is to be attached and interns the identity of its groups, in a transaction of
	// its own. What it returns goes into vpcrows.Attach, which checks at commit that all of it still exists.
	// ErrNoDefaultVPC, *NotFoundError, *LimitError.
	Prepare(ctx context.Context, r PrepareRequest) (Prepared, error)
	// PrepareIdentity interns a set of groups of one VPC. Equal sets have equal numbers.
	PrepareIdentity(ctx context.Context, a ids.Account, v ids.VPC, groups []ids.SecurityGroup) (Identity, error)
	// ReleaseApplied releases the interfaces that left a host's document at sequence applied of its interfaces section or
	// before, but for those in failed, which the host could not remove. Call it with each applied mark of a host, and with
	// the highest number for a host that is fenced. It returns what it released.
	ReleaseApplied(ctx context.Context, h ids.Host, applied uint64, failed []ids.Interface) ([]ids.Interface, error)
}

// CreateVPCRequest asks for a VPC. The range is masked before use.
type CreateVPCRequest struct {
	Account ids.Account
	CIDR    netip.Prefix
	Tags    map[string]string
	DryRun  bool // check the request and what it names, make nothing, and answer with nothing
}

// VPCChange holds new values of a VPC's attributes; nil leaves one as it is.
type VPCChange struct {
	DNSSupport   *bool
	DNSHostnames *bool
}

// CreateSubnetRequest asks for a subnet. The range is masked before use.
type CreateSubnetRequest struct {
	Account ids.Account
	VPC     ids.VPC
	CIDR    netip.Prefix
	Zone    string // empty: the zone with the fewest subnets of the VPC
	Tags    map[string]string
	DryRun  bool // check the request and what it names, make nothing, and answer with nothing
}

// SubnetChange holds new values of a subnet's attributes; nil leaves one as it is.
type SubnetChange struct {
	MapPublicIPOnLaunch *bool
}

// CreateGroupRequest asks for a group.
type CreateGroupRequest struct {
	Account     ids.Account
	VPC         ids.VPC // empty: the default VPC
	Name        string
	Description string
	Tags        map[string]string
	DryRun      bool // check the request and what it names, make nothing, and answer with nothing
}

// AuthorizeRequest adds rules to one direction of a group.
type AuthorizeRequest struct {
	Account ids.Account
	Group   ids.SecurityGroup
	Egress  bool
	Rules   []RuleSpec
	Tags    map[string]string // of every new rule
}

// RevokeRequest removes rules from one direction of a group, named by content or by id.
type RevokeRequest struct {
	Account ids.Account
	Group   ids.SecurityGroup
	Egress  bool
	Rules   []RuleSpec
	RuleIDs []ids.SecurityGroupRule
}

// PrepareRequest says where an interface is wanted.
type PrepareRequest struct {
	Account ids.Account
	Subnet  ids.Subnet // empty: the default subnet of Zone
	Zone    string     // with no subnet, empty: the default subnet with the most free addresses
	// Address, with no subnet, makes it the default subnet whose range has the address; none does: the one as above.
	Address netip.Addr
	// Groups may be empty: the VPC's default group. GroupNames are looked up in the subnet's VPC and added.
	Groups     []ids.SecurityGroup
	GroupNames []string
	// Retry is set after ErrStale: what is in memory was too old.
	Retry bool
	// DryRun says to check, the address too, and to make nothing: the answer has no number of an identity.
	DryRun bool
}

// Prepared is what Attach needs to know. It may be used for several interfaces and kept for a short while.
type Prepared struct {
	VPC      VPC
	Subnet   Subnet
	Identity Identity
	Names    []string // of Identity.Groups, in the same order
}
