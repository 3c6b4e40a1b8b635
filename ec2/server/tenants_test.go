package server_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/honesty"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// notFoundOf is the code for an id of each prefix that the account does not have.
var notFoundOf = map[string]string{
	"i": errs.NotFound(ids.Instance("")).Code, "vol": errs.NotFound(ids.Volume("")).Code, "ami": errs.NotFound(ids.Image("")).Code,
	"vpc": errs.NotFound(ids.VPC("")).Code, "subnet": errs.NotFound(ids.Subnet("")).Code, "sg": errs.NotFound(ids.SecurityGroup("")).Code,
	"sgr": errs.NotFound(ids.SecurityGroupRule("")).Code, "eni": errs.NotFound(ids.Interface("")).Code, "rtb": errs.NotFound(ids.RouteTable("")).Code,
	"acl": errs.NotFound(ids.NetworkACL("")).Code, "dopt": errs.NotFound(ids.DHCPOptions("")).Code, "key": errs.NotFound(ids.KeyPair("")).Code,
}

// kindOf tells which of the victim's ids go into a parameter by the last part of its name.
var kindOf = map[string][]string{
	"InstanceId": {"i"}, "VolumeId": {"vol"}, "ImageId": {"ami"}, "VpcId": {"vpc"}, "SubnetId": {"subnet"}, "GroupId": {"sg"},
	"SecurityGroupId": {"sg"}, "SecurityGroupRuleId": {"sgr"}, "NetworkInterfaceId": {"eni"}, "RouteTableId": {"rtb"}, "NetworkAclId": {"acl"},
	"DhcpOptionsId": {"dopt"}, "KeyPairId": {"key"}, "ResourceId": slices.Sorted(maps.Keys(notFoundOf)),
}

// notResources are the parameters that end in Id and name nothing that an account owns.
var notResources = []string{"UserId", "ZoneId", "OwnerId", "SourceSecurityGroupOwnerId", "KmsKeyId", "PrefixListId", "VpcPeeringConnectionId", "HostId",
	"CapacityReservationId", "LaunchTemplateId", "Ipv6IpamPoolId", "Ipv4IpamPoolId", "SnapshotId", "KernelId", "RamdiskId", "OutpostArn", "AvailabilityZoneId"}

// theRest is what a request of the attacker needs besides the id, by action: "own:" is the attacker's own id of a kind. A
// key may be an action with the begin of a parameter.
var theRest = map[string][]string{
	"RunInstances":                                   {"ImageId", "public", "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1"},
	"RunInstances SecurityGroupId":                   {"ImageId", "public", "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", "own:subnet"},
	"RunInstances NetworkInterface":                  {"ImageId", "public", "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "NetworkInterface.1.DeviceIndex", "0", "NetworkInterface.1.SubnetId", "own:subnet"},
	"DescribeInstanceAttribute":                      {"Attribute", "userData"},
	"ModifyInstanceAttribute":                        {"DisableApiTermination.Value", "true"},
	"ModifyInstanceAttribute BlockDeviceMapping":     {"InstanceId", "own:i", "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"},
	"ModifyInstanceAttribute GroupId":                {"InstanceId", "own:i"},
	"DescribeVpcAttribute":                           {"Attribute", "enableDnsSupport"},
	"ModifyVpcAttribute":                             {"EnableDnsSupport.Value", "false"},
	"ModifySubnetAttribute":                          {"MapPublicIpOnLaunch.Value", "false"},
	"DescribeNetworkInterfaceAttribute":              {"Attribute", "description"},
	"DescribeImageAttribute":                         {"Attribute", "description"},
	"ModifyImageAttribute":                           {"LaunchPermission.Add.1.Group", "all"},
	"ResetImageAttribute":                            {"Attribute", "launchPermission"},
	"CreateSubnet":                                   {"CidrBlock", "10.0.0.0/24"},
	"CreateSecurityGroup":                            {"GroupName", "sweep", "GroupDescription", "x"},
	"CreateTags":                                     {"Tag.1.Key", "stolen", "Tag.1.Value", "x"},
	"DeleteTags":                                     {"Tag.1.Key", "owner"},
	"AuthorizeSecurityGroupIngress":                  {"IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"},
	"AuthorizeSecurityGroupEgress":                   {"IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8"},
	"RevokeSecurityGroupIngress":                     {"IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"},
	"RevokeSecurityGroupEgress":                      {"IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0"},
	"AuthorizeSecurityGroupIngress IpPermissions":    {"GroupId", "own:sg", "IpPermissions.1.IpProtocol", "-1"},
	"AuthorizeSecurityGroupEgress IpPermissions":     {"GroupId", "own:sg", "IpPermissions.1.IpProtocol", "-1"},
	"RevokeSecurityGroupIngress IpPermissions":       {"GroupId", "own:sg", "IpPermissions.1.IpProtocol", "-1"},
	"RevokeSecurityGroupEgress IpPermissions":        {"GroupId", "own:sg", "IpPermissions.1.IpProtocol", "-1"},
	"RevokeSecurityGroupIngress SecurityGroupRuleId": {"GroupId", "own:sg"},
	"RevokeSecurityGroupEgress SecurityGroupRuleId":  {"GroupId", "own:sg"},
}

// otherwise are the cases that EC2 answers in another way than with the id's own code: the codes, of which the empty one is
// success.
var otherwise = map[string][]string{
	"DeleteKeyPair KeyPairId":                                      {"", errs.DryRunOperation}, // deleting what is not there succeeds
	"RevokeSecurityGroupIngress IpPermissions.N.Groups.N.GroupId":  {errs.InvalidPermissionNotFound, errs.InvalidGroupNotFound},
	"RevokeSecurityGroupEgress IpPermissions.N.Groups.N.GroupId":   {errs.InvalidPermissionNotFound, errs.InvalidGroupNotFound},
	"AuthorizeSecurityGroupIngress IpPermissions.N.Groups.N.VpcId": {errs.MissingParameter}, // says where a group is, and names none
	"AuthorizeSecurityGroupEgress IpPermissions.N.Groups.N.VpcId":  {errs.MissingParameter},
	"RevokeSecurityGroupIngress IpPermissions.N.Groups.N.VpcId":    {errs.MissingParameter},
	"RevokeSecurityGroupEgress IpPermissions.N.Groups.N.VpcId":     {errs.MissingParameter},
	"ModifyInstanceAttribute BlockDeviceMapping.N.Ebs.VolumeId":    {errs.InvalidParameterValue}, // is compared with the instance's own
}

// TestNobodyReachesAnothersResources sends every served action with another account's ids in every parameter that takes
// an id, for real and as a dry run: the answer is that there is no such thing, it tells nothing, and it changes nothing.
// Cases come from the model, so a new action or parameter that this test does not know fails it.
func TestNobodyReachesAnothersResources(t *testing.T) {
	d := openDoor(t, 1)
	theirs := d.possess()
	attacker := d.as("attacker")
	own := attacker.possess()
	before := d.everything()
	cases := 0
	for action, model := range ec2gen.Actions {
		if !honesty.Served(action) {
			continue
		}
		for _, parameter := range model.Parameters {
			for _, kind := range kindsOf(t, action, parameter) {
				for _, dry := range []string{"false", "true"} {
					rest := attacker.rest(action, parameter, own)
					if model.DryRun {
						rest = append(rest, "DryRun", dry)
					}
					attacker.tries(action, parameter, theirs[kind], notFoundOf[kind], rest)
					cases++
				}
			}
		}
	}
	if cases < 120 {
		t.Errorf("%d cases", cases)
	}
	attacker.filtersFindNothing(theirs)
	after := d.everything()
	for action, body := range before {
		if after[action] != body {
			t.Errorf("%s has changed:\n%s\nwas\n%s", action, after[action], body)
		}
	}
}

// kindsOf lists which of the victim's ids a parameter may take: none when it takes no id.
func kindsOf(t *testing.T, action, parameter string) []string {
	t.Helper()
	last := parameter
	for strings.HasSuffix(last, ".N") {
		last = strings.TrimSuffix(last, ".N")
	}
	last = last[strings.LastIndexByte(last, '.')+1:]
	rule, _ := honesty.Find(action, parameter)
	if kinds := kindOf[last]; kinds != nil && rule.Class != honesty.Refused {
		return kinds
	}
	if strings.HasSuffix(last, "Id") && kindOf[last] == nil && !slices.Contains(notResources, last) {
		t.Errorf("%s takes an id in %s that no case is made of: add it to kindOf, or to notResources", action, parameter)
	}
	return nil
}

// rest is what else the request needs.
func (d *door) rest(action, parameter string, own map[string]string) []string {
	first, _, _ := strings.Cut(parameter, ".")
	pairs, found := theRest[action+" "+first]
	if !found {
		pairs = theRest[action]
	}
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		value := pairs[i+1]
		if kind, mine := strings.CutPrefix(value, "own:"); mine {
			value = own[kind]
		}
		if value == "public" {
			value = string(d.Image)
		}
		out = append(out, pairs[i], value)
	}
	return out
}

// tries sends one case.
func (d *door) tries(action, parameter, id, code string, rest []string) {
	d.t.Helper()
	codes := []string{code}
	if others, found := otherwise[action+" "+parameter]; found {
		codes = others
	}
	name := strings.ReplaceAll(parameter, ".N", ".1")
	a := d.call(action, append(slices.Clone(rest), name, id)...)
	if !slices.Contains(codes, a.code) {
		d.t.Errorf("%s %s=%s %v: %d %s %s, want %s", action, name, id, rest, a.status, a.code, a.text, codes)
	}
}

// filtersFindNothing asks each Describe action by each filter for each of another's ids.
func (d *door) filtersFindNothing(theirs map[string]string) {
	d.t.Helper()
	for action, model := range ec2gen.Actions {
		if !model.Filtered || !honesty.Served(action) {
			continue
		}
		_, list, _ := strings.Cut(d.refused(errs.InvalidParameterValue, action, "Filter.1.Name", "no-such", "Filter.1.Value.1", "x").text, "are: ")
		for filter := range strings.SplitSeq(strings.TrimSuffix(list, "."), ", ") {
			pairs := []string{"Filter.1.Name", strings.ReplaceAll(filter, "<key>", "owner")}
			for _, id := range theirs {
				pairs = append(pairs, fmt.Sprintf("Filter.1.Value.%d", len(pairs)/2), id)
			}
			if a := d.ok(action, pairs...); items(a) != 0 {
				d.t.Errorf("%s by %s finds %s", action, filter, a.body)
			}
		}
		for kind, id := range theirs {
			if a := d.ok(action); strings.Contains(a.body, id) {
				d.t.Errorf("%s shows the %s %s of another", action, kind, id)
			}
		}
	}
}

// possess makes one resource of each kind for the door's account and returns their ids by prefix.
func (d *door) possess() map[string]string {
	d.t.Helper()
	own := map[string]string{}
	own["vpc"] = d.ok("CreateVpc", "CidrBlock", "10.50.0.0/16").one("vpcId")
	own["subnet"] = d.ok("CreateSubnet", "VpcId", own["vpc"], "CidrBlock", "10.50.1.0/24").one("subnetId")
	own["sg"] = d.ok("CreateSecurityGroup", "VpcId", own["vpc"], "GroupName", "mine", "GroupDescription", "x").one("groupId")
	own["sgr"] = d.ok("AuthorizeSecurityGroupIngress", "GroupId", own["sg"], "IpPermissions.1.IpProtocol", "-1",
		"IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0").one("securityGroupRuleId")
	run := d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", own["subnet"],
		"SecurityGroupId.1", own["sg"], "UserData", "c2VjcmV0")
	own["i"] = run.one("instanceId")
	running := d.await("<name>running</name>", "DescribeInstances", "InstanceId.1", own["i"])
	own["eni"], own["vol"] = running.first("networkInterfaceId"), running.first("volumeId")
	own["key"] = d.ok("CreateKeyPair", "KeyName", "mine", "KeyType", "ed25519").one("keyPairId")
	own["rtb"] = d.ok("DescribeRouteTables", "Filter.1.Name", "vpc-id", "Filter.1.Value.1", own["vpc"]).first("routeTableId")
	own["acl"] = d.ok("DescribeNetworkAcls", "Filter.1.Name", "vpc-id", "Filter.1.Value.1", own["vpc"]).first("networkAclId")
	own["dopt"] = d.ok("DescribeVpcs", "VpcId.1", own["vpc"]).first("dhcpOptionsId")
	own["ami"] = string(d.privateImage(ids.Account(run.first("ownerId"))))
	for _, id := range own {
		if a := d.call("CreateTags", "ResourceId.1", id, "Tag.1.Key", "owner", "Tag.1.Value", own["vpc"]); a.status != 200 {
			d.t.Logf("%s has no tags: %s", id, a.code)
		}
	}
	return own
}

func (d *door) privateImage(owner ids.Account) ids.Image {
	d.t.Helper()
	id := ids.New[ids.Image](rand.Reader)
	_, err := d.DB.Transact(d.ctx, func(tx *store.Tx) error {
		_, err := imagerows.Register(d.ctx, tx, imagerows.Image{
			ID: id, Owner: owner, Name: "private", SHA256: strings.Repeat("1", 64), Bytes: 1 << 20, Architecture: "x86_64", CreatedMs: d.Env.Clock.Now().UnixMilli(),
		}, 10)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

// everything is what each Describe action shows of the account.
func (d *door) everything() map[string]string {
	d.t.Helper()
	all := map[string]string{}
	for action, model := range ec2gen.Actions {
		if !model.Filtered || !honesty.Served(action) {
			continue
		}
		body := d.ok(action).body
		begin, rest, _ := strings.Cut(body, "<requestId>")
		_, rest, _ = strings.Cut(rest, "</requestId>")
		all[action] = begin + rest
	}
	return all
}
