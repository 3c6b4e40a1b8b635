package errs

// The codes, by the part of the API that uses them. A constant is its code without the dots.
const (
	// The request itself.
	MissingAction                = "MissingAction"
	InvalidAction                = "InvalidAction"
	NoSuchVersion                = "NoSuchVersion"
	MalformedQueryString         = "MalformedQueryString"
	InvalidQueryParameter        = "InvalidQueryParameter"
	RequestEntityTooLarge        = "RequestEntityTooLarge"
	RequestTimeout               = "RequestTimeout"
	MissingParameter             = "MissingParameter"
	UnknownParameter             = "UnknownParameter"
	InvalidParameter             = "InvalidParameter"
	InvalidParameterValue        = "InvalidParameterValue"
	InvalidParameterCombination  = "InvalidParameterCombination"
	InvalidParameterDependency   = "InvalidParameterDependency"
	MissingInput                 = "MissingInput"
	InvalidInput                 = "InvalidInput"
	InvalidCharacter             = "InvalidCharacter"
	UnsupportedProtocol          = "UnsupportedProtocol"
	UnsupportedOperation         = "UnsupportedOperation"
	DryRunOperation              = "DryRunOperation"
	IdempotentParameterMismatch  = "IdempotentParameterMismatch"
	IdempotentInstanceTerminated = "IdempotentInstanceTerminated"
	InvalidNextToken             = "InvalidNextToken"
	InvalidPaginationToken       = "InvalidPaginationToken"
	InvalidMaxResults            = "InvalidMaxResults"
	FilterLimitExceeded          = "FilterLimitExceeded"
	InvalidFilter                = "InvalidFilter"

	// Authentication and authorization.
	AuthFailure                = "AuthFailure"
	SignatureDoesNotMatch      = "SignatureDoesNotMatch"
	RequestExpired             = "RequestExpired"
	InvalidClientTokenId       = "InvalidClientTokenId"
	MissingAuthenticationToken = "MissingAuthenticationToken"
	IncompleteSignature        = "IncompleteSignature"
	UnauthorizedOperation      = "UnauthorizedOperation"
	OperationNotPermitted      = "OperationNotPermitted"

	// The service.
	InternalError                = "InternalError"
	Unavailable                  = "Unavailable"
	ServiceUnavailable           = "ServiceUnavailable"
	RequestLimitExceeded         = "RequestLimitExceeded"
	InsufficientInstanceCapacity = "InsufficientInstanceCapacity"
	InsufficientCapacity         = "InsufficientCapacity"
	InsufficientAddressCapacity  = "InsufficientAddressCapacity"

	// Limits.
	InstanceLimitExceeded                   = "InstanceLimitExceeded"
	VcpuLimitExceeded                       = "VcpuLimitExceeded"
	VpcLimitExceeded                        = "VpcLimitExceeded"
	SubnetLimitExceeded                     = "SubnetLimitExceeded"
	SecurityGroupLimitExceeded              = "SecurityGroupLimitExceeded"
	SecurityGroupsPerInstanceLimitExceeded  = "SecurityGroupsPerInstanceLimitExceeded"
	SecurityGroupsPerInterfaceLimitExceeded = "SecurityGroupsPerInterfaceLimitExceeded"
	RulesPerSecurityGroupLimitExceeded      = "RulesPerSecurityGroupLimitExceeded"
	TagLimitExceeded                        = "TagLimitExceeded"
	KeyPairLimitExceeded                    = "KeyPairLimitExceeded"
	NetworkInterfaceLimitExceeded           = "NetworkInterfaceLimitExceeded"
	VolumeLimitExceeded                     = "VolumeLimitExceeded"
	RouteTableLimitExceeded                 = "RouteTableLimitExceeded"
	PrivateIpAddressLimitExceeded           = "PrivateIpAddressLimitExceeded"
	ResourceLimitExceeded                   = "ResourceLimitExceeded"

	// Instances.
	InvalidInstanceIDNotFound     = "InvalidInstanceID.NotFound"
	InvalidInstanceIDMalformed    = "InvalidInstanceID.Malformed"
	IncorrectInstanceState        = "IncorrectInstanceState"
	IncorrectState                = "IncorrectState"
	InvalidInstanceType           = "InvalidInstanceType"
	InvalidInstanceAttributeValue = "InvalidInstanceAttributeValue"
	InvalidUserDataMalformed      = "InvalidUserData.Malformed"
	InvalidBlockDeviceMapping     = "InvalidBlockDeviceMapping"
	InvalidAttribute              = "InvalidAttribute"
	UnsupportedInstanceAttribute  = "UnsupportedInstanceAttribute"
	InvalidReservationIDNotFound  = "InvalidReservationID.NotFound"
	InvalidReservationIDMalformed = "InvalidReservationID.Malformed"
	InvalidAvailabilityZone       = "InvalidAvailabilityZone"
	InvalidZoneNotFound           = "InvalidZone.NotFound"
	InvalidRegionNotFound         = "InvalidRegion.NotFound"
	InvalidHostIDNotFound         = "InvalidHostID.NotFound"
	InvalidHostIDMalformed        = "InvalidHostID.Malformed"

	// Images, volumes, keys.
	InvalidAMIIDNotFound         = "InvalidAMIID.NotFound"
	InvalidAMIIDMalformed        = "InvalidAMIID.Malformed"
	InvalidAMIIDUnavailable      = "InvalidAMIID.Unavailable"
	InvalidAMINameMalformed      = "InvalidAMIName.Malformed"
	InvalidAMINameDuplicate      = "InvalidAMIName.Duplicate"
	InvalidAMIAttributeItemValue = "InvalidAMIAttributeItemValue"
	InvalidVolumeNotFound        = "InvalidVolume.NotFound"
	InvalidVolumeIDMalformed     = "InvalidVolumeID.Malformed"
	InvalidVolumeZoneMismatch    = "InvalidVolume.ZoneMismatch"
	VolumeInUse                  = "VolumeInUse"
	InvalidSnapshotNotFound      = "InvalidSnapshot.NotFound"
	InvalidSnapshotIDMalformed   = "InvalidSnapshotID.Malformed"
	InvalidSnapshotInUse         = "InvalidSnapshot.InUse"
	InvalidKeyPairNotFound       = "InvalidKeyPair.NotFound"
	InvalidKeyPairDuplicate      = "InvalidKeyPair.Duplicate"
	InvalidKeyPairFormat         = "InvalidKeyPair.Format"
	InvalidKeyFormat             = "InvalidKey.Format"
	InvalidKeyPairIdMalformed    = "InvalidKeyPairId.Malformed"

	// Networks.
	InvalidVpcIDNotFound                         = "InvalidVpcID.NotFound"
	InvalidVpcIDMalformed                        = "InvalidVpcID.Malformed"
	InvalidVpcRange                              = "InvalidVpc.Range"
	InvalidVpcState                              = "InvalidVpcState"
	VPCIdNotSpecified                            = "VPCIdNotSpecified"
	VPCResourceNotSpecified                      = "VPCResourceNotSpecified"
	DependencyViolation                          = "DependencyViolation"
	CannotDelete                                 = "CannotDelete"
	InvalidSubnetIDNotFound                      = "InvalidSubnetID.NotFound"
	InvalidSubnetIDMalformed                     = "InvalidSubnetID.Malformed"
	InvalidSubnet                                = "InvalidSubnet"
	InvalidSubnetRange                           = "InvalidSubnet.Range"
	InvalidSubnetConflict                        = "InvalidSubnet.Conflict"
	InsufficientFreeAddressesInSubnet            = "InsufficientFreeAddressesInSubnet"
	DefaultVpcAlreadyExists                      = "DefaultVpcAlreadyExists"
	DefaultSubnetAlreadyExistsInAvailabilityZone = "DefaultSubnetAlreadyExistsInAvailabilityZone"
	InvalidNetworkInterfaceIDNotFound            = "InvalidNetworkInterfaceID.NotFound"
	InvalidNetworkInterfaceIDMalformed           = "InvalidNetworkInterfaceID.Malformed"
	InvalidNetworkInterfaceInUse                 = "InvalidNetworkInterface.InUse"
	InvalidAttachmentIDNotFound                  = "InvalidAttachmentID.NotFound"
	InvalidAttachmentIDMalformed                 = "InvalidAttachmentID.Malformed"
	InvalidIPAddressInUse                        = "InvalidIPAddress.InUse"
	InvalidAddressNotFound                       = "InvalidAddress.NotFound"
	InvalidRouteTableIDNotFound                  = "InvalidRouteTableID.NotFound"
	InvalidRouteTableIDMalformed                 = "InvalidRouteTableID.Malformed"
	InvalidAssociationIDNotFound                 = "InvalidAssociationID.NotFound"
	InvalidAssociationIDMalformed                = "InvalidAssociationID.Malformed"
	InvalidRouteNotFound                         = "InvalidRoute.NotFound"
	RouteAlreadyExists                           = "RouteAlreadyExists"
	InvalidNetworkAclIDNotFound                  = "InvalidNetworkAclID.NotFound"
	InvalidNetworkAclIDMalformed                 = "InvalidNetworkAclID.Malformed"
	InvalidDhcpOptionsIDNotFound                 = "InvalidDhcpOptionsID.NotFound"
	InvalidDhcpOptionsIdMalformed                = "InvalidDhcpOptionsId.Malformed"
	InvalidVpcCidrBlockAssociationIDNotFound     = "InvalidVpcCidrBlockAssociationID.NotFound"
	InvalidVpcCidrBlockAssociationIDMalformed    = "InvalidVpcCidrBlockAssociationID.Malformed"
	InvalidSubnetCidrBlockAssociationIDNotFound  = "InvalidSubnetCidrBlockAssociationID.NotFound"
	InvalidSubnetCidrBlockAssociationIDMalformed = "InvalidSubnetCidrBlockAssociationID.Malformed"

	// Security groups.
	InvalidGroupNotFound                = "InvalidGroup.NotFound"
	InvalidGroupDuplicate               = "InvalidGroup.Duplicate"
	InvalidGroupInUse                   = "InvalidGroup.InUse"
	InvalidGroupReserved                = "InvalidGroup.Reserved"
	InvalidGroupIdMalformed             = "InvalidGroupId.Malformed"
	InvalidGroupIdNotFound              = "InvalidGroupId.NotFound"
	InvalidPermissionNotFound           = "InvalidPermission.NotFound"
	InvalidPermissionDuplicate          = "InvalidPermission.Duplicate"
	InvalidPermissionMalformed          = "InvalidPermission.Malformed"
	InvalidSecurityGroupRuleIdNotFound  = "InvalidSecurityGroupRuleId.NotFound"
	InvalidSecurityGroupRuleIdMalformed = "InvalidSecurityGroupRuleId.Malformed"

	// Tags and the rest.
	InvalidID              = "InvalidID"
	InvalidTagKeyMalformed = "InvalidTagKey.Malformed"
)

// statuses is the table: each code with the HTTP status that EC2 gives it.
var statuses = map[string]int{
	MissingAction:                                400,
	InvalidAction:                                400,
	NoSuchVersion:                                400,
	MalformedQueryString:                         404,
	InvalidQueryParameter:                        400,
	RequestEntityTooLarge:                        413,
	RequestTimeout:                               400,
	MissingParameter:                             400,
	UnknownParameter:                             400,
	InvalidParameter:                             400,
	InvalidParameterValue:                        400,
	InvalidParameterCombination:                  400,
	InvalidParameterDependency:                   400,
	MissingInput:                                 400,
	InvalidInput:                                 400,
	InvalidCharacter:                             400,
	UnsupportedProtocol:                          400,
	UnsupportedOperation:                         400,
	DryRunOperation:                              412,
	IdempotentParameterMismatch:                  400,
	IdempotentInstanceTerminated:                 400,
	InvalidNextToken:                             400,
	InvalidPaginationToken:                       400,
	InvalidMaxResults:                            400,
	FilterLimitExceeded:                          400,
	InvalidFilter:                                400,
	AuthFailure:                                  401,
	SignatureDoesNotMatch:                        403,
	RequestExpired:                               400,
	InvalidClientTokenId:                         403,
	MissingAuthenticationToken:                   403,
	IncompleteSignature:                          400,
	UnauthorizedOperation:                        403,
	OperationNotPermitted:                        400,
	InternalError:                                500,
	Unavailable:                                  503,
	ServiceUnavailable:                           503,
	RequestLimitExceeded:                         503,
	InsufficientInstanceCapacity:                 500,
	InsufficientCapacity:                         500,
	InsufficientAddressCapacity:                  503,
	InstanceLimitExceeded:                        400,
	VcpuLimitExceeded:                            400,
	VpcLimitExceeded:                             400,
	SubnetLimitExceeded:                          400,
	SecurityGroupLimitExceeded:                   400,
	SecurityGroupsPerInstanceLimitExceeded:       400,
	SecurityGroupsPerInterfaceLimitExceeded:      400,
	RulesPerSecurityGroupLimitExceeded:           400,
	TagLimitExceeded:                             400,
	KeyPairLimitExceeded:                         400,
	NetworkInterfaceLimitExceeded:                400,
	VolumeLimitExceeded:                          400,
	RouteTableLimitExceeded:                      400,
	PrivateIpAddressLimitExceeded:                400,
	ResourceLimitExceeded:                        400,
	InvalidInstanceIDNotFound:                    400,
	InvalidInstanceIDMalformed:                   400,
	IncorrectInstanceState:                       400,
	IncorrectState:                               400,
	InvalidInstanceType:                          400,
	InvalidInstanceAttributeValue:                400,
	InvalidUserDataMalformed:                     400,
	InvalidBlockDeviceMapping:                    400,
	InvalidAttribute:                             400,
	UnsupportedInstanceAttribute:                 400,
	InvalidReservationIDNotFound:                 400,
	InvalidReservationIDMalformed:                400,
	InvalidAvailabilityZone:                      400,
	InvalidZoneNotFound:                          400,
	InvalidRegionNotFound:                        400,
	InvalidHostIDNotFound:                        400,
	InvalidHostIDMalformed:                       400,
	InvalidAMIIDNotFound:                         400,
	InvalidAMIIDMalformed:                        400,
	InvalidAMIIDUnavailable:                      400,
	InvalidAMINameMalformed:                      400,
	InvalidAMINameDuplicate:                      400,
	InvalidAMIAttributeItemValue:                 400,
	InvalidVolumeNotFound:                        400,
	InvalidVolumeIDMalformed:                     400,
	InvalidVolumeZoneMismatch:                    400,
	VolumeInUse:                                  400,
	InvalidSnapshotNotFound:                      400,
	InvalidSnapshotIDMalformed:                   400,
	InvalidSnapshotInUse:                         400,
	InvalidKeyPairNotFound:                       400,
	InvalidKeyPairDuplicate:                      400,
	InvalidKeyPairFormat:                         400,
	InvalidKeyFormat:                             400,
	InvalidKeyPairIdMalformed:                    400,
	InvalidVpcIDNotFound:                         400,
	InvalidVpcIDMalformed:                        400,
	InvalidVpcRange:                              400,
	InvalidVpcState:                              400,
	VPCIdNotSpecified:                            400,
	VPCResourceNotSpecified:                      400,
	DependencyViolation:                          400,
	CannotDelete:                                 400,
	InvalidSubnetIDNotFound:                      400,
	InvalidSubnetIDMalformed:                     400,
	InvalidSubnet:                                400,
	InvalidSubnetRange:                           400,
	InvalidSubnetConflict:                        400,
	InsufficientFreeAddressesInSubnet:            400,
	DefaultVpcAlreadyExists:                      400,
	DefaultSubnetAlreadyExistsInAvailabilityZone: 400,
	InvalidNetworkInterfaceIDNotFound:            400,
	InvalidNetworkInterfaceIDMalformed:           400,
	InvalidNetworkInterfaceInUse:                 400,
	InvalidAttachmentIDNotFound:                  400,
	InvalidAttachmentIDMalformed:                 400,
	InvalidIPAddressInUse:                        400,
	InvalidAddressNotFound:                       400,
	InvalidRouteTableIDNotFound:                  400,
	InvalidRouteTableIDMalformed:                 400,
	InvalidAssociationIDNotFound:                 400,
	InvalidAssociationIDMalformed:                400,
	InvalidRouteNotFound:                         400,
	RouteAlreadyExists:                           400,
	InvalidNetworkAclIDNotFound:                  400,
	InvalidNetworkAclIDMalformed:                 400,
	InvalidDhcpOptionsIDNotFound:                 400,
	InvalidDhcpOptionsIdMalformed:                400,
	InvalidVpcCidrBlockAssociationIDNotFound:     400,
	InvalidVpcCidrBlockAssociationIDMalformed:    400,
	InvalidSubnetCidrBlockAssociationIDNotFound:  400,
	InvalidSubnetCidrBlockAssociationIDMalformed: 400,
	InvalidGroupNotFound:                         400,
	InvalidGroupDuplicate:                        400,
	InvalidGroupInUse:                            400,
	InvalidGroupReserved:                         400,
	InvalidGroupIdMalformed:                      400,
	InvalidGroupIdNotFound:                       400,
	InvalidPermissionNotFound:                    400,
	InvalidPermissionDuplicate:                   400,
	InvalidPermissionMalformed:                   400,
	InvalidSecurityGroupRuleIdNotFound:           400,
	InvalidSecurityGroupRuleIdMalformed:          400,
	InvalidID:                                    400,
	InvalidTagKeyMalformed:                       400,
}

// kind is how one id type spells its errors.
type kind struct {
	notFound, malformed string
	noun                string // as EC2 writes it in a message
}

// kinds maps an id prefix to its codes.
var kinds = map[string]kind{
	"i":                 {InvalidInstanceIDNotFound, InvalidInstanceIDMalformed, "instance"},
	"r":                 {InvalidReservationIDNotFound, InvalidReservationIDMalformed, "reservation"},
	"ami":               {InvalidAMIIDNotFound, InvalidAMIIDMalformed, "image"},
	"vol":               {InvalidVolumeNotFound, InvalidVolumeIDMalformed, "volume"},
	"snap":              {InvalidSnapshotNotFound, InvalidSnapshotIDMalformed, "snapshot"},
	"key":               {InvalidKeyPairNotFound, InvalidKeyPairIdMalformed, "key pair"},
	"vpc":               {InvalidVpcIDNotFound, InvalidVpcIDMalformed, "vpc"},
	"subnet":            {InvalidSubnetIDNotFound, InvalidSubnetIDMalformed, "subnet"},
	"subnet-cidr-assoc": {InvalidSubnetCidrBlockAssociationIDNotFound, InvalidSubnetCidrBlockAssociationIDMalformed, "subnet CIDR association"},
	"vpc-cidr-assoc":    {InvalidVpcCidrBlockAssociationIDNotFound, InvalidVpcCidrBlockAssociationIDMalformed, "vpc CIDR association"},
	"sg":                {InvalidGroupNotFound, InvalidGroupIdMalformed, "security group"},
	"sgr":               {InvalidSecurityGroupRuleIdNotFound, InvalidSecurityGroupRuleIdMalformed, "security group rule"},
	"eni":               {InvalidNetworkInterfaceIDNotFound, InvalidNetworkInterfaceIDMalformed, "networkInterface"},
	"eni-attach":        {InvalidAttachmentIDNotFound, InvalidAttachmentIDMalformed, "attachment"},
	"rtb":               {InvalidRouteTableIDNotFound, InvalidRouteTableIDMalformed, "routeTable"},
	"rtbassoc":          {InvalidAssociationIDNotFound, InvalidAssociationIDMalformed, "association"},
	"acl":               {InvalidNetworkAclIDNotFound, InvalidNetworkAclIDMalformed, "networkAcl"},
	"aclassoc":          {InvalidAssociationIDNotFound, InvalidAssociationIDMalformed, "association"},
	"dopt":              {InvalidDhcpOptionsIDNotFound, InvalidDhcpOptionsIdMalformed, "dhcpOptions"},
	"h":                 {InvalidHostIDNotFound, InvalidHostIDMalformed, "host"},
}
