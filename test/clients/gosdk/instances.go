package main

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nimbrel/nimbrel/test/clients/internal/steps"
)

// launched is how many instances the walk launches: more than a page of five.
const launched = 6

func (l *life) launch(ctx context.Context) error {
	in := &ec2.RunInstancesInput{
		ImageId: &l.image, InstanceType: "nb1.tiny", MinCount: aws.Int32(launched), MaxCount: aws.Int32(launched), KeyName: aws.String("gosdk"),
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), SubnetId: &l.subnet, Groups: []string{l.group}}},
		UserData:          aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh"))), ClientToken: aws.String("gosdk-" + l.vpc),
		TagSpecifications: append(tagged("instance"), tagged("volume")...),
		MetadataOptions:   &types.InstanceMetadataOptionsRequest{HttpTokens: "required", HttpEndpoint: "enabled", HttpPutResponseHopLimit: aws.Int32(2)},
	}
	dry := *in
	dry.DryRun = aws.Bool(true)
	_, err := l.ec2.RunInstances(ctx, &dry)
	if err := steps.Refused("DryRunOperation", err); err != nil {
		return err
	}
	made, err := l.ec2.RunInstances(ctx, in)
	if err != nil {
		return err
	}
	for _, i := range made.Instances {
		l.instances = append(l.instances, *i.InstanceId)
	}
	l.Undo(func(ctx context.Context) error { return l.terminate(ctx) })
	again, err := l.ec2.RunInstances(ctx, in)
	if err != nil {
		return err
	}
	if err := steps.Same("the repeated launch", *again.ReservationId, *made.ReservationId); err != nil {
		return err
	}
	other := *in
	other.InstanceType = "t3.micro"
	_, err = l.ec2.RunInstances(ctx, &other)
	if err := steps.Refused("IdempotentParameterMismatch", err); err != nil {
		return err
	}
	return steps.Do(func() error { return l.running(ctx, l.instances...) }, func() error { return l.statusOK(ctx) })
}

func (l *life) running(ctx context.Context, instances ...string) error {
	wait := ec2.NewInstanceRunningWaiter(l.ec2, func(o *ec2.InstanceRunningWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: instances}, patience)
}

func (l *life) statusOK(ctx context.Context) error {
	wait := ec2.NewInstanceStatusOkWaiter(l.ec2, func(o *ec2.InstanceStatusOkWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeInstanceStatusInput{InstanceIds: l.instances}, patience)
}

func (l *life) describe(ctx context.Context) error {
	pages := ec2.NewDescribeInstancesPaginator(l.ec2, &ec2.DescribeInstancesInput{Filters: filtered("tag:walk", run)}, func(o *ec2.DescribeInstancesPaginatorOptions) { o.Limit = 5 })
	var seen []types.Instance
	count := 0
	for ; pages.HasMorePages(); count++ {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, r := range page.Reservations {
			seen = append(seen, r.Instances...)
		}
	}
	if err := steps.Expect(len(seen) == launched && count == 2, "%d instances on %d pages", len(seen), count); err != nil {
		return err
	}
	for _, i := range seen {
		l.volumes = append(l.volumes, *i.BlockDeviceMappings[0].Ebs.VolumeId)
		if err := steps.Expect(*i.SubnetId == l.subnet && i.State.Name == "running" && i.MetadataOptions.HttpTokens == "required", "%+v", i); err != nil {
			return err
		}
	}
	return steps.Do(
		func() error {
			return l.describeRefused(ctx, "InvalidInstanceID.Malformed", &ec2.DescribeInstancesInput{InstanceIds: []string{"i-xyz"}})
		},
		func() error {
			return l.describeRefused(ctx, "InvalidInstanceID.NotFound", &ec2.DescribeInstancesInput{InstanceIds: []string{noInstance}})
		},
		func() error {
			return l.describeRefused(ctx, "InvalidParameterCombination", &ec2.DescribeInstancesInput{InstanceIds: l.instances, MaxResults: aws.Int32(5)})
		},
		func() error {
			return l.describeRefused(ctx, "InvalidParameterValue", &ec2.DescribeInstancesInput{Filters: filtered("no-such-filter", "x")})
		},
	)
}

func (l *life) describeRefused(ctx context.Context, code string, in *ec2.DescribeInstancesInput) error {
	_, err := l.ec2.DescribeInstances(ctx, in)
	return steps.Refused(code, err)
}

func (l *life) attributes(ctx context.Context) error {
	one := l.instances[0]
	protect := func(on bool) error {
		_, err := l.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &one, DisableApiTermination: &types.AttributeBooleanValue{Value: &on}})
		return err
	}
	if err := protect(true); err != nil {
		return err
	}
	_, err := l.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{one}})
	if err := steps.Refused("OperationNotPermitted", err); err != nil {
		return err
	}
	if err := protect(false); err != nil {
		return err
	}
	shown, err := l.ec2.DescribeInstanceAttribute(ctx, &ec2.DescribeInstanceAttributeInput{InstanceId: &one, Attribute: "userData"})
	if err != nil {
		return err
	}
	if err := steps.Same("user data", aws.ToString(shown.UserData.Value), base64.StdEncoding.EncodeToString([]byte("#!/bin/sh"))); err != nil {
		return err
	}
	_, err = l.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: &one, UserData: &types.BlobAttributeValue{Value: []byte("x")}})
	return steps.Refused("IncorrectInstanceState", err)
}

func (l *life) power(ctx context.Context) error {
	one := l.instances[:1]
	if _, err := l.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: one}); err != nil {
		return err
	}
	wait := ec2.NewInstanceStoppedWaiter(l.ec2, func(o *ec2.InstanceStoppedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: one}, patience); err != nil {
		return err
	}
	if _, err := l.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: one}); err != nil {
		return err
	}
	if _, err := l.ec2.RebootInstances(ctx, &ec2.RebootInstancesInput{InstanceIds: l.instances[1:]}); err != nil {
		return err
	}
	return l.running(ctx, l.instances...)
}

func (l *life) tags(ctx context.Context) error {
	team := []types.Tag{{Key: aws.String("team"), Value: aws.String("a")}}
	targets := []string{l.instances[0], l.vpc}
	if _, err := l.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: targets, Tags: team}); err != nil {
		return err
	}
	count := func(want int) error {
		shown, err := l.ec2.DescribeTags(ctx, &ec2.DescribeTagsInput{Filters: filtered("key", "team")})
		if err != nil {
			return err
		}
		return steps.Same("tags", len(shown.Tags), want)
	}
	if err := count(2); err != nil {
		return err
	}
	if _, err := l.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: targets, Tags: team}); err != nil {
		return err
	}
	return count(0)
}

func (l *life) terminate(ctx context.Context) error {
	if _, err := l.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: l.instances}); err != nil {
		return err
	}
	wait := ec2.NewInstanceTerminatedWaiter(l.ec2, func(o *ec2.InstanceTerminatedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	return wait.Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: l.instances}, patience)
}

func (l *life) ends(ctx context.Context) error {
	for _, inUse := range []func(context.Context) error{l.deleteSubnet, l.deleteGroup, l.deleteVPC} {
		if err := steps.Refused("DependencyViolation", inUse(ctx)); err != nil {
			return err
		}
	}
	if err := l.terminate(ctx); err != nil {
		return err
	}
	wait := ec2.NewVolumeDeletedWaiter(l.ec2, func(o *ec2.VolumeDeletedWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
	if err := wait.Wait(ctx, &ec2.DescribeVolumesInput{VolumeIds: l.volumes}, patience); err != nil {
		return err
	}
	err := steps.Eventually(ctx, "the subnet can be deleted", func() (bool, error) {
		err := l.deleteSubnet(ctx)
		if steps.Code(err) == "DependencyViolation" {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, remove := range []func(context.Context) error{l.deleteGroup, l.deleteVPC, l.deleteKey, l.deleteKey} {
		if err := remove(ctx); err != nil {
			return err
		}
	}
	return steps.Refused("InvalidVpcID.NotFound", l.deleteVPC(ctx))
}
