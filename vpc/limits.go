package vpc

import "strings"

// Bounds that clients meet. The account-wide ones are quotas (package account).
const (
	MinPrefixBits                = 16 // of a VPC's and of a subnet's range
	MaxPrefixBits                = 28
	ReservedPerSubnet            = 5 // network, router, resolver, future use, broadcast
	MaxSubnetsPerVPC             = 200
	MaxRulesPerDirection         = 60 // of one group
	MaxGroupsPerInterface        = 5
	MaxIdentitiesPerVPC          = 65535 // those whose hosts have not confirmed their end included
	MaxRulesPerCall              = 120
	MaxGroupNameBytes            = 255
	MaxDescriptionBytes          = 255
	MaxDependents                = 10 // named by a DependencyError
	DefaultVPCCIDR               = "172.31.0.0/16"
	DefaultSubnetBits            = 20
	DefaultGroupName             = "default"
	DefaultGroupDesc             = "default VPC security group"
	maxVNIBits                   = 24
	MaxVNI                       = 1<<maxVNIBits - 1
	RouterOffset          uint64 = 1 // of a subnet: the gateway that guests see
	ResolverOffset        uint64 = 2
)

// TextMarks are the characters that names and descriptions of groups and rules may have beside ASCII letters and digits.
const TextMarks = " ._-:/()#,@[]+=&;{}!$*"

// IsText says whether a text has only characters that names and descriptions may have.
func IsText(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune(TextMarks, c)
	})
}
