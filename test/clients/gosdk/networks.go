package main

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

// run tells this walk's resources from those of an earlier one, whose terminated instances are still visible.
var run = fmt.Sprintf("gosdk-%x", time.Now().UnixNano())

// tagged is the tag by which the walk finds what is its own.
func tagged(kind types.ResourceType) []types.TagSpecification {
	return []types.TagSpecification{{ResourceType: kind, Tags: []types.Tag{{Key: aws.String("walk"), Value: &run}}}}
}

func filtered(name string, values ...string) []types.Filter {
	return []types.Filter{{Name: aws.String(name), Values: values}}
}

func (l *life) networks(ctx context.Context) error {
	made, err := l.ec2.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.33.0.0/16"), TagSpecifications: tagged("vpc")})
	if err != nil {
		return err
	}
	l.vpc = *made.Vpc.VpcId
	l.Undo(func(ctx context.Context) error { return l.deleteVPC(ctx) })
	wait := ec2.NewVpcAvailableWaiter(l.ec2, func(o *ec2.VpcAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{l.vpc}}, patience); err != nil {
		return err
	}
	names := &types.AttributeBooleanValue{Value: aws.Bool(true)}
	if _, err := l.ec2.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{VpcId: &l.vpc, EnableDnsHostnames: names}); err != nil {
		return err
	}
	attribute, err := l.ec2.DescribeVpcAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &l.vpc, Attribute: "enableDnsHostnames"})
	if err != nil || !aws.ToBool(attribute.EnableDnsHostnames.Value) {
		return fmt.Errorf("DNS host names are off: %w", err)
	}
	if err := l.makeSubnet(ctx); err != nil {
		return err
	}
	_, err = l.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &l.vpc, CidrBlock: aws.String("10.33.1.0/28")})
	if err := steps.Refused("InvalidSubnet.Conflict", err); err != nil {
		return err
	}
	_, err = l.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{noVPC}})
	return steps.Refused("InvalidVpcID.NotFound", err)
}

func (l *life) makeSubnet(ctx context.Context) error {
	made, err := l.ec2.CreateSubnet(ctx, &ec2.CreateSubnetInput{VpcId: &l.vpc, CidrBlock: aws.String("10.33.1.0/24"), AvailabilityZone: &l.zone, TagSpecifications: tagged("subnet")})
	if err != nil {
		return err
	}
	l.subnet = *made.Subnet.SubnetId
	l.Undo(func(ctx context.Context) error { return l.deleteSubnet(ctx) })
	wait := ec2.NewSubnetAvailableWaiter(l.ec2, func(o *ec2.SubnetAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{l.subnet}}, patience)
}

func (l *life) deleteVPC(ctx context.Context) error {
	_, err := l.ec2.DeleteVpc(ctx, &ec2.DeleteVpcInput{VpcId: &l.vpc})
	return err
}

func (l *life) deleteSubnet(ctx context.Context) error {
	_, err := l.ec2.DeleteSubnet(ctx, &ec2.DeleteSubnetInput{SubnetId: &l.subnet})
	return err
}

func (l *life) deleteGroup(ctx context.Context) error {
	_, err := l.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &l.group})
	return err
}

func (l *life) groups(ctx context.Context) error {
	named := &ec2.CreateSecurityGroupInput{VpcId: &l.vpc, GroupName: aws.String("gosdk"), Description: aws.String("of the Go SDK"), TagSpecifications: tagged("security-group")}
	made, err := l.ec2.CreateSecurityGroup(ctx, named)
	if err != nil {
		return err
	}
	l.group = *made.GroupId
	l.Undo(func(ctx context.Context) error { return l.deleteGroup(ctx) })
	wait := ec2.NewSecurityGroupExistsWaiter(l.ec2, func(o *ec2.SecurityGroupExistsWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{l.group}}, patience); err != nil {
		return err
	}
	_, err = l.ec2.CreateSecurityGroup(ctx, named)
	if err := steps.Refused("InvalidGroup.Duplicate", err); err != nil {
		return err
	}
	return l.rules(ctx)
}

func (l *life) rules(ctx context.Context) error {
	rules := []types.IpPermission{
		{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0"), Description: aws.String("ssh")}}},
		{IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &l.group}}},
	}
	allow := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &l.group, IpPermissions: rules}
	allowed, err := l.ec2.AuthorizeSecurityGroupIngress(ctx, allow)
	if err != nil {
		return err
	}
	if err := steps.Same("rules made", len(allowed.SecurityGroupRules), 2); err != nil {
		return err
	}
	_, err = l.ec2.AuthorizeSecurityGroupIngress(ctx, allow)
	if err := steps.Refused("InvalidPermission.Duplicate", err); err != nil {
		return err
	}
	revoke := &ec2.RevokeSecurityGroupIngressInput{GroupId: &l.group, IpPermissions: rules[:1]}
	if _, err := l.ec2.RevokeSecurityGroupIngress(ctx, revoke); err != nil {
		return err
	}
	_, err = l.ec2.RevokeSecurityGroupIngress(ctx, revoke)
	if err := steps.Refused("InvalidPermission.NotFound", err); err != nil {
		return err
	}
	shown, err := l.ec2.DescribeSecurityGroupRules(ctx, &ec2.DescribeSecurityGroupRulesInput{Filters: filtered("group-id", l.group)})
	if err != nil {
		return err
	}
	return steps.Same("rules left", len(shown.SecurityGroupRules), 2)
}

func (l *life) images(ctx context.Context) error {
	found, err := l.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: filtered("is-public", "true")})
	if err != nil || len(found.Images) == 0 {
		return fmt.Errorf("no public image: %w", err)
	}
	l.image = *found.Images[0].ImageId
	wait := ec2.NewImageAvailableWaiter(l.ec2, func(o *ec2.ImageAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeImagesInput{ImageIds: []string{l.image}}, patience); err != nil {
		return err
	}
	_, err = l.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{noImage}})
	return steps.Refused("InvalidAMIID.NotFound", err)
}

// registration makes an image of one's own of content that the cloud has, shares it, and removes it.
func (l *life) registration(ctx context.Context) error {
	base, err := l.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{l.image}})
	if err != nil {
		return err
	}
	made, err := l.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{Name: &run, ImageLocation: base.Images[0].ImageLocation, Architecture: "x86_64"})
	if err != nil {
		return err
	}
	l.Undo(func(ctx context.Context) error { return l.deregister(ctx, made.ImageId) })
	everybody := &types.LaunchPermissionModifications{Add: []types.LaunchPermission{{Group: "all"}}}
	if _, err := l.ec2.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: made.ImageId, LaunchPermission: everybody}); err != nil {
		return err
	}
	shown, err := l.ec2.DescribeImageAttribute(ctx, &ec2.DescribeImageAttributeInput{ImageId: made.ImageId, Attribute: "launchPermission"})
	if err != nil {
		return err
	}
	if err := steps.Same("launch permissions", shown.LaunchPermissions, everybody.Add); err != nil {
		return err
	}
	if err := l.deregister(ctx, made.ImageId); err != nil {
		return err
	}
	return steps.Refused("InvalidAMIID.NotFound", l.deregister(ctx, made.ImageId))
}

func (l *life) deregister(ctx context.Context, id *string) error {
	_, err := l.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: id})
	return err
}
