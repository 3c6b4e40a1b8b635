package server_test

import (
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

// TestRegisterImage makes an image of another's content, launches from it, and removes it while the instance goes on.
func TestRegisterImage(t *testing.T) {
	d := openDoor(t, 1)
	public := d.ok("DescribeImages", "ImageId.1", string(d.Image))
	snapshot, location := public.one("snapshotId"), public.one("imageLocation")
	stranger := d.as("stranger")
	made := stranger.ok("RegisterImage", "Name", "web (v1)", "Description", "d", "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.SnapshotId", snapshot,
		"BlockDeviceMapping.1.Ebs.VolumeSize", "3", "RootDeviceName", "/dev/xvda", "Architecture", "x86_64", "VirtualizationType", "hvm", "EnaSupport", "true",
		"BootMode", "uefi", "TagSpecification.1.ResourceType", "image", "TagSpecification.1.Tag.1.Key", "k", "TagSpecification.1.Tag.1.Value", "v").one("imageId")
	shown := stranger.ok("DescribeImages", "Owner.1", "self", "Filter.1.Name", "tag:k", "Filter.1.Value.1", "v")
	for name, want := range map[string]string{"imageId": made, "name": "web (v1)", "volumeSize": "3", "bootMode": "uefi", "isPublic": "false", "snapshotId": snapshot, "imageState": "available"} {
		if got := shown.one(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	d.refused(errs.InvalidAMIIDNotFound, "DescribeImages", "ImageId.1", made)
	d.refused(errs.InvalidAMIIDNotFound, "RunInstances", "ImageId", made, "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	mine := d.ok("RegisterImage", "Name", "mine", "ImageLocation", location, "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.VolumeSize", "2").one("imageId")
	launched := d.ok("RunInstances", "ImageId", mine, "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet)).one("instanceId")
	d.ok("DescribeVolumes", "Filter.1.Name", "attachment.instance-id", "Filter.1.Value.1", launched).has("<size>2</size>")
	d.ok("DeregisterImage", "ImageId", mine).has("<return>true</return>")
	d.refused(errs.InvalidAMIIDNotFound, "DeregisterImage", "ImageId", mine)
	d.refused(errs.InvalidAMIIDNotFound, "RunInstances", "ImageId", mine, "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	d.await("<name>running</name>", "DescribeInstances", "InstanceId.1", launched)

	for _, c := range []struct {
		code  string
		pairs []string
	}{
		{errs.MissingParameter, []string{"ImageLocation", location}},
		{errs.MissingParameter, []string{"Name", "other"}},
		{errs.InvalidAMINameMalformed, []string{"Name", "ab", "ImageLocation", location}},
		{errs.InvalidAMINameMalformed, []string{"Name", "a;b", "ImageLocation", location}},
		{errs.InvalidAMINameDuplicate, []string{"Name", "test-image", "ImageLocation", location}},
		{errs.InvalidParameterValue, []string{"Name", "other", "ImageLocation", "bucket/image.manifest.xml"}},
		{errs.InvalidParameterValue, []string{"Name", "other", "ImageLocation", location, "RootDeviceName", "/dev/sda1"}},
		{errs.InvalidParameterValue, []string{"Name", "other", "ImageLocation", location, "Architecture", "arm64"}},
		{errs.InvalidSnapshotIDMalformed, []string{"Name", "other", "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.SnapshotId", "snap-1"}},
		{errs.InvalidSnapshotNotFound, []string{"Name", "other", "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.SnapshotId", "snap-0123456789abcdef0"}},
		{errs.InvalidBlockDeviceMapping, []string{"Name", "other", "BlockDeviceMapping.1.DeviceName", "/dev/sdb", "BlockDeviceMapping.1.Ebs.SnapshotId", snapshot}},
		{errs.InvalidParameterCombination, []string{"Name", "other", "ImageLocation", location, "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.SnapshotId", snapshot}},
		{errs.UnsupportedOperation, []string{"Name", "other", "ImageLocation", location, "VirtualizationType", "paravirtual"}},
	} {
		d.refused(c.code, "RegisterImage", c.pairs...)
	}
}

// TestLaunchPermission shares an image in each of the two forms of the request, to one account and to all, and takes it
// back.
func TestLaunchPermission(t *testing.T) {
	d := openDoor(t, 1)
	location := d.ok("DescribeImages", "ImageId.1", string(d.Image)).one("imageLocation")
	id := d.ok("RegisterImage", "Name", "private", "ImageLocation", location).one("imageId")
	friend, stranger := d.as("friend"), d.as("stranger")
	number := friend.ok("CreateVpc", "CidrBlock", "10.0.0.0/16").first("ownerId")
	sees := func(who *door) bool {
		return items(who.ok("DescribeImages", "Filter.1.Name", "image-id", "Filter.1.Value.1", id)) > 0
	}
	modify := func(pairs ...string) { d.ok("ModifyImageAttribute", append(pairs, "ImageId", id)...) }
	permissions := func() []string {
		a := d.ok("DescribeImageAttribute", "ImageId", id, "Attribute", "launchPermission")
		return append(a.all("userId"), a.all("group")...)
	}
	if sees(friend) || len(permissions()) != 0 {
		t.Error("a new image is private")
	}
	modify("LaunchPermission.Add.1.UserId", number)
	if !sees(friend) || sees(stranger) {
		t.Error("one account was permitted")
	}
	if p := permissions(); len(p) != 1 || p[0] != number {
		t.Errorf("permissions %v", p)
	}
	friend.ok("DescribeImages", "ExecutableBy.1", "self").has(id)
	d.ok("DescribeImages", "ExecutableBy.1", number).has(id)
	if n := items(d.ok("DescribeImages", "ExecutableBy.1", "self")); n != 0 {
		t.Errorf("%d items for an owner by permission", n)
	}
	friend.refused(errs.AuthFailure, "DescribeImageAttribute", "ImageId", id, "Attribute", "launchPermission")
	friend.refused(errs.AuthFailure, "ModifyImageAttribute", "ImageId", id, "LaunchPermission.Add.1.Group", "all")
	friend.refused(errs.AuthFailure, "ResetImageAttribute", "ImageId", id, "Attribute", "launchPermission")
	friend.refused(errs.AuthFailure, "DeregisterImage", "ImageId", id)
	stranger.refused(errs.InvalidAMIIDNotFound, "DescribeImageAttribute", "ImageId", id, "Attribute", "launchPermission")
	stranger.refused(errs.InvalidAMIIDNotFound, "DeregisterImage", "ImageId", id)
	modify("Attribute", "launchPermission", "OperationType", "add", "UserGroup.1", "all")
	if !sees(stranger) || d.ok("DescribeImages", "ImageId.1", id).one("isPublic") != "true" {
		t.Error("everybody was permitted")
	}
	modify("Attribute", "launchPermission", "OperationType", "remove", "UserId.1", number)
	if p := permissions(); len(p) != 1 || p[0] != "all" {
		t.Errorf("permissions %v", p)
	}
	d.ok("ResetImageAttribute", "ImageId", id, "Attribute", "launchPermission")
	if sees(friend) || sees(stranger) || len(permissions()) != 0 {
		t.Error("a reset image is private")
	}
	modify("Description.Value", "new")
	modify("Attribute", "description", "Value", "newer")
	if got := d.ok("DescribeImageAttribute", "ImageId", id, "Attribute", "description").one("value"); got != "newer" {
		t.Errorf("description %q", got)
	}
	for _, name := range []string{"kernel", "ramdisk", "productCodes", "blockDeviceMapping", "sriovNetSupport", "bootMode", "tpmSupport", "uefiData", "lastLaunchedTime", "imdsSupport", "deregistrationProtection"} {
		d.ok("DescribeImageAttribute", "ImageId", id, "Attribute", name).has(id)
	}
	for _, c := range []struct {
		code  string
		pairs []string
	}{
		{errs.InvalidParameterCombination, nil},
		{errs.InvalidAMIAttributeItemValue, []string{"LaunchPermission.Add.1.UserId", "12"}},
		{errs.InvalidAMIAttributeItemValue, []string{"LaunchPermission.Add.1.UserId", "999999999999"}},
		{errs.InvalidAMIAttributeItemValue, []string{"OperationType", "add", "UserGroup.1", "some"}},
		{errs.InvalidParameterCombination, []string{"LaunchPermission.Add.1.UserId", number, "Description.Value", "x"}},
		{errs.InvalidParameterCombination, []string{"LaunchPermission.Add.1.UserId", number, "LaunchPermission.Add.1.Group", "all"}},
		{errs.MissingParameter, []string{"Attribute", "launchPermission", "UserId.1", number}},
		{errs.MissingParameter, []string{"Attribute", "launchPermission", "OperationType", "add"}},
		{errs.UnsupportedOperation, []string{"Attribute", "productCodes", "Value", "x"}},
		{errs.InvalidParameterValue, []string{"Description.Value", strings.Repeat("x", 256)}},
	} {
		d.refused(c.code, "ModifyImageAttribute", append(c.pairs, "ImageId", id)...)
	}
}
