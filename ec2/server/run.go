package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/vpc"
)

// defaultType is the type of a launch that names none. EC2's own default, m1.small, is not offered.
const defaultType = "t3.micro"

func (a *api) RunInstances(ctx context.Context, in *ec2gen.RunInstancesInput) (*ec2gen.RunInstancesOutput, error) {
	r, err := launch(in)
	if err != nil {
		return nil, err
	}
	if r.ClientToken != "" {
		scope := idem.Scope{Account: caller(ctx), Action: "RunInstances", Token: r.ClientToken}
		if err := scope.Validate(); err != nil {
			return nil, err
		}
	}
	if len(in.SecurityGroups) > 0 {
		if r.Groups, err = a.groupsByName(ctx, r, in.SecurityGroups); err != nil {
			return nil, err
		}
	}
	if err := a.checkZone(ctx, r.Zone); err != nil {
		return nil, err
	}
	if dryRun(ctx) != nil {
		return nil, orDryRun(a.Compute.CheckLaunch(ctx, caller(ctx), r))
	}
	launched, err := a.Compute.RunInstances(ctx, caller(ctx), r)
	if err != nil {
		return nil, err
	}
	views, err := a.views(ctx, launched.Instances)
	if err != nil { // the instances exist: an answer without their interfaces is better than an error that asks for more
		a.Log.WarnContext(ctx, "launch answered without interfaces", "reservation", string(launched.ID), "err", err)
		views = each(launched.Instances, func(i *compute.Instance) convert.View { return convert.View{Instance: i} })
	}
	out := convert.Reservation(launched.ID, launched.Account, each(views, convert.Instance))
	return &out, nil
}

// launch reads a request, in the order in which EC2 finds fault with one: what is missing, counts, then the rest.
func launch(in *ec2gen.RunInstancesInput) (compute.RunRequest, error) {
	r := compute.RunRequest{
		Type: defaultType, KeyName: deref(in.KeyName), DisableAPITermination: deref(in.DisableApiTermination), ClientToken: deref(in.ClientToken),
	}
	if in.Placement != nil {
		r.Zone = deref(in.Placement.AvailabilityZone)
	}
	for _, read := range []func(*compute.RunRequest, *ec2gen.RunInstancesInput) error{
		readImage, readCounts, readType, readUserData, readShutdown, readMetadata, readDisk, readNetwork, readTags,
	} {
		if err := read(&r, in); err != nil {
			return r, err
		}
	}
	return r, nil
}

func readImage(r *compute.RunRequest, in *ec2gen.RunInstancesInput) (err error) {
	r.Image, err = requireID[ids.Image](in.ImageId, "ImageId")
	return err
}

func readCounts(r *compute.RunRequest, in *ec2gen.RunInstancesInput) error {
	if in.MinCount == nil {
		return errs.Missing("MinCount")
	}
	if in.MaxCount == nil {
		return errs.Missing("MaxCount")
	}
	r.MinCount, r.MaxCount = int(*in.MinCount), int(*in.MaxCount)
	switch {
	case r.MinCount < 1:
		return errs.Invalid("MinCount", fmt.Sprint(r.MinCount), "It must be at least 1.")
	case r.MaxCount < r.MinCount:
		return errs.New(errs.InvalidParameterCombination, "The value of MaxCount (%d) must not be less than that of MinCount (%d)", r.MaxCount, r.MinCount)
	case r.MaxCount > compute.MaxPerRequest:
		return errs.Invalid("MaxCount", fmt.Sprint(r.MaxCount), fmt.Sprintf("One request launches at most %d instances; send several.", compute.MaxPerRequest))
	}
	return nil
}

func readType(r *compute.RunRequest, in *ec2gen.RunInstancesInput) error {
	if in.InstanceType != nil {
		r.Type = *in.InstanceType
	}
	if _, found := compute.TypeNamed(r.Type); !found {
		return errs.New(errs.InvalidParameterValue, "Invalid value '%.64s' for InstanceType. Use DescribeInstanceTypes to see the types of this cloud.", r.Type)
	}
	return nil
}

func readUserData(r *compute.RunRequest, in *ec2gen.RunInstancesInput) (err error) {
	r.UserData, err = userData(in.UserData)
	return err
}

// userData decodes what clients send as base64.
func userData(text *string) ([]byte, error) {
	if text == nil || *text == "" {
		return nil, nil
	}
	data, err := base64.StdEncoding.DecodeString(*text)
	if err != nil {
		return nil, errs.New(errs.InvalidUserDataMalformed, "Invalid BASE64 encoding of user data.")
	}
	if len(data) > compute.MaxUserDataBytes {
		return nil, errs.New(errs.InvalidParameterValue, "User data is limited to %d bytes; it has %d", compute.MaxUserDataBytes, len(data))
	}
	return data, nil
}

func readShutdown(r *compute.RunRequest, in *ec2gen.RunInstancesInput) (err error) {
	if in.InstanceInitiatedShutdownBehavior != nil {
		r.ShutdownBehavior, err = shutdownBehavior(string(*in.InstanceInitiatedShutdownBehavior))
	}
	return err
}

func readMetadata(r *compute.RunRequest, in *ec2gen.RunInstancesInput) error {
	if in.MetadataOptions == nil {
		return nil
	}
	r.Metadata = compute.MetadataOptions{
		TokensRequired: deref(in.MetadataOptions.HttpTokens) == ec2gen.HttpTokensStateRequired,
		Disabled:       deref(in.MetadataOptions.HttpEndpoint) == ec2gen.InstanceMetadataEndpointStateDisabled,
	}
	if hops := in.MetadataOptions.HttpPutResponseHopLimit; hops != nil {
		if *hops < 1 || *hops > 64 {
			return errs.Invalid("MetadataOptions.HttpPutResponseHopLimit", fmt.Sprint(*hops), "It must be from 1 to 64.")
		}
		r.Metadata.HopLimit = int(*hops)
	}
	return nil
}

// readDisk reads the mapping of the root device, the only one there is.
func readDisk(r *compute.RunRequest, in *ec2gen.RunInstancesInput) error {
	for i, m := range in.BlockDeviceMappings {
		name := fmt.Sprintf("BlockDeviceMapping.%d.", i+1)
		if device := deref(m.DeviceName); device != image.RootDeviceName || i > 0 {
			return errs.New(errs.InvalidBlockDeviceMapping, "%sDeviceName '%.64s': an instance has one disk, its root device %s", name, device, image.RootDeviceName)
		}
		if m.Ebs == nil {
			continue
		}
		if size := m.Ebs.VolumeSize; size != nil {
			if *size < 1 || *size > compute.MaxRootDiskGiB {
				return errs.Invalid(name+"Ebs.VolumeSize", fmt.Sprint(*size), fmt.Sprintf("It must be from 1 to %d.", compute.MaxRootDiskGiB))
			}
			r.RootDisk.SizeGiB = int(*size)
		}
		r.RootDisk.Keep = m.Ebs.DeleteOnTermination != nil && !*m.Ebs.DeleteOnTermination
	}
	return nil
}

// readNetwork reads where the one interface goes: from the request itself or from NetworkInterface.1, never from both.
func readNetwork(r *compute.RunRequest, in *ec2gen.RunInstancesInput) (err error) {
	subnet, groups, address := in.SubnetId, in.SecurityGroupIds, in.PrivateIpAddress
	if len(in.NetworkInterfaces) > 0 {
		if subnet != nil || len(groups) > 0 || len(in.SecurityGroups) > 0 || address != nil {
			return errs.New(errs.InvalidParameterCombination, "Network interfaces and an instance-level subnet ID, security groups or private address may not be specified on the same request")
		}
		n := in.NetworkInterfaces[0]
		if err := checkInterfaces(in.NetworkInterfaces); err != nil {
			return err
		}
		subnet, groups, r.InterfaceDescription = n.SubnetId, n.Groups, deref(n.Description)
		if address, err = interfaceAddress(n); err != nil {
			return err
		}
	}
	if r.Subnet, err = optionalID[ids.Subnet](subnet); err != nil {
		return err
	}
	if r.Groups, err = parseIDs[ids.SecurityGroup](groups); err != nil {
		return err
	}
	if len(groups) > 0 && len(in.SecurityGroups) > 0 {
		return errs.New(errs.InvalidParameterCombination, "The parameters SecurityGroupId and SecurityGroup cannot be used together")
	}
	return readAddress(r, address)
}

func checkInterfaces(list []ec2gen.InstanceNetworkInterfaceSpecification) error {
	if len(list) > 1 {
		return errs.RefusedParameter("NetworkInterface.2", "An instance has one network interface.")
	}
	n := list[0]
	switch {
	case n.DeviceIndex == nil:
		return errs.Missing("NetworkInterface.1.DeviceIndex")
	case *n.DeviceIndex != 0:
		return errs.Invalid("NetworkInterface.1.DeviceIndex", fmt.Sprint(*n.DeviceIndex), "The primary interface has index 0, and an instance has no other.")
	case len(deref(n.Description)) > vpc.MaxDescriptionBytes:
		return errs.Invalid("NetworkInterface.1.Description", *n.Description, fmt.Sprintf("It is longer than %d bytes.", vpc.MaxDescriptionBytes))
	}
	return nil
}

// interfaceAddress reads the address in either of its two forms.
func interfaceAddress(n ec2gen.InstanceNetworkInterfaceSpecification) (*string, error) {
	if len(n.PrivateIpAddresses) == 0 {
		return n.PrivateIpAddress, nil
	}
	if len(n.PrivateIpAddresses) > 1 {
		return nil, errs.RefusedParameter("NetworkInterface.1.PrivateIpAddresses.2", "An interface has one address.")
	}
	if n.PrivateIpAddress != nil {
		return nil, errs.New(errs.InvalidParameterCombination, "The parameters NetworkInterface.1.PrivateIpAddress and NetworkInterface.1.PrivateIpAddresses cannot be used together")
	}
	if p := n.PrivateIpAddresses[0]; !deref(p.Primary) {
		return nil, errs.Invalid("NetworkInterface.1.PrivateIpAddresses.1.Primary", "false", "An interface has its primary address only.")
	}
	return n.PrivateIpAddresses[0].PrivateIpAddress, nil
}

func readAddress(r *compute.RunRequest, text *string) (err error) {
	if text == nil || *text == "" {
		return nil
	}
	if r.PrivateIP, err = netip.ParseAddr(*text); err != nil || !r.PrivateIP.Is4() {
		return errs.Invalid("PrivateIpAddress", *text, "It is not an IPv4 address.")
	}
	if r.MaxCount != 1 {
		return errs.New(errs.InvalidParameterCombination, "A private address may only be given when launching a single instance")
	}
	return nil
}

func readTags(r *compute.RunRequest, in *ec2gen.RunInstancesInput) error {
	tags, err := tagsOf(in.TagSpecifications, ec2gen.ResourceTypeInstance, ec2gen.ResourceTypeVolume, ec2gen.ResourceTypeNetworkInterface)
	r.InstanceTags, r.VolumeTags, r.InterfaceTags = tags[ec2gen.ResourceTypeInstance], tags[ec2gen.ResourceTypeVolume], tags[ec2gen.ResourceTypeNetworkInterface]
	return err
}

// groupsByName finds groups in the VPC of the launch.
func (a *api) groupsByName(ctx context.Context, r compute.RunRequest, names []string) ([]ids.SecurityGroup, error) {
	network, err := a.launchVPC(ctx, r)
	if err != nil {
		return nil, err
	}
	var groups []ids.SecurityGroup
	for _, name := range names {
		g, err := a.groupByName(ctx, network, name)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g.ID)
	}
	return groups, nil
}

func (a *api) launchVPC(ctx context.Context, r compute.RunRequest) (ids.VPC, error) {
	if r.Subnet == "" {
		return a.defaultVPC(ctx)
	}
	subnet, err := a.oneSubnet(ctx, r.Subnet)
	return subnet.VPC, err
}

// checkZone refuses a zone that this cloud has not. That a subnet is in another one is the launch's to find.
func (a *api) checkZone(ctx context.Context, zone string) error {
	if zone == "" {
		return nil
	}
	zones, err := a.zones(ctx)
	if _, known := zones.ids[zone]; err == nil && !known {
		return errs.Invalid("Placement.AvailabilityZone", zone, "Use DescribeAvailabilityZones to see the zones.")
	}
	return err
}
