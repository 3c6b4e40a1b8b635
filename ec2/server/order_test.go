package server_test

import (
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestDryRunFindsBadValues holds that a dry run is refused for every value that the call itself is refused for.
func TestDryRunFindsBadValues(t *testing.T) {
	d := openDoor(t, 1)
	v, long := string(d.VPC), strings.Repeat("k", 300)
	run := func(more ...string) []string {
		return append([]string{"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet)}, more...)
	}
	other := d.ok("CreateVpc", "CidrBlock", "10.7.0.0/16").one("vpcId")
	elsewhere := d.ok("DescribeSecurityGroups", "Filter.1.Name", "vpc-id", "Filter.1.Value.1", other).first("groupId")
	for _, c := range []struct {
		code, action string
		pairs        []string
	}{
		{errs.InvalidParameterValue, "RunInstances", run("PrivateIpAddress", "10.0.0.1")},
		{errs.InvalidParameterValue, "RunInstances", run("PrivateIpAddress", "192.168.0.7")},
		{errs.InvalidParameterValue, "RunInstances", run("Placement.AvailabilityZone", "nowhere")},
		{errs.InvalidGroupNotFound, "RunInstances", run("SecurityGroupId.1", missing[ids.SecurityGroup]())},
		{errs.InvalidGroupNotFound, "RunInstances", run("SecurityGroupId.1", elsewhere)},
		{errs.InvalidKeyPairNotFound, "RunInstances", run("KeyName", "nobody")},
		{errs.InvalidVpcRange, "CreateVpc", []string{"CidrBlock", "10.0.0.0/8"}},
		{errs.InvalidVpcRange, "CreateVpc", []string{"CidrBlock", "224.0.0.0/16"}},
		{errs.InvalidSubnetRange, "CreateSubnet", []string{"VpcId", v, "CidrBlock", "10.0.0.0/30"}},
		{errs.InvalidParameterValue, "CreateSubnet", []string{"VpcId", v, "CidrBlock", "10.0.0.0/24", "AvailabilityZone", "nowhere"}},
		{errs.InvalidVpcIDNotFound, "CreateSubnet", []string{"VpcId", missing[ids.VPC](), "CidrBlock", "10.0.0.0/24"}},
		{errs.InvalidParameterValue, "CreateSecurityGroup", []string{"VpcId", v, "GroupName", "sg-a", "GroupDescription", "d"}},
		{errs.InvalidParameterValue, "CreateSecurityGroup", []string{"VpcId", v, "GroupName", "a", "GroupDescription", "<d>"}},
		{errs.VPCIdNotSpecified, "CreateSecurityGroup", []string{"GroupName", "a", "GroupDescription", "d"}},
		{errs.InvalidParameterValue, "CreateKeyPair", []string{"KeyName", long}},
		{errs.InvalidParameterValue, "ImportKeyPair", []string{"KeyName", long, "PublicKeyMaterial", "eA=="}},
		{errs.InvalidKeyFormat, "ImportKeyPair", []string{"KeyName", "k", "PublicKeyMaterial", "eA=="}},
		{errs.InvalidPermissionMalformed, "AuthorizeSecurityGroupIngress", []string{"GroupId", string(d.Group), "IpPermissions.1.IpProtocol", "-1",
			"IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8", "IpPermissions.1.IpRanges.1.Description", "<d>"}},
	} {
		d.refused(c.code, c.action, c.pairs...)
		d.refused(c.code, c.action, append(c.pairs, "DryRun", "true")...)
	}
	d.refused(errs.DryRunOperation, "CreateVpc", "CidrBlock", "10.0.0.0/16", "DryRun", "true")
	d.refused(errs.DryRunOperation, "CreateSubnet", "VpcId", v, "CidrBlock", "10.0.0.0/24", "DryRun", "true")
	d.refused(errs.DryRunOperation, "CreateSecurityGroup", "VpcId", v, "GroupName", "a", "GroupDescription", "d", "DryRun", "true")
	d.refused(errs.DryRunOperation, "CreateKeyPair", "KeyName", "k", "DryRun", "true")
	for action, element := range map[string]string{"DescribeVpcs": "vpcId", "DescribeSubnets": "subnetId", "DescribeSecurityGroups": "groupName", "DescribeKeyPairs": "keyName"} {
		want := map[string]int{"DescribeVpcs": 2, "DescribeSubnets": 1, "DescribeSecurityGroups": 2}[action]
		if got := len(d.ok(action).all(element)); got != want {
			t.Errorf("after dry runs %s shows %d, want %d", action, got, want)
		}
	}
}

// TestValuesBeforeIDs holds that what cannot be is found before what is not there, and that no second way to say a thing is
// passed over in silence.
func TestValuesBeforeIDs(t *testing.T) {
	d := openDoor(t, 1)
	d.refused(errs.InvalidParameterCombination, "DescribeInstances", "InstanceId.1", missing[ids.Instance](), "MaxResults", "5")
	d.refused(errs.InvalidParameterCombination, "DescribeVpcs", "VpcId.1", missing[ids.VPC](), "MaxResults", "5")
	d.refused(errs.InvalidNextToken, "DescribeVpcs", "VpcId.1", missing[ids.VPC](), "NextToken", "x")
	d.refused(errs.InvalidParameterCombination, "DeleteSecurityGroup", "GroupId", string(d.Group), "GroupName", "another")
	d.refused(errs.InvalidParameterCombination, "ModifyVpcAttribute", "VpcId", string(d.VPC))
	d.refused(errs.InvalidParameterCombination, "ModifySubnetAttribute", "SubnetId", string(d.Subnet))
	d.refused(errs.InvalidParameterCombination, "ModifySubnetAttribute", "SubnetId", string(d.Subnet), "MapPublicIpOnLaunch.Value", "true", "EnableDns64.Value", "false")
	d.ok("ModifyVpcAttribute", "VpcId", string(d.VPC), "EnableNetworkAddressUsageMetrics.Value", "false")
	d.ok("ModifySubnetAttribute", "SubnetId", string(d.Subnet), "PrivateDnsHostnameTypeOnLaunch", "ip-name")
}

// TestPermissionTellsNobodyOfAccounts holds that who may not change an image is not told which accounts exist.
func TestPermissionTellsNobodyOfAccounts(t *testing.T) {
	d := openDoor(t, 1)
	other := d.as("other")
	for _, user := range []string{string(d.Account), "000000000001"} {
		other.refused(errs.InvalidAMIIDNotFound, "ModifyImageAttribute", "ImageId", missing[ids.Image](), "LaunchPermission.Add.1.UserId", user)
		other.refused(errs.AuthFailure, "ModifyImageAttribute", "ImageId", string(d.Image), "LaunchPermission.Add.1.UserId", user)
	}
	d.refused(errs.InvalidAMIAttributeItemValue, "ModifyImageAttribute", "ImageId", string(d.Image), "LaunchPermission.Add.1.UserId", "000000000001")
}
