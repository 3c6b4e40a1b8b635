package server_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/honesty"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// idKind is what one kind of id is called, and how EC2 spells its faults.
type idKind struct{ missing, malformed, notFound string }

// idParameters are the parameters that hold ids, by the last part of their name.
var idParameters = map[string]idKind{
	"InstanceId":          {missing[ids.Instance](), errs.InvalidInstanceIDMalformed, errs.InvalidInstanceIDNotFound},
	"ImageId":             {missing[ids.Image](), errs.InvalidAMIIDMalformed, errs.InvalidAMIIDNotFound},
	"SnapshotId":          {missing[ids.Snapshot](), errs.InvalidSnapshotIDMalformed, errs.InvalidSnapshotNotFound},
	"VolumeId":            {missing[ids.Volume](), errs.InvalidVolumeIDMalformed, errs.InvalidVolumeNotFound},
	"KeyPairId":           {missing[ids.KeyPair](), errs.InvalidKeyPairIdMalformed, errs.InvalidKeyPairNotFound},
	"VpcId":               {missing[ids.VPC](), errs.InvalidVpcIDMalformed, errs.InvalidVpcIDNotFound},
	"SubnetId":            {missing[ids.Subnet](), errs.InvalidSubnetIDMalformed, errs.InvalidSubnetIDNotFound},
	"GroupId":             {missing[ids.SecurityGroup](), errs.InvalidGroupIdMalformed, errs.InvalidGroupNotFound},
	"SecurityGroupId":     {missing[ids.SecurityGroup](), errs.InvalidGroupIdMalformed, errs.InvalidGroupNotFound},
	"SecurityGroupRuleId": {missing[ids.SecurityGroupRule](), errs.InvalidSecurityGroupRuleIdMalformed, errs.InvalidSecurityGroupRuleIdNotFound},
	"NetworkInterfaceId":  {missing[ids.Interface](), errs.InvalidNetworkInterfaceIDMalformed, errs.InvalidNetworkInterfaceIDNotFound},
	"RouteTableId":        {missing[ids.RouteTable](), errs.InvalidRouteTableIDMalformed, errs.InvalidRouteTableIDNotFound},
	"NetworkAclId":        {missing[ids.NetworkACL](), errs.InvalidNetworkAclIDMalformed, errs.InvalidNetworkAclIDNotFound},
	"ResourceId":          {missing[ids.Instance](), errs.InvalidInstanceIDMalformed, errs.InvalidInstanceIDNotFound},
}

// idParameter returns the kind of id that a parameter holds.
func idParameter(name string) (idKind, bool) {
	parts := strings.Split(strings.TrimSuffix(name, ".N"), ".")
	kind, found := idParameters[parts[len(parts)-1]]
	return kind, found
}

// quietDeletes succeed on an id of nothing, as EC2's do.
var quietDeletes = map[string]bool{"DeleteKeyPair KeyPairId": true}

// TestIDs sends every id parameter of every action text that is no id, an id of another kind, an id of nothing, and an id
// of another account's: malformed comes before not found, each in its own spelling, and both before a dry run ends.
func TestIDs(t *testing.T) {
	d := openDoor(t, 1)
	image := d.ok("RegisterImage", "Name", "private", "ImageLocation", d.ok("DescribeImages", "ImageId.1", string(d.Image)).one("imageLocation")).one("imageId")
	mine := d.ok("RunInstances", "ImageId", image, "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	key := d.ok("CreateKeyPair", "KeyName", "k", "KeyType", "ed25519").one("keyPairId")
	owned := map[string]string{
		"InstanceId": mine.one("instanceId"), "ResourceId": mine.one("instanceId"), "ImageId": image, "KeyPairId": key, "VpcId": string(d.VPC),
		"SubnetId": string(d.Subnet), "GroupId": string(d.Group), "SecurityGroupId": string(d.Group), "NetworkInterfaceId": mine.first("networkInterfaceId"),
		"VolumeId":            d.ok("DescribeVolumes").first("volumeId"),
		"RouteTableId":        d.ok("DescribeRouteTables").first("routeTableId"),
		"NetworkAclId":        d.ok("DescribeNetworkAcls").first("networkAclId"),
		"SecurityGroupRuleId": d.ok("DescribeSecurityGroupRules").first("securityGroupRuleId"),
	}
	stranger := d.as("stranger")
	stranger.ok("CreateKeyPair", "KeyName", "k", "KeyType", "ed25519")
	strangerVPC := stranger.ok("CreateVpc", "CidrBlock", "10.0.0.0/16").first("vpcId")
	strangerSubnet := stranger.ok("CreateSubnet", "VpcId", strangerVPC, "CidrBlock", "10.0.0.0/24").one("subnetId")
	strangerGroup := stranger.ok("DescribeSecurityGroups").first("groupId")
	run := func(subnet string) []string {
		return []string{"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", subnet}
	}
	// what else each parameter's request needs, by action and by whose it is
	more := func(action, subnet, group string) []string {
		return map[string][]string{
			"RunInstances":                  run(subnet),
			"RegisterImage":                 {"Name", "other", "BlockDeviceMapping.1.DeviceName", "/dev/xvda"},
			"DescribeInstanceAttribute":     {"Attribute", "userData"},
			"ModifyInstanceAttribute":       {"SourceDestCheck.Value", "true"},
			"DescribeImageAttribute":        {"Attribute", "launchPermission"},
			"ModifyImageAttribute":          {"Description.Value", "d"},
			"ResetImageAttribute":           {"Attribute", "launchPermission"},
			"ModifyVpcAttribute":            {"EnableDnsSupport.Value", "true"},
			"DescribeVpcAttribute":          {"Attribute", "enableDnsSupport"},
			"CreateSubnet":                  {"CidrBlock", "10.0.1.0/24"},
			"ModifySubnetAttribute":         {"MapPublicIpOnLaunch.Value", "true"},
			"CreateSecurityGroup":           {"GroupName", "g", "GroupDescription", "d"},
			"AuthorizeSecurityGroupIngress": {"GroupId", group, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8"},
			"AuthorizeSecurityGroupEgress":  {"GroupId", group, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8"},
			"RevokeSecurityGroupIngress":    {"GroupId", group, "IpPermissions.1.IpProtocol", "-1"},
			"RevokeSecurityGroupEgress":     {"GroupId", group, "IpPermissions.1.IpProtocol", "-1"},
			"CreateTags":                    {"Tag.1.Key", "k"},
		}[action]
	}
	swept := 0
	for _, action := range slices.Sorted(maps.Keys(ec2gen.Actions)) {
		for _, parameter := range ec2gen.Actions[action].Parameters {
			kind, isID := idParameter(parameter)
			rule, _ := honesty.Find(action, parameter)
			if !isID || rule.Class != honesty.Honoured || strings.HasPrefix(parameter, "BlockDeviceMapping.N.Ebs.VolumeId") {
				continue // the last one says which volume is meant and must be the root volume of the instance
			}
			swept++
			name := strings.ReplaceAll(parameter+".", ".N.", ".1.")
			name = strings.TrimSuffix(name, ".")
			with := func(id, subnet, group string) []string {
				pairs := slices.Clone(more(action, subnet, group))
				switch {
				case strings.HasPrefix(name, "NetworkInterface.1."):
					pairs = append(pairs[:len(pairs)-2], "NetworkInterface.1.DeviceIndex", "0", "NetworkInterface.1.SubnetId", subnet)
				case action == "ModifyInstanceAttribute" && name == "GroupId.1":
					pairs = []string{"InstanceId", owned["InstanceId"]}
				case name == "SecurityGroupRuleId.1" && action != "DescribeSecurityGroupRules":
					pairs = []string{"GroupId", group}
				case strings.HasPrefix(name, "IpPermissions.1.Groups.1."):
					pairs = []string{"GroupId", group, "IpPermissions.1.IpProtocol", "-1"}
				}
				return append(pairs, name, id)
			}
			prefix, _, _ := strings.Cut(kind.missing, "-")
			other := missing[ids.DHCPOptions]()
			malformed := []string{prefix + "-XYZ", prefix + "-", other}
			if name == "ResourceId.1" {
				malformed = malformed[:2] // tags go with ids of many kinds
			}
			for _, text := range malformed {
				d.refused(kind.malformed, action, with(text, string(d.Subnet), string(d.Group))...)
			}
			if strings.HasPrefix(action, "Revoke") && strings.HasPrefix(name, "IpPermissions.1.Groups.1.") {
				d.refused(errs.InvalidPermissionNotFound, action, with(kind.missing, string(d.Subnet), string(d.Group))...) // no rule refers to it
				continue
			}
			if quietDeletes[action+" "+name] {
				d.ok(action, with(kind.missing, string(d.Subnet), string(d.Group))...)
				stranger.ok(action, with(owned["KeyPairId"], strangerSubnet, strangerGroup)...)
				continue
			}
			base := name[strings.LastIndex(strings.TrimSuffix(name, ".1"), ".")+1:]
			foreign := owned[strings.TrimSuffix(base, ".1")]
			d.refused(kind.notFound, action, with(kind.missing, string(d.Subnet), string(d.Group))...)
			if foreign != "" && !(action == "ModifyInstanceAttribute" && name == "GroupId.1") {
				stranger.refused(kind.notFound, action, with(foreign, strangerSubnet, strangerGroup)...)
			}
			if ec2gen.Actions[action].DryRun {
				d.refused(kind.malformed, action, append(with(malformed[0], string(d.Subnet), string(d.Group)), "DryRun", "true")...)
				d.refused(kind.notFound, action, append(with(kind.missing, string(d.Subnet), string(d.Group)), "DryRun", "true")...)
			}
		}
	}
	if swept < 50 {
		t.Errorf("%d id parameters were swept", swept)
	}
	d.ok("DescribeKeyPairs", "KeyPairId.1", key)
	d.refused(errs.InvalidID, "CreateTags", "ResourceId.1", "nonsense", "Tag.1.Key", "k")
	for _, c := range []idKind{idParameters["VpcId"], idParameters["SubnetId"], idParameters["GroupId"], idParameters["ImageId"], idParameters["VolumeId"], idParameters["NetworkInterfaceId"]} {
		prefix, _, _ := strings.Cut(c.missing, "-")
		d.refused(c.malformed, "CreateTags", "ResourceId.1", prefix+"-XYZ", "Tag.1.Key", "k")
		d.refused(c.notFound, "CreateTags", "ResourceId.1", c.missing, "Tag.1.Key", "k")
	}
	d.ok("DescribeInstances", "InstanceId.1", owned["InstanceId"])
}
