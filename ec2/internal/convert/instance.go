package convert

import (
	"encoding/base64"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// What every guest is made of.
const (
	platformDetails = "Linux/UNIX"
	usageOperation  = "RunInstances"
	hypervisor      = ec2gen.HypervisorTypeXen // EC2 shows xen for Nitro guests too
)

// View is an instance with what other parts know of it.
type View struct {
	*compute.Instance
	Interface *vpc.Interface // nil when it was released
	Names     GroupNames
}

// Groups are the instance's security groups now, or at its end.
func (v View) Groups() []ids.SecurityGroup {
	if v.Interface != nil {
		return v.Interface.Groups
	}
	return v.Instance.Groups
}

// Gone tells instances whose network and disk are no longer shown.
func (v View) Gone() bool { return v.State == compute.Terminated }

// State converts a state.
func State(s compute.State) *ec2gen.InstanceState {
	return &ec2gen.InstanceState{Code: number(s), Name: new(ec2gen.InstanceStateName(s.String()))}
}

// StateChanges converts the answer of a lifecycle call.
func StateChanges(changes []compute.StateChange) []ec2gen.InstanceStateChange {
	list := make([]ec2gen.InstanceStateChange, len(changes))
	for i, c := range changes {
		list[i] = ec2gen.InstanceStateChange{InstanceId: text(c.Instance), PreviousState: State(c.Previous), CurrentState: State(c.Current)}
	}
	return list
}

// Instance converts an instance. A terminated one has no network and no disk, as in EC2.
func Instance(v View) ec2gen.Instance {
	out := ec2gen.Instance{
		AmiLaunchIndex: number(v.LaunchIndex), ImageId: text(v.Image), InstanceId: text(v.ID), InstanceType: new(v.Type),
		KeyName: present(v.KeyName), LaunchTime: instant(v.LaunchTime), Monitoring: &ec2gen.Monitoring{State: new(ec2gen.MonitoringStateDisabled)},
		Placement:      &ec2gen.Placement{AvailabilityZone: new(v.Zone), GroupName: new(""), Tenancy: new(ec2gen.TenancyDefault)},
		PrivateDnsName: new(""), PublicDnsName: new(""), State: State(v.State), StateTransitionReason: new(v.TransitionReason),
		Architecture: new(ec2gen.ArchitectureValues(v.Architecture)), ClientToken: new(v.ClientToken), EbsOptimized: new(false), EnaSupport: new(true),
		Hypervisor: new(hypervisor), RootDeviceName: new(v.RootDeviceName), RootDeviceType: new(ec2gen.DeviceTypeEbs),
		StateReason: stateReason(v.Reason), Tags: Tags(v.Tags), VirtualizationType: new(ec2gen.VirtualizationTypeHvm),
		CpuOptions: cpuOptions(v.Type), HibernationOptions: &ec2gen.HibernationOptions{Configured: new(false)},
		CapacityReservationSpecification: &ec2gen.CapacityReservationSpecificationResponse{CapacityReservationPreference: new(ec2gen.CapacityReservationPreferenceOpen)},
		MetadataOptions:                  metadataOptions(v.Metadata), EnclaveOptions: &ec2gen.EnclaveOptions{Enabled: new(false)},
		PlatformDetails: new(platformDetails), UsageOperation: new(usageOperation), UsageOperationUpdateTime: instant(v.CreateTime),
		PrivateDnsNameOptions: &ec2gen.PrivateDnsNameOptionsResponse{
			HostnameType: new(ec2gen.HostnameTypeIpName), EnableResourceNameDnsARecord: new(false), EnableResourceNameDnsAAAARecord: new(false),
		},
		MaintenanceOptions: &ec2gen.InstanceMaintenanceOptions{AutoRecovery: new(ec2gen.InstanceAutoRecoveryStateDefault)},
	}
	if !v.Gone() {
		addNetwork(&out, v)
		out.BlockDeviceMappings = BlockDevices(v.Instance)
	}
	return out
}

// SourceDestCheck is the primary interface's; on while that is not known.
func (v View) SourceDestCheck() bool { return v.Interface == nil || v.Interface.SourceDestCheck }

func addNetwork(out *ec2gen.Instance, v View) {
	out.PrivateDnsName, out.PrivateIpAddress = new(v.PrivateDNSName), addressText(v.PrivateIP)
	out.SubnetId, out.VpcId, out.SourceDestCheck = text(v.Subnet), text(v.VPC), new(v.SourceDestCheck())
	out.SecurityGroups = v.Names.identifiers(v.Groups())
	if v.Interface != nil {
		out.NetworkInterfaces = []ec2gen.InstanceNetworkInterface{v.Names.instanceInterface(*v.Interface)}
	}
}

// instanceInterface converts an interface as DescribeInstances shows it.
func (n GroupNames) instanceInterface(i vpc.Interface) ec2gen.InstanceNetworkInterface {
	address := addressText(i.Address)
	return ec2gen.InstanceNetworkInterface{
		Attachment: &ec2gen.InstanceNetworkInterfaceAttachment{
			AttachTime: instant(i.Created), AttachmentId: text(i.Attachment), DeleteOnTermination: new(i.DeleteOnTermination),
			DeviceIndex: number(i.DeviceIndex), NetworkCardIndex: new(int32(0)), Status: new(AttachmentStatus(i.State)),
		},
		Description: new(i.Description), Groups: n.identifiers(i.Groups), MacAddress: new(i.MAC.String()), NetworkInterfaceId: text(i.ID),
		OwnerId: text(i.Account), PrivateDnsName: present(i.PrivateDNSName), PrivateIpAddress: address,
		PrivateIpAddresses: []ec2gen.InstancePrivateIpAddress{{Primary: new(true), PrivateDnsName: present(i.PrivateDNSName), PrivateIpAddress: address}},
		SourceDestCheck:    new(i.SourceDestCheck), Status: new(InterfaceStatus(i.State)), SubnetId: text(i.Subnet), VpcId: text(i.VPC),
		InterfaceType: new("interface"),
	}
}

// BlockDevices converts the root disk.
func BlockDevices(i *compute.Instance) []ec2gen.InstanceBlockDeviceMapping {
	status := ec2gen.AttachmentStatusAttached
	if i.State == compute.Pending {
		status = ec2gen.AttachmentStatusAttaching
	}
	return []ec2gen.InstanceBlockDeviceMapping{{
		DeviceName: new(i.RootDeviceName),
		Ebs: &ec2gen.EbsInstanceBlockDevice{
			AttachTime: instant(i.CreateTime), DeleteOnTermination: new(i.DeleteRootOnTerminate), Status: new(status), VolumeId: text(i.RootVolume),
		},
	}}
}

func stateReason(r compute.Reason) *ec2gen.StateReason {
	if r.Code == "" {
		return nil
	}
	return &ec2gen.StateReason{Code: new(r.Code), Message: new(r.Message)}
}

func cpuOptions(name string) *ec2gen.CpuOptions {
	t, found := compute.TypeNamed(name)
	if !found {
		return nil
	}
	return &ec2gen.CpuOptions{CoreCount: number(t.Cores), ThreadsPerCore: number(t.ThreadsPerCore())}
}

func metadataOptions(m compute.MetadataOptions) *ec2gen.InstanceMetadataOptionsResponse {
	tokens, endpoint := ec2gen.HttpTokensStateOptional, ec2gen.InstanceMetadataEndpointStateEnabled
	if m.TokensRequired {
		tokens = ec2gen.HttpTokensStateRequired
	}
	if m.Disabled {
		endpoint = ec2gen.InstanceMetadataEndpointStateDisabled
	}
	return &ec2gen.InstanceMetadataOptionsResponse{
		State: new(ec2gen.InstanceMetadataOptionsStateApplied), HttpTokens: new(tokens), HttpPutResponseHopLimit: number(max(m.HopLimit, 1)),
		HttpEndpoint: new(endpoint), HttpProtocolIpv6: new(ec2gen.InstanceMetadataProtocolStateDisabled),
		InstanceMetadataTags: new(ec2gen.InstanceMetadataTagsStateDisabled),
	}
}

// Reservation converts the instances of one launch.
func Reservation(id ids.Reservation, account ids.Account, instances []ec2gen.Instance) ec2gen.Reservation {
	return ec2gen.Reservation{ReservationId: text(id), OwnerId: text(account), Instances: instances}
}

// Status converts an instance's health.
func Status(s *compute.Status) ec2gen.InstanceStatus {
	return ec2gen.InstanceStatus{
		AvailabilityZone: new(s.Instance.Zone), InstanceId: text(s.Instance.ID), InstanceState: State(s.Instance.State),
		InstanceStatus: summary(s.Reachability, s.ImpairedSince), SystemStatus: summary(s.System, s.ImpairedSince),
	}
}

// CheckDetail is the word for a check that the filters of DescribeInstanceStatus call reachability.
func CheckDetail(c compute.Check) ec2gen.StatusType {
	switch c {
	case compute.CheckOK:
		return ec2gen.StatusTypePassed
	case compute.CheckImpaired:
		return ec2gen.StatusTypeFailed
	case compute.CheckInitializing:
		return ec2gen.StatusTypeInitializing
	}
	return ec2gen.StatusTypeInsufficientData
}

func summary(c compute.Check, since time.Time) *ec2gen.InstanceStatusSummary {
	out := &ec2gen.InstanceStatusSummary{Status: new(ec2gen.SummaryStatus(c.String()))}
	if c == compute.CheckNotApplicable {
		return out
	}
	detail := ec2gen.InstanceStatusDetails{Name: new(ec2gen.StatusNameReachability), Status: new(CheckDetail(c))}
	if c == compute.CheckImpaired {
		detail.ImpairedSince = instant(since)
	}
	out.Details = []ec2gen.InstanceStatusDetails{detail}
	return out
}

// Attribute fills the one attribute that was asked for. The second result is false for attributes that guests here do not
// have.
func Attribute(v View, name ec2gen.InstanceAttributeName) (*ec2gen.InstanceAttribute, bool) {
	out := &ec2gen.InstanceAttribute{InstanceId: text(v.ID)}
	switch name {
	case ec2gen.InstanceAttributeNameInstanceType:
		out.InstanceType = value(v.Type)
	case ec2gen.InstanceAttributeNameUserData:
		out.UserData = userData(v.UserData)
	case ec2gen.InstanceAttributeNameDisableApiTermination:
		out.DisableApiTermination = boolean(v.DisableAPITermination)
	case ec2gen.InstanceAttributeNameInstanceInitiatedShutdownBehavior:
		out.InstanceInitiatedShutdownBehavior = value(v.ShutdownBehavior.String())
	case ec2gen.InstanceAttributeNameRootDeviceName:
		out.RootDeviceName = value(v.RootDeviceName)
	case ec2gen.InstanceAttributeNameBlockDeviceMapping:
		out.BlockDeviceMappings = BlockDevices(v.Instance)
	case ec2gen.InstanceAttributeNameGroupSet:
		out.Groups = v.Names.identifiers(v.Groups())
	case ec2gen.InstanceAttributeNameSourceDestCheck:
		out.SourceDestCheck = boolean(v.SourceDestCheck())
	case ec2gen.InstanceAttributeNameEbsOptimized:
		out.EbsOptimized = boolean(false)
	case ec2gen.InstanceAttributeNameEnaSupport:
		out.EnaSupport = boolean(true)
	case ec2gen.InstanceAttributeNameEnclaveOptions:
		out.EnclaveOptions = &ec2gen.EnclaveOptions{Enabled: new(false)}
	case ec2gen.InstanceAttributeNameDisableApiStop:
		out.DisableApiStop = boolean(false)
	case ec2gen.InstanceAttributeNameKernel:
		out.KernelId = &ec2gen.AttributeValue{}
	case ec2gen.InstanceAttributeNameRamdisk:
		out.RamdiskId = &ec2gen.AttributeValue{}
	case ec2gen.InstanceAttributeNameSriovNetSupport:
		out.SriovNetSupport = &ec2gen.AttributeValue{}
	case ec2gen.InstanceAttributeNameProductCodes:
	default:
		return nil, false
	}
	return out, true
}

func value(s string) *ec2gen.AttributeValue { return &ec2gen.AttributeValue{Value: new(s)} }

func boolean(b bool) *ec2gen.AttributeBooleanValue {
	return &ec2gen.AttributeBooleanValue{Value: new(b)}
}

// userData has no value when there is none.
func userData(raw []byte) *ec2gen.AttributeValue {
	if len(raw) == 0 {
		return &ec2gen.AttributeValue{}
	}
	return value(base64.StdEncoding.EncodeToString(raw))
}

// Volume converts a root disk.
func Volume(v *compute.Volume, snapshot ids.Snapshot) ec2gen.Volume {
	out := ec2gen.Volume{
		AvailabilityZone: new(v.Zone), CreateTime: instant(v.CreateTime), Encrypted: new(false), Size: number(v.SizeGiB), SnapshotId: text(snapshot),
		State: new(ec2gen.VolumeState(v.State.String())), VolumeId: text(v.ID), Tags: Tags(v.Tags), VolumeType: new(VolumeType), MultiAttachEnabled: new(false),
	}
	if v.Instance != "" {
		out.Attachments = []ec2gen.VolumeAttachment{{
			AttachTime: instant(v.CreateTime), Device: new(v.Device), InstanceId: text(v.Instance), State: new(ec2gen.VolumeAttachmentStateAttached),
			VolumeId: text(v.ID), DeleteOnTermination: new(v.DeleteOnTermination),
		}}
	}
	return out
}

// VolumeType is the type that every root disk is shown as.
const VolumeType = ec2gen.VolumeType("gp2")
