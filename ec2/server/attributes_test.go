package server_test

import (
	"encoding/base64"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestInstanceAttributes writes each attribute that can be written, in each form, and reads it back; what needs a stopped
// instance is refused while it runs.
func TestInstanceAttributes(t *testing.T) {
	d := openDoor(t, 1)
	launched := d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	id := launched.one("instanceId")
	d.await("<name>running</name>", "DescribeInstances")
	group := d.ok("CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d", "VpcId", string(d.VPC)).one("groupId")
	elsewhere := d.ok("CreateVpc", "CidrBlock", "10.8.0.0/16").first("vpcId")
	foreign := d.ok("CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d", "VpcId", elsewhere).one("groupId")
	encoded := base64.StdEncoding.EncodeToString([]byte("#!/bin/sh"))
	read := func(attribute string) answer {
		return d.ok("DescribeInstanceAttribute", "InstanceId", id, "Attribute", attribute)
	}
	for _, c := range []struct {
		attribute, element, want string
		stopped                  bool
		pairs                    []string
	}{
		{"disableApiTermination", "value", "true", false, []string{"DisableApiTermination.Value", "true"}},
		{"disableApiTermination", "value", "false", false, []string{"Attribute", "disableApiTermination", "Value", "false"}},
		{"instanceInitiatedShutdownBehavior", "value", "terminate", false, []string{"InstanceInitiatedShutdownBehavior.Value", "terminate"}},
		{"instanceInitiatedShutdownBehavior", "value", "stop", false, []string{"Attribute", "instanceInitiatedShutdownBehavior", "Value", "stop"}},
		{"sourceDestCheck", "value", "false", false, []string{"SourceDestCheck.Value", "false"}},
		{"sourceDestCheck", "value", "true", false, []string{"Attribute", "sourceDestCheck", "Value", "true"}},
		{"groupSet", "groupId", group, false, []string{"GroupId.1", group}},
		{"blockDeviceMapping", "deleteOnTermination", "false", false, []string{"BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"}},
		{"userData", "value", encoded, true, []string{"UserData.Value", encoded}},
		{"userData", "value", encoded, true, []string{"Attribute", "userData", "Value", encoded}},
		{"instanceType", "value", "t3.nano", true, []string{"InstanceType.Value", "t3.nano"}},
		{"instanceType", "value", "nb1.tiny", true, []string{"Attribute", "instanceType", "Value", "nb1.tiny"}},
	} {
		pairs := append([]string{"InstanceId", id}, c.pairs...)
		d.refused(errs.DryRunOperation, "ModifyInstanceAttribute", append(pairs, "DryRun", "true")...)
		if c.stopped && d.ok("DescribeInstances", "InstanceId.1", id).first("name") == "running" {
			d.refused(errs.IncorrectInstanceState, "ModifyInstanceAttribute", pairs...)
			d.ok("StopInstances", "InstanceId.1", id)
			d.await("<name>stopped</name>", "DescribeInstances", "InstanceId.1", id)
		}
		d.ok("ModifyInstanceAttribute", pairs...)
		if got := read(c.attribute).all(c.element); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s after %v is %v", c.attribute, c.pairs, got)
		}
	}
	d.ok("DescribeNetworkInterfaces", "Filter.1.Name", "group-id", "Filter.1.Value.1", group).has(id)
	d.ok("DescribeInstances", "Filter.1.Name", "instance.group-id", "Filter.1.Value.1", group).has(id)
	for _, name := range []string{"rootDeviceName", "ebsOptimized", "enaSupport", "enclaveOptions", "disableApiStop", "kernel", "ramdisk", "sriovNetSupport", "productCodes"} {
		read(name).has(id)
	}
	for _, c := range []struct {
		code  string
		pairs []string
	}{
		{errs.InvalidParameterCombination, nil},
		{errs.InvalidParameterCombination, []string{"GroupId.1", group, "SourceDestCheck.Value", "true"}},
		{errs.InvalidInstanceAttributeValue, []string{"InstanceType.Value", "z9.huge"}},
		{errs.InsufficientInstanceCapacity, []string{"InstanceType.Value", "m5.24xlarge"}},
		{errs.InvalidGroupIdMalformed, []string{"GroupId.1", "sg-1"}},
		{errs.InvalidGroupNotFound, []string{"GroupId.1", missing[ids.SecurityGroup]()}},
		{errs.InvalidGroupNotFound, []string{"GroupId.1", missing[ids.SecurityGroup](), "DryRun", "true"}},
		{errs.InvalidGroupNotFound, []string{"GroupId.1", foreign}},
		{errs.InvalidParameterValue, []string{"InstanceInitiatedShutdownBehavior.Value", "sleep"}},
		{errs.InvalidInstanceAttributeValue, []string{"BlockDeviceMapping.1.DeviceName", "/dev/sdz", "BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"}},
		{errs.UnsupportedOperation, []string{"DisableApiStop.Value", "true"}},
	} {
		d.refused(c.code, "ModifyInstanceAttribute", append([]string{"InstanceId", id}, c.pairs...)...)
	}
	d.ok("TerminateInstances", "InstanceId.1", id)
	d.await("<name>terminated</name>", "DescribeInstances", "InstanceId.1", id)
	d.refused(errs.IncorrectInstanceState, "ModifyInstanceAttribute", "InstanceId", id, "SourceDestCheck.Value", "false")
}
