package convert

import (
	"context"
	"errors"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/vpc"
)

// Error maps an error of a part to the answer that EC2 gives. An *errs.Error passes, and so does what no part declares:
// that is an internal error.
func Error(err error) error {
	if e := (*errs.Error)(nil); errors.As(err, &e) {
		return e
	}
	for _, mapping := range mappings {
		if e := mapping(err); e != nil {
			return e
		}
	}
	return err
}

// mapping answers nil for an error that is not its own.
type mapping func(error) *errs.Error

// on makes the mapping of one error type.
func on[T error](answer func(T) *errs.Error) mapping {
	return func(err error) *errs.Error {
		if e := *new(T); errors.As(err, &e) {
			return answer(e)
		}
		return nil
	}
}

// is makes the mapping of one sentinel. The message is the sentinel's own text.
func is(sentinel error, code string) mapping {
	return func(err error) *errs.Error {
		if errors.Is(err, sentinel) {
			return errs.New(code, "%s", message(sentinel))
		}
		return nil
	}
}

// message writes an error of a part as a sentence.
func message(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

var mappings = []mapping{
	is(account.ErrBehind, errs.ServiceUnavailable),
	on(accountNotFound),
	on(accountDuplicate),
	on(func(e *account.InvalidError) *errs.Error { return accountInvalid(e) }),
	on(quota),
	on(func(e *account.LimitError) *errs.Error { return errs.New(errs.ResourceLimitExceeded, "%s", message(e)) }),
	on(func(e *account.TagLimitError) *errs.Error { return errs.New(errs.TagLimitExceeded, "%s", message(e)) }),

	is(vpc.ErrBehind, errs.ServiceUnavailable),
	is(vpc.ErrStale, errs.ServiceUnavailable),
	is(vpc.ErrNoDefaultVPC, errs.VPCIdNotSpecified),
	is(vpc.ErrDefaultGroup, errs.CannotDelete),
	is(vpc.ErrVNIsExhausted, errs.InsufficientCapacity),
	on(vpcNotFound),
	on(vpcRange),
	on(func(e *vpc.ConflictError) *errs.Error {
		return errs.New(errs.InvalidSubnetConflict, "The CIDR '%s' conflicts with another subnet (%s)", e.CIDR, e.With)
	}),
	on(func(e *vpc.DependencyError) *errs.Error { return errs.New(errs.DependencyViolation, "%s", message(e)) }),
	on(func(e *vpc.GroupDuplicateError) *errs.Error {
		return errs.New(errs.InvalidGroupDuplicate, "The security group '%s' already exists for VPC '%s'", e.Name, e.VPC)
	}),
	on(permission),
	on(vpcLimit),
	on(func(e *vpc.NoAddressError) *errs.Error {
		return errs.New(errs.InsufficientFreeAddressesInSubnet, "There are not enough free addresses in subnet '%s' to satisfy the requested number of instances.", e.Subnet)
	}),
	on(func(e *vpc.AddressInUseError) *errs.Error {
		return errs.New(errs.InvalidIPAddressInUse, "Address %s is in use.", e.Address)
	}),
	on(func(e *vpc.AddressError) *errs.Error {
		return errs.Invalid("PrivateIpAddress", e.Address.String(), message(e))
	}),
	on(func(e *vpc.InvalidError) *errs.Error { return errs.Invalid(e.Param, e.Value, sentence(e.Reason)) }),

	is(compute.ErrBehind, errs.ServiceUnavailable),
	is(compute.ErrHostUnreachable, errs.ServiceUnavailable),
	is(compute.ErrHostHeard, errs.IncorrectState), // operators' alone
	on(computeNotFound),
	on(func(e *compute.StateError) *errs.Error {
		return errs.New(errs.IncorrectInstanceState, "%s", message(e))
	}),
	on(func(e *compute.ProtectedError) *errs.Error {
		return errs.New(errs.OperationNotPermitted, "%s", message(e))
	}),
	on(func(e *compute.CapacityError) *errs.Error {
		return errs.New(errs.InsufficientInstanceCapacity, "%s", message(e))
	}),
	on(computeRequest),

	is(image.ErrBehind, errs.ServiceUnavailable),
	is(image.ErrNoContent, errs.InternalError), // hosts ask for content and operators upload it, tenants never do
	is(image.ErrNoUpload, errs.InternalError),
	on(func(e *image.NotFoundError) *errs.Error {
		return errs.New(errs.InvalidAMIIDNotFound, "%s", message(e))
	}),
	on(imageInvalid),
	on(func(e *image.OwnerError) *errs.Error {
		return errs.New(errs.AuthFailure, "Not authorized for image:%s", e.ID)
	}),
	on(func(e *image.DuplicateError) *errs.Error {
		return errs.New(errs.InvalidAMINameDuplicate, "%s", message(e))
	}),
	on(func(e *image.SnapshotError) *errs.Error {
		return errs.New(errs.InvalidSnapshotNotFound, "%s", message(e))
	}),
	on(func(e *image.LimitError) *errs.Error { return errs.New(errs.ResourceLimitExceeded, "%s", message(e)) }),

	is(idem.ErrClaimed, errs.ServiceUnavailable),
	on(func(e *idem.TokenError) *errs.Error { return errs.New(errs.InvalidParameterValue, "%s", message(e)) }),
	on(func(e *idem.MismatchError) *errs.Error {
		return errs.New(errs.IdempotentParameterMismatch, "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).")
	}),

	on(storeRefused),
	on(func(*store.ConflictError) *errs.Error { return busy() }),
	is(context.DeadlineExceeded, errs.ServiceUnavailable),
	is(context.Canceled, errs.ServiceUnavailable),
}

// storeRefused answers for a store that takes no more now. A refusal that no retry mends is a defect, and not mapped.
func storeRefused(e *store.RefusedError) *errs.Error {
	if e.Retry == store.RetryNever {
		return nil
	}
	return busy()
}

func busy() *errs.Error {
	return errs.New(errs.ServiceUnavailable, "The service is busy. Nothing was changed; send the request again.")
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

func accountNotFound(e *account.NotFoundError) *errs.Error {
	switch e.Kind {
	case account.KindKeyPair:
		return errs.New(errs.InvalidKeyPairNotFound, "The key pair '%s' does not exist", e.ID)
	case account.KindAccessKey, account.KindAccount:
		return errs.New(errs.AuthFailure, "AWS was not able to validate the provided access credentials")
	}
	return Resource(e.ID).NotFound()
}

func accountDuplicate(e *account.DuplicateError) *errs.Error {
	if e.Kind == account.KindKeyPair {
		return errs.New(errs.InvalidKeyPairDuplicate, "The keypair already exists: %s", e.Name)
	}
	return errs.New(errs.InvalidParameterValue, "%s", message(e))
}

func accountInvalid(e *account.InvalidError) *errs.Error {
	if e.Param == "PublicKeyMaterial" {
		return errs.New(errs.InvalidKeyFormat, "Key is not in valid OpenSSH public key format: %s", e.Reason)
	}
	return errs.Invalid(e.Param, e.Value, sentence(e.Reason))
}

func quota(e *account.QuotaError) *errs.Error {
	code, found := map[account.Quota]string{
		account.QuotaVCPUs:          errs.VcpuLimitExceeded,
		account.QuotaInstances:      errs.InstanceLimitExceeded,
		account.QuotaVolumes:        errs.VolumeLimitExceeded,
		account.QuotaVPCs:           errs.VpcLimitExceeded,
		account.QuotaSecurityGroups: errs.SecurityGroupLimitExceeded,
		account.QuotaInterfaces:     errs.NetworkInterfaceLimitExceeded,
		account.QuotaKeyPairs:       errs.KeyPairLimitExceeded,
	}[e.Quota]
	if !found {
		code = errs.ResourceLimitExceeded
	}
	return errs.New(code, "You have requested %d more of '%s' than your account has left. Free some, or ask the operator for more.", e.Wanted, e.Quota)
}

func vpcNotFound(e *vpc.NotFoundError) *errs.Error {
	switch e.Kind {
	case vpc.KindVPC:
		return errs.NotFound(ids.VPC(e.ID))
	case vpc.KindSubnet:
		return errs.NotFound(ids.Subnet(e.ID))
	case vpc.KindGroup:
		return errs.NotFound(ids.SecurityGroup(e.ID))
	case vpc.KindRule:
		return errs.NotFound(ids.SecurityGroupRule(e.ID))
	case vpc.KindInterface:
		return errs.NotFound(ids.Interface(e.ID))
	case vpc.KindRouteTable:
		return errs.NotFound(ids.RouteTable(e.ID))
	case vpc.KindNetworkACL:
		return errs.NotFound(ids.NetworkACL(e.ID))
	case vpc.KindDHCPOptions:
		return errs.NotFound(ids.DHCPOptions(e.ID))
	case vpc.KindGroupName:
		return errs.New(errs.InvalidGroupNotFound, "The security group '%s' does not exist in this VPC", e.ID)
	case vpc.KindDefaultVPC:
		return errs.New(errs.VPCIdNotSpecified, "No default VPC for this user. Name a subnet or a VPC.")
	case vpc.KindDefaultSubnet:
		return errs.New(errs.MissingInput, "No subnets found for the default VPC in the zone '%s'. Please specify a subnet.", e.ID)
	}
	return Resource(e.ID).NotFound()
}

func vpcRange(e *vpc.RangeError) *errs.Error {
	code := errs.InvalidVpcRange
	if e.Kind == vpc.KindSubnet {
		code = errs.InvalidSubnetRange
	}
	return errs.New(code, "The CIDR '%s' is invalid. %s", e.CIDR, sentence(e.Reason))
}

func permission(e *vpc.PermissionError) *errs.Error {
	switch e.Problem {
	case vpc.ProblemDuplicate:
		return errs.New(errs.InvalidPermissionDuplicate, "the specified rule \"%s\" already exists", e.Rule)
	case vpc.ProblemNotFound:
		return errs.New(errs.InvalidPermissionNotFound, "The specified rule does not exist in this security group. (%s)", e.Rule)
	case vpc.ProblemRepeated:
		return errs.New(errs.InvalidParameterValue, "The same permission must not appear multiple times (%s)", e.Rule)
	}
	return errs.New(errs.InvalidPermissionMalformed, "%s", message(e))
}

func vpcLimit(e *vpc.LimitError) *errs.Error {
	code, found := map[vpc.Limit]string{
		vpc.LimitSubnetsPerVPC:      errs.SubnetLimitExceeded,
		vpc.LimitRulesPerGroup:      errs.RulesPerSecurityGroupLimitExceeded,
		vpc.LimitRulesPerCall:       errs.RulesPerSecurityGroupLimitExceeded,
		vpc.LimitGroupsPerInterface: errs.SecurityGroupsPerInterfaceLimitExceeded,
	}[e.Limit]
	if !found {
		code = errs.ResourceLimitExceeded
	}
	return errs.New(code, "%s", message(e))
}

func computeNotFound(e *compute.NotFoundError) *errs.Error {
	code, found := map[string]string{
		"instance": errs.InvalidInstanceIDNotFound,
		"volume":   errs.InvalidVolumeNotFound,
		"host":     errs.InvalidHostIDNotFound,
	}[e.Kind]
	if !found {
		code = errs.InvalidID
	}
	return errs.New(code, "%s", strings.TrimSuffix(message(e), "."))
}

// computeRequest gives the parameters whose faults have a code of their own that code.
func computeRequest(e *compute.RequestError) *errs.Error {
	switch e.Parameter {
	case "InstanceType":
		return errs.Invalid(e.Parameter, e.Value, sentence(e.Reason))
	case "UserData":
		return errs.New(errs.InvalidParameterValue, "User data is invalid. %s", sentence(e.Reason))
	case "BlockDeviceMapping", "BlockDeviceMapping.Ebs.VolumeSize":
		return errs.New(errs.InvalidBlockDeviceMapping, "%s", sentence(e.Reason))
	}
	return errs.Invalid(e.Parameter, e.Value, sentence(e.Reason))
}

// imageInvalid gives a name's fault its own code, and the others their parameter as EC2 spells it.
func imageInvalid(e *image.InvalidError) *errs.Error {
	parameter, found := map[string]string{
		"description": "Description", "architecture": "Architecture", "boot mode": "BootMode", "location": "ImageLocation",
		"volume size": "BlockDeviceMapping.1.Ebs.VolumeSize",
	}[e.Field]
	switch {
	case e.Field == "name":
		return errs.New(errs.InvalidAMINameMalformed, "%s", sentence(e.Reason))
	case !found:
		parameter = e.Field
	}
	return errs.New(errs.InvalidParameterValue, "The value of parameter %s is invalid. %s", parameter, sentence(e.Reason))
}

// Resource is text that a tag call names a resource by.
type Resource string

// taggable lists the kinds of ids that can carry tags.
var taggable = []func(string) (found bool, notFound *errs.Error, malformed error){
	tagged[ids.Instance], tagged[ids.Volume], tagged[ids.Image], tagged[ids.KeyPair], tagged[ids.VPC], tagged[ids.Subnet],
	tagged[ids.SecurityGroup], tagged[ids.SecurityGroupRule], tagged[ids.Interface], tagged[ids.RouteTable],
	tagged[ids.NetworkACL], tagged[ids.DHCPOptions],
}

// tagged answers for ids of kind T.
func tagged[T ids.ID](text string) (found bool, notFound *errs.Error, malformed error) {
	var zero T
	if !strings.HasPrefix(text, zero.Prefix()+"-") {
		return false, nil, nil
	}
	_, malformed = errs.ParseID[T](text)
	return true, errs.NotFound(T(text)), malformed
}

// Check refuses text that is not the id of a taggable kind.
func (r Resource) Check() error {
	for _, kind := range taggable {
		if found, _, malformed := kind(string(r)); found {
			return malformed
		}
	}
	return errs.New(errs.InvalidID, "The ID '%s' is not valid", clip(string(r)))
}

// NotFound says in the words of the resource's kind that it does not exist.
func (r Resource) NotFound() *errs.Error {
	for _, kind := range taggable {
		if found, notFound, _ := kind(string(r)); found {
			return notFound
		}
	}
	return errs.New(errs.InvalidID, "The ID '%s' is not valid", clip(string(r)))
}

func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "..."
	}
	return s
}
