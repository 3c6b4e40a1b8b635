package server_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestStory is what the demonstration and a person around it do, with signed requests.
func TestStory(t *testing.T) {
	d := openDoor(t, 2)
	zone := d.ok("DescribeAvailabilityZones").first("zoneName")
	if zone != computetest.Zone {
		t.Fatalf("zone %s", zone)
	}
	d.ok("DescribeImages", "Filter.1.Name", "name", "Filter.1.Value.1", "test-*").has(string(d.Image))
	key := d.ok("CreateKeyPair", "KeyName", "k", "KeyType", "ed25519", "TagSpecification.1.ResourceType", "key-pair", "TagSpecification.1.Tag.1.Key", "a", "TagSpecification.1.Tag.1.Value", "b")
	if !strings.Contains(key.one("keyMaterial"), "BEGIN OPENSSH PRIVATE KEY") || key.one("key") != "a" {
		t.Errorf("got %s", key.body)
	}
	network := d.ok("CreateVpc", "CidrBlock", "10.9.0.0/16", "TagSpecification.1.ResourceType", "vpc", "TagSpecification.1.Tag.1.Key", "Name", "TagSpecification.1.Tag.1.Value", "demo").first("vpcId")
	d.ok("DescribeVpcs", "Filter.1.Name", "tag:Name", "Filter.1.Value.1", "de*").has(network)
	subnet := d.ok("CreateSubnet", "VpcId", network, "CidrBlock", "10.9.1.0/24", "AvailabilityZone", zone)
	if subnet.one("availableIpAddressCount") != "251" {
		t.Errorf("got %s", subnet.body)
	}
	group := d.ok("CreateSecurityGroup", "GroupName", "app", "GroupDescription", "d", "VpcId", network).one("groupId")
	rule := d.ok("AuthorizeSecurityGroupIngress", "GroupId", group, "IpPermissions.1.IpProtocol", "tcp", "IpPermissions.1.FromPort", "22", "IpPermissions.1.ToPort", "22",
		"IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0", "IpPermissions.1.Groups.1.GroupId", group)
	if len(rule.all("securityGroupRuleId")) != 2 {
		t.Errorf("got %s", rule.body)
	}
	run := []string{
		"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "KeyName", "k", "ClientToken", "token-1",
		"UserData", base64.StdEncoding.EncodeToString([]byte("#!/bin/sh")), "NetworkInterface.1.DeviceIndex", "0", "NetworkInterface.1.SubnetId", subnet.one("subnetId"),
		"NetworkInterface.1.SecurityGroupId.1", group, "NetworkInterface.1.PrivateIpAddress", "10.9.1.10", "NetworkInterface.1.AssociatePublicIpAddress", "false",
		"TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", "Name", "TagSpecification.1.Tag.1.Value", "a1",
	}
	launched := d.ok("RunInstances", run...)
	id := launched.one("instanceId")
	if launched.first("privateIpAddress") != "10.9.1.10" || launched.one("name") != "pending" || launched.one("key") != "Name" || launched.one("macAddress") == "" {
		t.Errorf("got %s", launched.body)
	}
	if again := d.ok("RunInstances", run...).one("instanceId"); again != id {
		t.Errorf("the token made %s and then %s", id, again)
	}
	d.refused(errs.IdempotentParameterMismatch, "RunInstances", append(run, "InstanceType", "t3.nano")...)
	d.await("<name>running</name>", "DescribeInstances", "InstanceId.1", id)
	d.ok("DescribeInstanceStatus", "InstanceId.1", id, "IncludeAllInstances", "true").has("<name>running</name>")
	d.ok("GetConsoleOutput", "InstanceId", id).has(base64.StdEncoding.EncodeToString([]byte("console of"))[:12])
	d.ok("DescribeInstanceAttribute", "InstanceId", id, "Attribute", "userData").has(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh")))
	d.ok("DescribeNetworkInterfaces", "Filter.1.Name", "attachment.instance-id", "Filter.1.Value.1", id).has("10.9.1.10")
	d.ok("DescribeVolumes", "Filter.1.Name", "attachment.instance-id", "Filter.1.Value.1", id).has("vol-")
	d.ok("DescribeInstances", "Filter.1.Name", "network-interface.addresses.private-ip-address", "Filter.1.Value.1", "10.9.1.10").has(id)
	d.ok("DescribeInstances", "Filter.1.Name", "instance.group-name", "Filter.1.Value.1", "app").has(id)
	d.ok("RebootInstances", "InstanceId.1", id).has("<return>true</return>")
	if stop := d.ok("StopInstances", "InstanceId.1", id); stop.all("code")[0] != "64" || stop.all("code")[1] != "16" {
		t.Errorf("got %s", stop.body)
	}
	d.await("<name>stopped</name>", "DescribeInstances", "InstanceId.1", id)
	d.ok("StartInstances", "InstanceId.1", id)
	d.await("<name>running</name>", "DescribeInstances", "InstanceId.1", id)
	d.refused(errs.DependencyViolation, "DeleteSubnet", "SubnetId", subnet.one("subnetId"))
	d.refused(errs.DependencyViolation, "DeleteSecurityGroup", "GroupId", group)
	d.ok("ModifyInstanceAttribute", "InstanceId", id, "DisableApiTermination.Value", "true")
	d.refused(errs.OperationNotPermitted, "TerminateInstances", "InstanceId.1", id)
	d.ok("ModifyInstanceAttribute", "InstanceId", id, "Attribute", "disableApiTermination", "Value", "false")
	d.ok("TerminateInstances", "InstanceId.1", id)
	d.ok("TerminateInstances", "InstanceId.1", id)
	gone := d.await("<name>terminated</name>", "DescribeInstances", "InstanceId.1", id)
	if len(gone.all("privateIpAddress")) != 0 || !strings.Contains(gone.body, "Client.UserInitiatedShutdown") {
		t.Errorf("got %s", gone.body)
	}
	d.await("<networkInterfaceSet/>", "DescribeNetworkInterfaces", "Filter.1.Name", "subnet-id", "Filter.1.Value.1", subnet.one("subnetId"))
	d.ok("DeleteSubnet", "SubnetId", subnet.one("subnetId"))
	d.ok("DeleteSecurityGroup", "GroupId", group)
	d.ok("DeleteVpc", "VpcId", network)
	d.ok("DeleteKeyPair", "KeyName", "k").has("key-")
	d.ok("DeleteKeyPair", "KeyName", "k")
}

// TestRefusals holds what a request is refused for, and that nothing came of it.
func TestRefusals(t *testing.T) {
	d := openDoor(t, 1)
	run := func(pairs ...string) []string {
		return append([]string{"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet)}, pairs...)
	}
	for _, c := range []struct {
		code, action string
		pairs        []string
	}{
		{errs.MissingParameter, "RunInstances", []string{"MinCount", "1", "MaxCount", "1"}},
		{errs.InvalidParameterValue, "RunInstances", run("MaxCount", "31")},
		{errs.InvalidParameterCombination, "RunInstances", run("MinCount", "2")},
		{errs.InvalidParameterValue, "RunInstances", run("InstanceType", "z9.huge")},
		{errs.InvalidUserDataMalformed, "RunInstances", run("UserData", "%%%")},
		{errs.InvalidParameterCombination, "RunInstances", run("NetworkInterface.1.DeviceIndex", "0")},
		{errs.UnsupportedOperation, "RunInstances", run("NetworkInterface.1.DeviceIndex", "0", "NetworkInterface.1.AssociatePublicIpAddress", "true")},
		{errs.UnsupportedOperation, "RunInstances", run("KernelId", "aki-1")},
		{errs.InvalidBlockDeviceMapping, "RunInstances", run("BlockDeviceMapping.1.DeviceName", "/dev/sdf")},
		{errs.InvalidParameterValue, "RunInstances", run("BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.VolumeSize", "0")},
		{errs.InvalidKeyPairNotFound, "RunInstances", run("KeyName", "nobody")},
		{errs.InvalidAMIIDNotFound, "RunInstances", run("ImageId", missing[ids.Image]())},
		{errs.InvalidSubnetIDNotFound, "RunInstances", run("SubnetId", missing[ids.Subnet]())},
		{errs.InvalidGroupNotFound, "RunInstances", run("SecurityGroupId.1", missing[ids.SecurityGroup]())},
		{errs.InvalidParameterValue, "RunInstances", run("TagSpecification.1.ResourceType", "vpc", "TagSpecification.1.Tag.1.Key", "k")},
		{errs.InvalidParameterValue, "RunInstances", run("TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", "aws:k")},
		{errs.InvalidParameterValue, "RunInstances", run("TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", "k\x01")},
		{errs.InvalidParameterValue, "CreateTags", []string{"ResourceId.1", string(d.Subnet), "Tag.1.Key", "k", "Tag.1.Value", "a\x00b"}},
		{errs.InvalidParameterValue, "CreateTags", []string{"ResourceId.1", string(d.Subnet), "Tag.1.Key", "k", "Tag.1.Value", "\uffff"}},
		{errs.InvalidParameterValue, "DescribeVpcs", []string{"Filter.1.Name", "tag:k", "Filter.1.Value.1", "\x1b"}},
		{errs.InvalidParameterValue, "RunInstances", run("ClientToken", strings.Repeat("x", 65))},
		{errs.InvalidParameterValue, "RunInstances", run("PrivateIpAddress", "10.0.0.300")},
		{errs.InvalidParameterValue, "RunInstances", run("PrivateIpAddress", "192.168.0.1")},
		{errs.InvalidParameterValue, "RunInstances", run("Placement.AvailabilityZone", "mars-1a")},
		{errs.UnknownParameter, "RunInstances", run("Nonsense", "1")},
		{errs.VPCIdNotSpecified, "RunInstances", []string{"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1"}},
		{errs.InvalidVpcRange, "CreateVpc", []string{"CidrBlock", "10.0.0.0/8"}},
		{errs.InvalidParameterValue, "CreateVpc", []string{"CidrBlock", "10.0.0.0"}},
		{errs.MissingParameter, "CreateVpc", nil},
		{errs.UnsupportedOperation, "CreateVpc", []string{"CidrBlock", "10.0.0.0/16", "InstanceTenancy", "dedicated"}},
		{errs.InvalidSubnetConflict, "CreateSubnet", []string{"VpcId", string(d.VPC), "CidrBlock", "10.0.1.0/24"}},
		{errs.InvalidSubnetRange, "CreateSubnet", []string{"VpcId", string(d.VPC), "CidrBlock", "192.168.0.0/24"}},
		{errs.InvalidParameterValue, "CreateSubnet", []string{"VpcId", string(d.VPC), "CidrBlock", "10.0.1.0/24", "AvailabilityZoneId", "usn1-az9"}},
		{errs.DependencyViolation, "DeleteVpc", []string{"VpcId", string(d.VPC)}},
		{errs.CannotDelete, "DeleteSecurityGroup", []string{"GroupId", string(d.Group)}},
		{errs.InvalidParameterValue, "AuthorizeSecurityGroupIngress", []string{"GroupId", string(d.Group), "IpProtocol", "tcp", "CidrIp", "0.0.0.0/0"}},
		{errs.InvalidParameterValue, "AuthorizeSecurityGroupIngress", []string{"GroupId", string(d.Group), "IpProtocol", "-1", "CidrIp", "nonsense"}},
		{errs.InvalidPermissionNotFound, "RevokeSecurityGroupIngress", []string{"GroupId", string(d.Group), "IpProtocol", "tcp", "FromPort", "1", "ToPort", "2", "CidrIp", "0.0.0.0/0"}},
		{errs.InvalidPermissionDuplicate, "AuthorizeSecurityGroupEgress", []string{"GroupId", string(d.Group), "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"}},
		{errs.InvalidKeyFormat, "ImportKeyPair", []string{"KeyName", "k", "PublicKeyMaterial", base64.StdEncoding.EncodeToString([]byte("nonsense"))}},
		{errs.InvalidParameterValue, "DescribeInstances", []string{"Filter.1.Name", "no-such-filter", "Filter.1.Value.1", "x"}},
		{errs.InvalidParameterValue, "DescribeVpcs", []string{"MaxResults", "4"}},
		{errs.InvalidParameterCombination, "DescribeVpcs", []string{"MaxResults", "5", "VpcId.1", string(d.VPC)}},
		{errs.InvalidNextToken, "DescribeVpcs", []string{"NextToken", "nonsense"}},
		{errs.InvalidInstanceType, "DescribeInstanceTypes", []string{"InstanceType.1", "z9.huge"}},
		{errs.UnsupportedOperation, "CreateInternetGateway", nil},
		{errs.UnsupportedOperation, "CopyImage", nil},
		{errs.InvalidAction, "MakeCoffee", nil},
	} {
		d.refused(c.code, c.action, c.pairs...)
	}
	if n := len(d.ok("DescribeInstances").all("instanceId")); n != 0 {
		t.Errorf("%d instances came of refused requests", n)
	}
}

// TestDryRun holds that a dry run of everything that changes something ends with 412 and changes nothing.
func TestDryRun(t *testing.T) {
	d := openDoor(t, 1)
	id := d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet)).one("instanceId")
	d.await("<name>running</name>", "DescribeInstances")
	before, err := d.DB.Version(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{
		{"RunInstances", "ImageId", string(d.Image), "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet), "ClientToken", "x"},
		{"StartInstances", "InstanceId.1", id}, {"StopInstances", "InstanceId.1", id}, {"RebootInstances", "InstanceId.1", id}, {"TerminateInstances", "InstanceId.1", id},
		{"ModifyInstanceAttribute", "InstanceId", id, "DisableApiTermination.Value", "true"},
		{"CreateKeyPair", "KeyName", "k"}, {"DeleteKeyPair", "KeyName", "k"},
		{"ImportKeyPair", "KeyName", "k", "PublicKeyMaterial", base64.StdEncoding.EncodeToString([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMTenL7OWlbO7Z2b/txD5jNBHL37xicDsN5G0jhtWuHv k"))},
		{"CreateVpc", "CidrBlock", "10.7.0.0/16"}, {"DeleteVpc", "VpcId", string(d.VPC)},
		{"CreateSubnet", "VpcId", string(d.VPC), "CidrBlock", "10.0.1.0/24"}, {"DeleteSubnet", "SubnetId", string(d.Subnet)},
		{"CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d", "VpcId", string(d.VPC)}, {"DeleteSecurityGroup", "GroupId", string(d.Group)},
		{"AuthorizeSecurityGroupIngress", "GroupId", string(d.Group), "IpProtocol", "-1", "CidrIp", "0.0.0.0/0"},
		{"AuthorizeSecurityGroupEgress", "GroupId", string(d.Group), "IpPermissions.1.IpProtocol", "udp", "IpPermissions.1.FromPort", "1", "IpPermissions.1.ToPort", "1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"},
		{"RevokeSecurityGroupIngress", "GroupId", string(d.Group), "IpProtocol", "-1", "CidrIp", "0.0.0.0/0"},
		{"RevokeSecurityGroupEgress", "GroupId", string(d.Group), "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"},
		{"CreateTags", "ResourceId.1", id, "Tag.1.Key", "k"}, {"DeleteTags", "ResourceId.1", id, "Tag.1.Key", "k"},
		{"RegisterImage", "Name", "copy", "ImageLocation", string(d.Account) + "/test-image"}, {"DeregisterImage", "ImageId", string(d.Image)},
		{"ModifyImageAttribute", "ImageId", string(d.Image), "Description.Value", "d"},
		{"ResetImageAttribute", "ImageId", string(d.Image), "Attribute", "launchPermission"},
		{"DescribeInstances"}, {"GetConsoleOutput", "InstanceId", id},
	} {
		if a := d.refused(errs.DryRunOperation, c[0], append(c[1:], "DryRun", "true")...); a.status != 412 {
			t.Errorf("%s: status %d", c[0], a.status)
		}
	}
	if after, err := d.DB.Version(d.ctx); err != nil || after != before {
		t.Errorf("dry runs moved the store from version %d to %d (%v)", before, after, err)
	}
}
