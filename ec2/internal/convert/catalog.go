package convert

import (
	"encoding/base64"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/image"
)

// creationDate is EC2's layout of an image's creation date.
const creationDate = "2006-01-02T15:04:05.000Z"

// Image converts an image.
func Image(i *image.Image) ec2gen.Image {
	return ec2gen.Image{
		Architecture: new(ec2gen.ArchitectureValues(i.Architecture)), CreationDate: new(i.CreateTime.UTC().Format(creationDate)), ImageId: text(i.ID),
		ImageLocation: new(string(i.Owner) + "/" + i.Name), ImageType: new(ec2gen.ImageTypeValuesMachine), Public: new(i.Public), OwnerId: text(i.Owner),
		PlatformDetails: new(platformDetails), UsageOperation: new(usageOperation), State: new(ec2gen.ImageState(i.State.String())),
		BlockDeviceMappings: rootMapping(i),
		Description:         new(i.Description), EnaSupport: new(true), Hypervisor: new(hypervisor), Name: new(i.Name), RootDeviceName: new(i.RootDeviceName),
		RootDeviceType: new(ec2gen.DeviceTypeEbs), Tags: Tags(i.Tags), VirtualizationType: new(ec2gen.VirtualizationTypeHvm),
		BootMode: bootMode(i.BootMode),
	}
}

func rootMapping(i *image.Image) []ec2gen.BlockDeviceMapping {
	return []ec2gen.BlockDeviceMapping{{DeviceName: new(i.RootDeviceName), Ebs: &ec2gen.EbsBlockDevice{
		DeleteOnTermination: new(true), SnapshotId: text(i.RootSnapshot), VolumeSize: number(i.DiskGiB()), VolumeType: new(VolumeType), Encrypted: new(false),
	}}}
}

// ImageAttribute fills the one attribute that was asked for. What images here never have is there without a value.
func ImageAttribute(i *image.Image, name ec2gen.ImageAttributeName) *ec2gen.ImageAttribute {
	out := &ec2gen.ImageAttribute{ImageId: text(i.ID)}
	switch name {
	case ec2gen.ImageAttributeNameDescription:
		out.Description = value(i.Description)
	case ec2gen.ImageAttributeNameLaunchPermission:
		out.LaunchPermissions = launchPermissions(i)
	case ec2gen.ImageAttributeNameBlockDeviceMapping:
		out.BlockDeviceMappings = rootMapping(i)
	case ec2gen.ImageAttributeNameBootMode:
		out.BootMode = &ec2gen.AttributeValue{Value: present(i.BootMode)}
	case ec2gen.ImageAttributeNameDeregistrationProtection:
		out.DeregistrationProtection = value("disabled")
	case ec2gen.ImageAttributeNameKernel:
		out.KernelId = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameRamdisk:
		out.RamdiskId = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameSriovNetSupport:
		out.SriovNetSupport = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameTpmSupport:
		out.TpmSupport = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameUefiData:
		out.UefiData = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameImdsSupport:
		out.ImdsSupport = &ec2gen.AttributeValue{}
	case ec2gen.ImageAttributeNameLastLaunchedTime:
		out.LastLaunchedTime = &ec2gen.AttributeValue{}
	}
	return out
}

func launchPermissions(i *image.Image) []ec2gen.LaunchPermission {
	var list []ec2gen.LaunchPermission
	if i.Public {
		list = append(list, ec2gen.LaunchPermission{Group: new(ec2gen.PermissionGroupAll)})
	}
	for _, a := range i.Users {
		list = append(list, ec2gen.LaunchPermission{UserId: text(a)})
	}
	return list
}

func bootMode(mode string) *ec2gen.BootModeValues {
	if mode == "" {
		return nil
	}
	return new(ec2gen.BootModeValues(mode))
}

// InstanceType converts a size.
func InstanceType(t compute.InstanceType) ec2gen.InstanceTypeInfo {
	return ec2gen.InstanceTypeInfo{
		InstanceType: new(t.Name), CurrentGeneration: new(true), FreeTierEligible: new(t.Free),
		SupportedUsageClasses: []ec2gen.UsageClassType{ec2gen.UsageClassTypeOnDemand}, SupportedRootDeviceTypes: []ec2gen.RootDeviceType{ec2gen.RootDeviceTypeEbs},
		SupportedVirtualizationTypes: []ec2gen.VirtualizationType{ec2gen.VirtualizationTypeHvm}, BareMetal: new(false), Hypervisor: new(ec2gen.InstanceTypeHypervisorNitro),
		ProcessorInfo: &ec2gen.ProcessorInfo{SupportedArchitectures: []ec2gen.ArchitectureType{ec2gen.ArchitectureTypeX8664}},
		VCpuInfo: &ec2gen.VCpuInfo{
			DefaultVCpus: number(t.VCPUs), DefaultCores: number(t.Cores), DefaultThreadsPerCore: number(t.ThreadsPerCore()),
			ValidCores: []int32{int32(t.Cores)}, ValidThreadsPerCore: []int32{int32(t.ThreadsPerCore())},
		},
		MemoryInfo: &ec2gen.MemoryInfo{SizeInMiB: new(int64(t.MemoryMiB))}, InstanceStorageSupported: new(false),
		EbsInfo: &ec2gen.EbsInfo{
			EbsOptimizedSupport: new(ec2gen.EbsOptimizedSupportDefault), EncryptionSupport: new(ec2gen.EbsEncryptionSupportUnsupported),
			NvmeSupport: new(ec2gen.EbsNvmeSupportUnsupported),
		},
		NetworkInfo:        networkInfo(t),
		PlacementGroupInfo: &ec2gen.PlacementGroupInfo{}, HibernationSupported: new(false), BurstablePerformanceSupported: new(t.Burstable),
		DedicatedHostsSupported: new(false), AutoRecoverySupported: new(false),
		SupportedBootModes:   []ec2gen.BootModeType{ec2gen.BootModeTypeLegacyBios, ec2gen.BootModeTypeUefi},
		NitroEnclavesSupport: new(ec2gen.NitroEnclavesSupportUnsupported), NitroTpmSupport: new(ec2gen.NitroTpmSupportUnsupported),
		PhcSupport: new(ec2gen.PhcSupportUnsupported),
	}
}

func networkInfo(t compute.InstanceType) *ec2gen.NetworkInfo {
	const performance = "As the host's network"
	return &ec2gen.NetworkInfo{
		NetworkPerformance: new(performance), MaximumNetworkInterfaces: number(t.MaxInterfaces), MaximumNetworkCards: new(int32(1)), DefaultNetworkCardIndex: new(int32(0)),
		NetworkCards: []ec2gen.NetworkCardInfo{{
			NetworkCardIndex: new(int32(0)), NetworkPerformance: new(performance), MaximumNetworkInterfaces: number(t.MaxInterfaces),
		}},
		Ipv4AddressesPerInterface: number(t.AddressesPerInterface), Ipv6AddressesPerInterface: new(int32(0)), Ipv6Supported: new(false),
		EnaSupport: new(ec2gen.EnaSupportUnsupported), EfaSupported: new(false), EncryptionInTransitSupported: new(false), EnaSrdSupported: new(false),
	}
}

// KeyPair converts a key pair; the public key only when it was asked for.
func KeyPair(k account.KeyPair, withPublicKey bool) ec2gen.KeyPairInfo {
	out := ec2gen.KeyPairInfo{
		KeyPairId: text(k.ID), KeyFingerprint: new(k.Fingerprint), KeyName: new(k.Name), KeyType: new(ec2gen.KeyType(k.Type)),
		Tags: Tags(k.Tags), CreateTime: instant(k.Created),
	}
	if withPublicKey {
		out.PublicKey = new(k.PublicKey)
	}
	return out
}

// Zone converts an availability zone: impaired while none of its hosts is connected.
func Zone(z compute.Zone, region string) ec2gen.AvailabilityZone {
	state := ec2gen.AvailabilityZoneStateAvailable
	if z.Up == 0 {
		state = ec2gen.AvailabilityZoneStateImpaired
	}
	return ec2gen.AvailabilityZone{
		State: new(state), OptInStatus: new(ec2gen.AvailabilityZoneOptInStatusOptInNotRequired), RegionName: new(region), ZoneName: new(z.Name),
		ZoneId: new(z.ID), GroupName: new(region), NetworkBorderGroup: new(region), ZoneType: new("availability-zone"),
	}
}

// Tag converts one tag of one resource.
func Tag(t account.Tag) ec2gen.TagDescription {
	return ec2gen.TagDescription{Key: new(t.Key), Value: new(t.Value), ResourceId: new(t.Resource), ResourceType: new(ec2gen.ResourceType(t.Kind))}
}

// Console converts console output.
func Console(instance string, output []byte, at time.Time) *ec2gen.GetConsoleOutputOutput {
	return &ec2gen.GetConsoleOutputOutput{InstanceId: new(instance), Output: new(base64.StdEncoding.EncodeToString(output)), Timestamp: instant(at)}
}
