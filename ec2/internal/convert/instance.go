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
	if shown := states[s]; shown != nil {
		return shown
	}
	return newState(s)
}

func newState(s compute.State) *ec2gen.InstanceState {
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

// What is the same for every instance, or one of a few. Answers are written and never changed, so they can share it.
var (
	yes, no, nothing = new(true), new(false), new("")
	firstCard        = new(int32(0)) // the network card of every interface
	interfaceKind    = new("interface")
	platform         = new(platformDetails)
	usage            = new(usageOperation)
	shownHypervisor  = new(hypervisor)
	ebs              = new(ec2gen.DeviceTypeEbs)
	hvm              = new(ec2gen.VirtualizationTypeHvm)
	tenancy          = new(ec2gen.TenancyDefault)
	unmonitored      = &ec2gen.Monitoring{State: new(ec2gen.MonitoringStateDisabled)}
	noHibernation    = &ec2gen.HibernationOptions{Configured: no}
	noEnclave        = &ec2gen.EnclaveOptions{Enabled: no}
	openReservation  = &ec2gen.CapacityReservationSpecificationResponse{CapacityReservationPreference: new(ec2gen.CapacityReservationPreferenceOpen)}
	maintenance      = &ec2gen.InstanceMaintenanceOptions{AutoRecovery: new(ec2gen.InstanceAutoRecoveryStateDefault)}
	ipNames          = &ec2gen.PrivateDnsNameOptionsResponse{HostnameType: new(ec2gen.HostnameTypeIpName), EnableResourceNameDnsARecord: no, EnableResourceNameDnsAAAARecord: no}
	optionsApplied   = new(ec2gen.InstanceMetadataOptionsStateApplied)
	tokensOptional   = new(ec2gen.HttpTokensStateOptional)
	tokensRequired   = new(ec2gen.HttpTokensStateRequired)
	endpointEnabled  = new(ec2gen.InstanceMetadataEndpointStateEnabled)
	endpointDisabled = new(ec2gen.InstanceMetadataEndpointStateDisabled)
	metadataIPv6     = new(ec2gen.InstanceMetadataProtocolStateDisabled)
	metadataTags     = new(ec2gen.InstanceMetadataTagsStateDisabled)
	states           = shownStates(compute.Pending, compute.Running, compute.ShuttingDown, compute.Terminated, compute.Stopping, compute.Stopped)
)

func shownStates(list ...compute.State) (shown [256]*ec2gen.InstanceState) {
	for _, s := range list {
		shown[s] = newState(s)
	}
	return shown
}

func truth(b bool) *bool {
	if b {
		return yes
	}
	return no
}

// fill converts an instance. A terminated one has no network and no disk, as in EC2.
func (a *Arena) fill(out *ec2gen.Instance, v *View) {
	*out = ec2gen.Instance{
		AmiLaunchIndex: a.number(v.LaunchIndex), ImageId: lend(a, v.Image), InstanceId: lend(a, v.ID), InstanceType: lend(a, v.Type),
		KeyName: lendPresent(a, v.KeyName), LaunchTime: a.instant(v.LaunchTime), Monitoring: unmonitored,
		Placement:      a.placements.put(ec2gen.Placement{AvailabilityZone: lend(a, v.Zone), GroupName: nothing, Tenancy: tenancy}),
		PrivateDnsName: nothing, PublicDnsName: nothing, State: State(v.State), StateTransitionReason: lend(a, v.TransitionReason),
		Architecture: (*ec2gen.ArchitectureValues)(lend(a, v.Architecture)), ClientToken: lend(a, v.ClientToken), EbsOptimized: no, EnaSupport: yes,
		Hypervisor: shownHypervisor, RootDeviceName: lend(a, v.RootDeviceName), RootDeviceType: ebs,
		StateReason: a.stateReason(v.Reason), Tags: a.tags(v.Tags), VirtualizationType: hvm,
		CpuOptions: a.cpuOptions(v.Type), HibernationOptions: noHibernation, CapacityReservationSpecification: openReservation,
		MetadataOptions: a.metadataOptions(v.Metadata), EnclaveOptions: noEnclave,
		PlatformDetails: platform, UsageOperation: usage, UsageOperationUpdateTime: a.instant(v.CreateTime),
		PrivateDnsNameOptions: ipNames, MaintenanceOptions: maintenance,
	}
	if !v.Gone() {
		a.addNetwork(out, v)
		out.BlockDeviceMappings = a.blockDevices(v.Instance)
	}
}

// SourceDestCheck is the primary interface's; on while that is not known.
func (v View) SourceDestCheck() bool { return v.Interface == nil || v.Interface.SourceDestCheck }

func (a *Arena) addNetwork(out *ec2gen.Instance, v *View) {
	out.PrivateDnsName = lend(a, v.PrivateDNSName)
	out.SubnetId, out.VpcId, out.SourceDestCheck = lend(a, v.Subnet), lend(a, v.VPC), truth(v.SourceDestCheck())
	out.SecurityGroups = a.identifiers(v.Names, v.Groups())
	if v.Interface != nil {
		out.NetworkInterfaces = a.interfaces.list(1)
		out.NetworkInterfaces[0] = a.instanceInterface(v.Interface, v.Names)
	}
	if v.Interface != nil && v.Interface.Address == v.PrivateIP {
		out.PrivateIpAddress = out.NetworkInterfaces[0].PrivateIpAddress
	} else {
		out.PrivateIpAddress = a.address(v.PrivateIP)
	}
}

// instanceInterface converts an interface as DescribeInstances shows it.
func (a *Arena) instanceInterface(i *vpc.Interface, n GroupNames) ec2gen.InstanceNetworkInterface {
	address, name, created := a.address(i.Address), lendPresent(a, i.PrivateDNSName), a.instant(i.Created)
	addresses := a.addresses.list(1)
	addresses[0] = ec2gen.InstancePrivateIpAddress{Primary: yes, PrivateDnsName: name, PrivateIpAddress: address}
	return ec2gen.InstanceNetworkInterface{
		Attachment: a.attachments.put(ec2gen.InstanceNetworkInterfaceAttachment{
			AttachTime: created, AttachmentId: lend(a, i.Attachment), DeleteOnTermination: truth(i.DeleteOnTermination),
			DeviceIndex: a.number(i.DeviceIndex), NetworkCardIndex: firstCard, Status: (*ec2gen.AttachmentStatus)(lend(a, AttachmentStatus(i.State))),
		}),
		Description: lend(a, i.Description), Groups: a.identifiers(n, i.Groups), MacAddress: lend(a, i.MAC.String()), NetworkInterfaceId: lend(a, i.ID),
		OwnerId: lend(a, i.Account), PrivateDnsName: name, PrivateIpAddress: address, PrivateIpAddresses: addresses,
		SourceDestCheck: truth(i.SourceDestCheck), Status: (*ec2gen.NetworkInterfaceStatus)(lend(a, InterfaceStatus(i.State))),
		SubnetId: lend(a, i.Subnet), VpcId: lend(a, i.VPC), InterfaceType: interfaceKind,
	}
}

// blockDevices converts the root disk.
func (a *Arena) blockDevices(i *compute.Instance) []ec2gen.InstanceBlockDeviceMapping {
	status := ec2gen.AttachmentStatusAttached
	if i.State == compute.Pending {
		status = ec2gen.AttachmentStatusAttaching
	}
	list := a.devices.list(1)
	list[0] = ec2gen.InstanceBlockDeviceMapping{
		DeviceName: lend(a, i.RootDeviceName),
		Ebs: a.disks.put(ec2gen.EbsInstanceBlockDevice{
			AttachTime: a.instant(i.CreateTime), DeleteOnTermination: truth(i.DeleteRootOnTerminate),
			Status: (*ec2gen.AttachmentStatus)(lend(a, status)), VolumeId: lend(a, i.RootVolume),
		}),
	}
	return list
}

func (a *Arena) stateReason(r compute.Reason) *ec2gen.StateReason {
	if r.Code == "" {
		return nil
	}
	return a.reasons.put(ec2gen.StateReason{Code: lend(a, r.Code), Message: lend(a, r.Message)})
}

func (a *Arena) cpuOptions(name string) *ec2gen.CpuOptions {
	t, found := compute.TypeNamed(name)
	if !found {
		return nil
	}
	return a.processors.put(ec2gen.CpuOptions{CoreCount: a.number(t.Cores), ThreadsPerCore: a.number(t.ThreadsPerCore())})
}

func (a *Arena) metadataOptions(m compute.MetadataOptions) *ec2gen.InstanceMetadataOptionsResponse {
	return a.metadata.put(ec2gen.InstanceMetadataOptionsResponse{
		State: optionsApplied, HttpTokens: Tokens(m), HttpPutResponseHopLimit: a.number(max(m.HopLimit, 1)),
		HttpEndpoint: Endpoint(m), HttpProtocolIpv6: metadataIPv6, InstanceMetadataTags: metadataTags,
	})
}

// Tokens says whether the metadata service wants a session's token.
func Tokens(m compute.MetadataOptions) *ec2gen.HttpTokensState {
	if m.TokensRequired {
		return tokensRequired
	}
	return tokensOptional
}

// Endpoint says whether the metadata service answers.
func Endpoint(m compute.MetadataOptions) *ec2gen.InstanceMetadataEndpointState {
	if m.Disabled {
		return endpointDisabled
	}
	return endpointEnabled
}

// Reservation converts instances of one launch. What it returns is the arena's.
func (a *Arena) Reservation(id ids.Reservation, account ids.Account, views []*View) *ec2gen.Reservation {
	instances := a.instances.list(len(views))
	for i, v := range views {
		a.fill(&instances[i], v)
	}
	return a.reservations.put(ec2gen.Reservation{ReservationId: lend(a, id), OwnerId: lend(a, account), Instances: instances})
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
		out.BlockDeviceMappings = new(Arena).blockDevices(v.Instance)
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
