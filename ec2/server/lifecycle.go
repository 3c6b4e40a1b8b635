package server

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// targets checks the instances that a lifecycle action names: that they are well formed and, in a dry run, that they exist.
func (a *api) targets(ctx context.Context, texts []string) ([]ids.Instance, error) {
	list, err := requireIDs[ids.Instance](texts, "InstanceId.1")
	if err != nil {
		return nil, err
	}
	if dryRun(ctx) != nil {
		_, err := a.Compute.DescribeInstances(ctx, caller(ctx), list, nil)
		return nil, orDryRun(err)
	}
	return list, nil
}

func (a *api) StartInstances(ctx context.Context, in *ec2gen.StartInstancesInput) (*ec2gen.StartInstancesOutput, error) {
	list, err := a.targets(ctx, in.InstanceIds)
	if err != nil {
		return nil, err
	}
	changes, err := a.Compute.StartInstances(ctx, caller(ctx), list)
	if err != nil {
		return nil, err
	}
	return &ec2gen.StartInstancesOutput{StartingInstances: convert.StateChanges(changes)}, nil
}

func (a *api) StopInstances(ctx context.Context, in *ec2gen.StopInstancesInput) (*ec2gen.StopInstancesOutput, error) {
	list, err := a.targets(ctx, in.InstanceIds)
	if err != nil {
		return nil, err
	}
	changes, err := a.Compute.StopInstances(ctx, caller(ctx), list, deref(in.Force))
	if err != nil {
		return nil, err
	}
	return &ec2gen.StopInstancesOutput{StoppingInstances: convert.StateChanges(changes)}, nil
}

func (a *api) RebootInstances(ctx context.Context, in *ec2gen.RebootInstancesInput) (*ec2gen.RebootInstancesOutput, error) {
	list, err := a.targets(ctx, in.InstanceIds)
	if err != nil {
		return nil, err
	}
	return nil, a.Compute.RebootInstances(ctx, caller(ctx), list)
}

func (a *api) TerminateInstances(ctx context.Context, in *ec2gen.TerminateInstancesInput) (*ec2gen.TerminateInstancesOutput, error) {
	list, err := a.targets(ctx, in.InstanceIds)
	if err != nil {
		return nil, err
	}
	changes, err := a.Compute.TerminateInstances(ctx, caller(ctx), list)
	if err != nil {
		return nil, err
	}
	return &ec2gen.TerminateInstancesOutput{TerminatingInstances: convert.StateChanges(changes)}, nil
}

func (a *api) DescribeInstanceAttribute(ctx context.Context, in *ec2gen.DescribeInstanceAttributeInput) (*ec2gen.DescribeInstanceAttributeOutput, error) {
	if in.Attribute == nil {
		return nil, errs.Missing("Attribute")
	}
	id, err := requireID[ids.Instance](in.InstanceId, "InstanceId")
	if err != nil {
		return nil, err
	}
	view, err := a.oneInstance(ctx, id)
	if err != nil {
		return nil, err
	}
	out, offered := convert.Attribute(view, *in.Attribute)
	if !offered {
		return nil, errs.New(errs.UnsupportedInstanceAttribute, "The attribute %s is not offered by this cloud.", *in.Attribute)
	}
	return out, nil
}

func (a *api) ModifyInstanceAttribute(ctx context.Context, in *ec2gen.ModifyInstanceAttributeInput) (*ec2gen.ModifyInstanceAttributeOutput, error) {
	id, err := requireID[ids.Instance](in.InstanceId, "InstanceId")
	if err != nil {
		return nil, err
	}
	if err := byName(in); err != nil {
		return nil, err
	}
	change, err := attributeChange(in)
	if err != nil {
		return nil, err
	}
	if len(in.BlockDeviceMappings) > 0 || dryRun(ctx) != nil {
		view, err := a.oneInstance(ctx, id)
		if err != nil {
			return nil, err
		}
		if change.DeleteRootOnTerminate, err = keepRoot(in.BlockDeviceMappings, view); err != nil {
			return nil, err
		}
	}
	if err := dryRun(ctx); err != nil {
		return nil, cmp.Or(a.groupsExist(ctx, change.Groups), err)
	}
	if reflect.ValueOf(change).IsZero() {
		return nil, a.exists(ctx, id) // what was asked for is how every instance is
	}
	return nil, a.Compute.ModifyInstanceAttributes(ctx, caller(ctx), id, change)
}

func (a *api) groupsExist(ctx context.Context, list []ids.SecurityGroup) error {
	if len(list) == 0 {
		return nil
	}
	_, err := a.VPC.DescribeGroups(ctx, caller(ctx), list, nil)
	return err
}

func (a *api) exists(ctx context.Context, id ids.Instance) error {
	_, err := a.oneInstance(ctx, id)
	return err
}

// byName turns the form Attribute=name, Value=text into the attribute's own parameter.
func byName(in *ec2gen.ModifyInstanceAttributeInput) error {
	if in.Attribute == nil {
		return nil
	}
	if in.Value == nil {
		if in.Attribute != nil && len(in.BlockDeviceMappings) > 0 {
			return nil
		}
		return errs.Missing("Value")
	}
	switch *in.Attribute {
	case ec2gen.InstanceAttributeNameDisableApiTermination:
		on, err := strconv.ParseBool(*in.Value)
		if err != nil {
			return errs.Invalid("Value", *in.Value, "It must be true or false.")
		}
		in.DisableApiTermination = &ec2gen.AttributeBooleanValue{Value: new(on)}
	case ec2gen.InstanceAttributeNameSourceDestCheck:
		on, err := strconv.ParseBool(*in.Value)
		if err != nil {
			return errs.Invalid("Value", *in.Value, "It must be true or false.")
		}
		in.SourceDestCheck = &ec2gen.AttributeBooleanValue{Value: new(on)}
	case ec2gen.InstanceAttributeNameInstanceType:
		in.InstanceType = &ec2gen.AttributeValue{Value: in.Value}
	case ec2gen.InstanceAttributeNameInstanceInitiatedShutdownBehavior:
		in.InstanceInitiatedShutdownBehavior = &ec2gen.AttributeValue{Value: in.Value}
	case ec2gen.InstanceAttributeNameUserData:
		data, err := userData(in.Value)
		if err != nil {
			return err
		}
		in.UserData = &ec2gen.BlobAttributeValue{Value: data}
	default:
		return errs.RefusedParameter("Attribute="+string(*in.Attribute), "It cannot be modified.")
	}
	return nil
}

// attributeChange reads the one attribute that is to change. Accepted attributes without effect count as one too.
func attributeChange(in *ec2gen.ModifyInstanceAttributeInput) (change compute.Attributes, err error) {
	var given []string
	add := func(name string, there bool) bool {
		if there {
			given = append(given, name)
		}
		return there
	}
	if add("disableApiTermination", in.DisableApiTermination != nil) {
		change.DisableAPITermination = in.DisableApiTermination.Value
	}
	if add("instanceInitiatedShutdownBehavior", in.InstanceInitiatedShutdownBehavior != nil) {
		behavior, err := shutdownBehavior(deref(in.InstanceInitiatedShutdownBehavior.Value))
		if err != nil {
			return change, err
		}
		change.ShutdownBehavior = &behavior
	}
	if add("userData", in.UserData != nil) {
		change.UserData = &in.UserData.Value
	}
	if add("instanceType", in.InstanceType != nil) {
		if change.Type = in.InstanceType.Value; deref(change.Type) == "" {
			return change, errs.Missing("InstanceType.Value")
		}
		if _, known := compute.TypeNamed(*change.Type); !known {
			return change, errs.New(errs.InvalidInstanceAttributeValue, "Invalid value '%.64s' for instanceType.", *change.Type)
		}
	}
	if add("groupSet", len(in.Groups) > 0) {
		if change.Groups, err = parseIDs[ids.SecurityGroup](in.Groups); err != nil {
			return change, err
		}
	}
	if add("sourceDestCheck", in.SourceDestCheck != nil) {
		change.SourceDestCheck = in.SourceDestCheck.Value
	}
	add("blockDeviceMapping", len(in.BlockDeviceMappings) > 0)
	add("ebsOptimized", in.EbsOptimized != nil)
	add("enaSupport", in.EnaSupport != nil)
	add("disableApiStop", in.DisableApiStop != nil)
	switch len(given) {
	case 0:
		return change, errs.New(errs.InvalidParameterCombination, "No attributes specified.")
	case 1:
		return change, nil
	}
	return change, errs.New(errs.InvalidParameterCombination, "Fields for multiple attribute types specified: %s", strings.Join(given, ", "))
}

func shutdownBehavior(text string) (compute.ShutdownBehavior, error) {
	switch text {
	case "stop":
		return compute.ShutdownStops, nil
	case "terminate":
		return compute.ShutdownTerminates, nil
	}
	return 0, errs.Invalid("InstanceInitiatedShutdownBehavior", text, "It must be stop or terminate.")
}

// keepRoot reads what a mapping says of the root disk. nil when there is none.
func keepRoot(mappings []ec2gen.InstanceBlockDeviceMappingSpecification, v convert.View) (*bool, error) {
	var deletes *bool
	for i, m := range mappings {
		name := fmt.Sprintf("BlockDeviceMapping.%d.", i+1)
		if device := deref(m.DeviceName); device != v.RootDeviceName {
			return nil, errs.New(errs.InvalidInstanceAttributeValue, "No device is currently mapped at %.64s; the root device is %s", device, v.RootDeviceName)
		}
		if m.Ebs == nil || m.Ebs.DeleteOnTermination == nil {
			return nil, errs.Missing(name + "Ebs.DeleteOnTermination")
		}
		if volume := deref(m.Ebs.VolumeId); volume != "" && volume != string(v.RootVolume) {
			return nil, errs.Invalid(name+"Ebs.VolumeId", volume, "The root volume is "+string(v.RootVolume)+".")
		}
		deletes = m.Ebs.DeleteOnTermination
	}
	return deletes, nil
}
