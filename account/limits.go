package account

// Bounds that clients meet.
const (
	MaxAccessKeys      = 2    // per account, active or not
	MaxAccountName     = 64   // bytes
	MaxKeyNameBytes    = 255  // of a key pair
	MaxPublicKeyBytes  = 8192 // of an imported key, before parsing
	MaxTagsPerResource = 50
	MaxTagKeyRunes     = 128
	MaxTagValueRunes   = 256
	MaxTagResources    = 200 // resources in one CreateTags or DeleteTags call: one transaction holds a guard for each
	MaxQuota           = 1 << 40
)

// Quota names an account-wide limit.
type Quota string

// The quotas that exist. Those of instances are charged by compute, those of networks by vpc.
const (
	QuotaVCPUs          Quota = "vcpu"
	QuotaInstances      Quota = "instances"
	QuotaVolumes        Quota = "volumes"
	QuotaVPCs           Quota = "vpcs"
	QuotaSecurityGroups Quota = "security-groups"
	QuotaInterfaces     Quota = "network-interfaces"
	QuotaKeyPairs       Quota = "key-pairs"
)

// DefaultQuotas returns the limits of a new account: EC2's defaults, with more room where a development cloud makes
// many small networks.
func DefaultQuotas() map[Quota]int64 {
	return map[Quota]int64{
		QuotaVCPUs:          64,
		QuotaInstances:      1000,
		QuotaVolumes:        5000,
		QuotaVPCs:           100,
		QuotaSecurityGroups: 2500,
		QuotaInterfaces:     5000,
		QuotaKeyPairs:       5000,
	}
}
