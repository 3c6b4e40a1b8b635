package main

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

func (s *stack) createInstance(ctx context.Context) error {
	made, err := s.ec2.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: &s.image, InstanceType: "t3.micro", MinCount: aws.Int32(1), MaxCount: aws.Int32(1), KeyName: aws.String("terraform"),
		ClientToken: aws.String("terraform-" + s.vpc), SubnetId: &s.subnet, SecurityGroupIds: []string{s.group}, EbsOptimized: aws.Bool(false),
		Monitoring: &types.RunInstancesMonitoringEnabled{Enabled: aws.Bool(false)}, TagSpecifications: tags("instance"),
		DisableApiTermination: aws.Bool(true),
	})
	if err != nil {
		return err
	}
	s.instance = *made.Instances[0].InstanceId
	s.Undo(func(ctx context.Context) error { return s.deleteInstance(ctx) })
	return s.running(ctx)
}

func (s *stack) running(ctx context.Context) error {
	wait := ec2.NewInstanceRunningWaiter(s.ec2, func(o *ec2.InstanceRunningWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance}}, patience)
}

// instanceAttributes are those that every refresh of an instance reads.
var instanceAttributes = []types.InstanceAttributeName{"disableApiStop", "disableApiTermination", "instanceInitiatedShutdownBehavior", "userData"}

func (s *stack) readInstance(ctx context.Context, state map[string]any) error {
	shown, err := s.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance}})
	if err != nil {
		return err
	}
	i := shown.Reservations[0].Instances[0]
	state["instance"] = i
	for _, name := range instanceAttributes {
		a, err := s.ec2.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &s.instance, Attribute: name})
		if err != nil {
			return err
		}
		state["instance "+string(name)] = []any{a.DisableApiStop, a.DisableApiTermination, a.InstanceInitiatedShutdownBehavior, a.UserData}
	}
	types, err := s.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{i.InstanceType}})
	if err != nil {
		return err
	}
	volumes, err := s.ec2.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*i.BlockDeviceMappings[0].Ebs.VolumeId}})
	if err != nil {
		return err
	}
	state["type"], state["volumes"] = types.InstanceTypes, volumes.Volumes
	return s.creditSpecification(ctx)
}

// creditSpecification is read of burstable types. The provider takes UnsupportedOperation for a partition without it.
func (s *stack) creditSpecification(ctx context.Context) error {
	_, err := s.ec2.DescribeInstanceCreditSpecifications(ctx, &ec2.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{s.instance}})
	if err == nil {
		return nil
	}
	return steps.Refused("UnsupportedOperation", err)
}

// update changes in place what can be: tags, a rule, termination protection, and user data across a stop.
func (s *stack) update(ctx context.Context) error {
	return steps.Do(
		func() error { return s.updateTags(ctx) },
		func() error { return s.updateRule(ctx) },
		func() error { return s.protect(ctx, false) },
		func() error { return s.updateUserData(ctx) },
	)
}

func (s *stack) updateTags(ctx context.Context) error {
	if _, err := s.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{s.instance}, Tags: []types.Tag{{Key: aws.String("Name")}}}); err != nil {
		return err
	}
	_, err := s.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{s.instance, s.vpc}, Tags: []types.Tag{{Key: aws.String("stage"), Value: aws.String("2")}}})
	return err
}

// updateRule revokes the rule that is no more and authorizes the new one.
func (s *stack) updateRule(ctx context.Context) error {
	if _, err := s.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &s.group, IpPermissions: rule(22)}); err != nil {
		return err
	}
	return s.allow(ctx, 2222)
}

func (s *stack) protect(ctx context.Context, on bool) error {
	_, err := s.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &s.instance, DisableApiTermination: &types.AttributeBooleanValue{Value: &on}})
	return err
}

func (s *stack) updateUserData(ctx context.Context) error {
	if _, err := s.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{s.instance}}); err != nil {
		return err
	}
	wait := ec2.NewInstanceStoppedWaiter(s.ec2, func(o *ec2.InstanceStoppedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance}}, patience); err != nil {
		return err
	}
	data := &types.BlobAttributeValue{Value: []byte("#!/bin/sh\n# second\n")}
	if _, err := s.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &s.instance, UserData: data}); err != nil {
		return err
	}
	if _, err := s.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{s.instance}}); err != nil {
		return err
	}
	return s.running(ctx)
}

// deleteInstance ends protection first, as the provider does whatever the configuration said.
func (s *stack) deleteInstance(ctx context.Context) error {
	if err := s.protect(ctx, false); err != nil {
		return err
	}
	if _, err := s.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{s.instance}}); err != nil {
		return err
	}
	wait := ec2.NewInstanceTerminatedWaiter(s.ec2, func(o *ec2.InstanceTerminatedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{s.instance}}, patience)
}

// destroy deletes in the order of the graph.
func (s *stack) destroy(ctx context.Context) error {
	return steps.Do(
		func() error { return s.deleteInstance(ctx) },
		func() error { return s.deleteKey(ctx) },
		func() error { return retried(ctx, "the subnet", s.deleteSubnet) },
		func() error { return retried(ctx, "the group", s.deleteGroup) },
		func() error { return retried(ctx, "the VPC", s.deleteVPC) },
	)
}

// gone reads everything once more, for the provider takes these codes, and no others, for "destroyed".
func (s *stack) gone(ctx context.Context) error {
	_, vpc := s.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{VpcIds: []string{s.vpc}})
	_, subnet := s.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{s.subnet}})
	_, group := s.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{s.group}})
	_, key := s.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{"terraform"}})
	return steps.Do(
		func() error { return steps.Refused("InvalidVpcID.NotFound", vpc) },
		func() error { return steps.Refused("InvalidSubnetID.NotFound", subnet) },
		func() error { return steps.Refused("InvalidGroup.NotFound", group) },
		func() error { return steps.Refused("InvalidKeyPair.NotFound", key) },
	)
}
