package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// slowZones is a compute whose Zones ends when it is told to.
type slowZones struct {
	compute.Service
	entered chan struct{}
	answer  chan error
}

func (s slowZones) Zones(context.Context) ([]compute.Zone, error) {
	s.entered <- struct{}{}
	return nil, <-s.answer
}

// TestRequestLimit holds that a request beyond the bound is shed as SDKs expect it, and that what fails inside is an
// internal error whose text stays in the log.
func TestRequestLimit(t *testing.T) {
	d := openDoor(t, 1)
	slow := slowZones{Service: d.Compute(), entered: make(chan struct{}), answer: make(chan error)}
	limited := *d
	log := new(logBuffer)
	limited.url = d.serve(func(o *server.Options) {
		o.Compute, o.MaxRequests, o.Log = slow, 1, slog.New(slog.NewTextHandler(log, nil))
		o.Admission = server.NewAdmission(server.AdmissionOptions{RunningReads: 2})
	})
	first := make(chan answer)
	go func() { first <- limited.call("DescribeAvailabilityZones") }()
	<-slow.entered
	if shed := limited.refused(errs.RequestLimitExceeded, "DescribeRegions"); shed.status != http.StatusServiceUnavailable {
		t.Errorf("status %d", shed.status)
	}
	slow.answer <- errors.New("disk on fire")
	failed := <-first
	if failed.code != errs.InternalError || failed.status != http.StatusInternalServerError || strings.Contains(failed.body, "fire") {
		t.Errorf("got %d %s", failed.status, failed.body)
	}
	_, id, _ := strings.Cut(failed.body, "<RequestID>")
	id, _, _ = strings.Cut(id, "<")
	if text := log.String(); !strings.Contains(text, "disk on fire") || !strings.Contains(text, "request="+id) {
		t.Errorf("log %q without the error and request id %s", text, id)
	}
	limited.ok("DescribeRegions")
}

// TestDefaults launches into the default network, by names instead of ids.
func TestDefaults(t *testing.T) {
	d := openDoor(t, 1)
	d.refused(errs.VPCIdNotSpecified, "CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d")
	network, err := d.Networks.EnsureDefault(d.ctx, d.Account)
	if err != nil {
		t.Fatal(err)
	}
	d.ok("DescribeAccountAttributes", "AttributeName.1", "default-vpc").has(string(network.ID))
	d.ok("DescribeVpcs", "Filter.1.Name", "is-default", "Filter.1.Value.1", "true").has(string(network.ID))
	group := d.ok("CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d").one("groupId")
	d.refused(errs.InvalidGroupDuplicate, "CreateSecurityGroup", "GroupName", "g", "GroupDescription", "d")
	d.ok("AuthorizeSecurityGroupIngress", "GroupName", "g", "SourceSecurityGroupName", "default")
	d.ok("DescribeSecurityGroups", "GroupName.1", "g").has(string(network.DefaultGroup))
	run := []string{"ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1"}
	launched := d.ok("RunInstances", append(run, "SecurityGroup.1", "g")...)
	if launched.first("subnetId") == "" || !strings.Contains(launched.body, group) || !strings.Contains(launched.body, "<groupName>g</groupName>") {
		t.Errorf("got %s", launched.body)
	}
	d.refused(errs.InvalidGroupNotFound, "RunInstances", append(run, "SecurityGroup.1", "nobody")...)
	d.refused(errs.DryRunOperation, "RunInstances", append(run, "DryRun", "true")...)
	for _, dry := range []string{"true", "false"} {
		d.refused(errs.InvalidParameterValue, "RunInstances", append(run, "Placement.AvailabilityZone", "mars-1a", "DryRun", dry)...)
	}
}

// TestTags creates, overwrites, finds and deletes tags of several kinds of resources.
func TestTags(t *testing.T) {
	d := openDoor(t, 1)
	launched := d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet),
		"TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", "a", "TagSpecification.1.Tag.1.Value", "1",
		"TagSpecification.2.ResourceType", "volume", "TagSpecification.2.Tag.1.Key", "b", "TagSpecification.2.Tag.1.Value", "2",
		"TagSpecification.3.ResourceType", "network-interface", "TagSpecification.3.Tag.1.Key", "c", "TagSpecification.3.Tag.1.Value", "3")
	id := launched.one("instanceId")
	d.ok("DescribeVolumes", "Filter.1.Name", "tag:b", "Filter.1.Value.1", "2").has(id)
	d.ok("DescribeNetworkInterfaces", "Filter.1.Name", "tag-key", "Filter.1.Value.1", "c").has(id)
	d.ok("CreateTags", "ResourceId.1", id, "ResourceId.2", string(d.Subnet), "ResourceId.3", string(d.Image), "Tag.1.Key", "a", "Tag.1.Value", "9")
	for _, action := range []string{"DescribeInstances", "DescribeSubnets", "DescribeImages"} {
		if found := d.ok(action, "Filter.1.Name", "tag:a", "Filter.1.Value.1", "9"); items(found) == 0 {
			t.Errorf("%s does not find the tag", action)
		}
	}
	if n := len(d.ok("DescribeTags", "Filter.1.Name", "tag:a", "Filter.1.Value.1", "9").all("resourceId")); n != 3 {
		t.Errorf("%d tags", n)
	}
	d.ok("DeleteTags", "ResourceId.1", id, "Tag.1.Key", "a", "Tag.1.Value", "other")
	d.ok("DescribeTags", "Filter.1.Name", "resource-id", "Filter.1.Value.1", id).has("<value>9</value>")
	d.ok("DeleteTags", "ResourceId.1", id, "Tag.1.Key", "a")
	if left := d.ok("DescribeTags", "Filter.1.Name", "resource-id", "Filter.1.Value.1", id); items(left) != 0 {
		t.Errorf("got %s", left.body)
	}
	d.refused(errs.InvalidSubnetIDNotFound, "CreateTags", "ResourceId.1", id, "ResourceId.2", missing[ids.Subnet](), "Tag.1.Key", "z")
	if none := d.ok("DescribeTags", "Filter.1.Name", "key", "Filter.1.Value.1", "z"); items(none) != 0 {
		t.Errorf("a refused call left %s", none.body)
	}
}

// TestRules adds and removes rules in each form and direction.
func TestRules(t *testing.T) {
	d := openDoor(t, 1)
	g := string(d.Group)
	rules := func() int {
		return len(d.ok("DescribeSecurityGroupRules", "Filter.1.Name", "group-id", "Filter.1.Value.1", g).all("securityGroupRuleId"))
	}
	before := rules()
	made := d.ok("AuthorizeSecurityGroupIngress", "GroupId", g, "IpPermissions.1.IpProtocol", "icmp", "IpPermissions.1.FromPort", "8", "IpPermissions.1.ToPort", "-1",
		"IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/8", "IpPermissions.1.IpRanges.1.Description", "ping", "IpPermissions.1.IpRanges.2.CidrIp", "172.16.0.0/12",
		"TagSpecification.1.ResourceType", "security-group-rule", "TagSpecification.1.Tag.1.Key", "k", "TagSpecification.1.Tag.1.Value", "v")
	if rules() != before+2 || len(made.all("key")) != 2 {
		t.Errorf("%d rules, answer %s", rules(), made.body)
	}
	view := d.ok("DescribeSecurityGroups", "GroupId.1", g)
	if strings.Count(view.body, "<ipProtocol>icmp</ipProtocol>") != 1 || !strings.Contains(view.body, "<description>ping</description>") {
		t.Errorf("one permission with two ranges, got %s", view.body)
	}
	d.refused(errs.InvalidPermissionDuplicate, "AuthorizeSecurityGroupIngress", "GroupId", g, "IpProtocol", "icmp", "FromPort", "8", "ToPort", "-1", "CidrIp", "10.0.0.0/8")
	d.ok("RevokeSecurityGroupIngress", "GroupId", g, "SecurityGroupRuleId.1", made.all("securityGroupRuleId")[0])
	d.ok("RevokeSecurityGroupIngress", "GroupId", g, "IpProtocol", "icmp", "FromPort", "8", "ToPort", "-1", "CidrIp", "172.16.0.0/12")
	d.ok("RevokeSecurityGroupEgress", "GroupId", g, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
	if rules() != before-1 {
		t.Errorf("%d rules, want %d", rules(), before-1)
	}
	d.refused(errs.InvalidGroupNotFound, "AuthorizeSecurityGroupIngress", "GroupId", g, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.Groups.1.GroupId", missing[ids.SecurityGroup]())
	d.refused(errs.InvalidGroupNotFound, "AuthorizeSecurityGroupIngress", "GroupId", g, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.Groups.1.GroupId", g, "IpPermissions.1.Groups.1.UserId", "123456789012")
	d.refused(errs.UnsupportedOperation, "AuthorizeSecurityGroupIngress", "GroupId", g, "IpPermissions.1.IpProtocol", "-1", "IpPermissions.1.Ipv6Ranges.1.CidrIpv6", "::/0")
}

// blindVPC is a vpc that cannot describe interfaces.
type blindVPC struct{ vpc.Service }

func (blindVPC) Attached(context.Context, ids.Account, []ids.Interface, []ids.SecurityGroup) (map[ids.Interface]*vpc.Interface, map[ids.SecurityGroup]string, error) {
	return nil, nil, vpc.ErrBehind
}

// TestLaunchIsToldWhateverElseFails holds that a launch that was made is answered as made.
func TestLaunchIsToldWhateverElseFails(t *testing.T) {
	d := openDoor(t, 1)
	blind := *d
	blind.url = d.serve(func(o *server.Options) { o.VPC = blindVPC{o.VPC} })
	launched := blind.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	d.ok("DescribeInstances", "InstanceId.1", launched.one("instanceId"))
	if behind := blind.refused(errs.ServiceUnavailable, "DescribeInstances"); behind.status != http.StatusServiceUnavailable {
		t.Errorf("status %d", behind.status)
	}
}
