package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// RegisterImage makes an image of content that the catalogue has. EC2 names content by a snapshot, and so does this: by
// the root snapshot of an image that the account may launch. ImageLocation, which EC2 uses for bundles in S3, names it by
// the location that DescribeImages shows of such an image.
func (a *api) RegisterImage(ctx context.Context, in *ec2gen.RegisterImageInput) (*ec2gen.RegisterImageOutput, error) {
	if deref(in.Name) == "" {
		return nil, errs.Missing("Name")
	}
	r := image.Request{
		Account: caller(ctx), Name: *in.Name, Description: deref(in.Description), Architecture: string(deref(in.Architecture)),
		BootMode: string(deref(in.BootMode)), Source: image.Source{Location: deref(in.ImageLocation)},
	}
	if root := deref(in.RootDeviceName); root != "" && root != image.RootDeviceName {
		return nil, errs.Invalid("RootDeviceName", root, "The root device of every image is "+image.RootDeviceName+".")
	}
	if err := readRootMapping(&r, in.BlockDeviceMappings); err != nil {
		return nil, err
	}
	if r.Source == (image.Source{}) {
		return nil, errs.New(errs.MissingParameter, "The request must contain the parameter BlockDeviceMapping.1.Ebs.SnapshotId, or ImageLocation: the root snapshot or the location of an image as DescribeImages shows them")
	}
	var err error
	if r.Tags, err = createTags(in.TagSpecifications, ec2gen.ResourceTypeImage); err != nil {
		return nil, err
	}
	made, err := a.Image.Register(ctx, r, dryRun(ctx) != nil)
	if err != nil || made == nil {
		return nil, orDryRun(err)
	}
	return &ec2gen.RegisterImageOutput{ImageId: new(string(made.ID))}, nil
}

// readRootMapping reads what the one mapping says of the content and the size of the root disk.
func readRootMapping(r *image.Request, mappings []ec2gen.BlockDeviceMapping) (err error) {
	for i, m := range mappings {
		name := fmt.Sprintf("BlockDeviceMapping.%d.", i+1)
		if device := deref(m.DeviceName); device != image.RootDeviceName || i > 0 {
			return errs.New(errs.InvalidBlockDeviceMapping, "%sDeviceName '%.64s': an image has one disk, its root device %s", name, device, image.RootDeviceName)
		}
		if m.Ebs == nil {
			continue
		}
		if r.Source.Snapshot, err = optionalID[ids.Snapshot](m.Ebs.SnapshotId); err != nil {
			return err
		}
		if r.Source.Snapshot != "" && r.Source.Location != "" {
			return errs.New(errs.InvalidParameterCombination, "The parameters ImageLocation and %sEbs.SnapshotId cannot be used together", name)
		}
		if size := m.Ebs.VolumeSize; size != nil {
			if *size < 1 {
				return errs.Invalid(name+"Ebs.VolumeSize", fmt.Sprint(*size), "It must be at least 1.")
			}
			r.RootDiskGiB = int(*size)
		}
	}
	return nil
}

func (a *api) DeregisterImage(ctx context.Context, in *ec2gen.DeregisterImageInput) (*ec2gen.DeregisterImageOutput, error) {
	id, err := requireID[ids.Image](in.ImageId, "ImageId")
	if err != nil {
		return nil, err
	}
	if dryRun(ctx) != nil {
		return nil, orDryRun(a.Image.Deregister(ctx, caller(ctx), id, true))
	}
	return nil, a.Image.Deregister(ctx, caller(ctx), id, false)
}

func (a *api) DescribeImageAttribute(ctx context.Context, in *ec2gen.DescribeImageAttributeInput) (*ec2gen.ImageAttribute, error) {
	if in.Attribute == nil {
		return nil, errs.Missing("Attribute")
	}
	id, err := requireID[ids.Image](in.ImageId, "ImageId")
	if err != nil {
		return nil, err
	}
	found, err := a.Image.DescribeImages(ctx, caller(ctx), []ids.Image{id}, nil)
	if err != nil || len(found) == 0 {
		return nil, orNotFound(err, id)
	}
	if found[0].Owner != caller(ctx) {
		return nil, &image.OwnerError{ID: id}
	}
	return convert.ImageAttribute(found[0], *in.Attribute), nil
}

func (a *api) ModifyImageAttribute(ctx context.Context, in *ec2gen.ModifyImageAttributeInput) (*ec2gen.ModifyImageAttributeOutput, error) {
	id, err := requireID[ids.Image](in.ImageId, "ImageId")
	if err != nil {
		return nil, err
	}
	change, err := imageChange(in)
	if err != nil {
		return nil, err
	}
	if len(change.Add) > 0 { // who may not change the image is not told either which accounts exist
		if err := a.Image.Modify(ctx, caller(ctx), id, change, true); err != nil {
			return nil, err
		}
	}
	if err := a.checkAccounts(ctx, change.Add); err != nil {
		return nil, err
	}
	return nil, a.modifyImage(ctx, id, change)
}

func (a *api) ResetImageAttribute(ctx context.Context, in *ec2gen.ResetImageAttributeInput) (*ec2gen.ResetImageAttributeOutput, error) {
	if in.Attribute == nil {
		return nil, errs.Missing("Attribute")
	}
	id, err := requireID[ids.Image](in.ImageId, "ImageId")
	if err != nil {
		return nil, err
	}
	return nil, a.modifyImage(ctx, id, image.Change{Public: new(false), ClearUsers: true})
}

func (a *api) modifyImage(ctx context.Context, id ids.Image, change image.Change) error {
	if dryRun(ctx) != nil {
		return orDryRun(a.Image.Modify(ctx, caller(ctx), id, change, true))
	}
	return a.Image.Modify(ctx, caller(ctx), id, change, false)
}

// imageChange reads the one attribute that is to change, in either form: under its own name, or as Attribute with Value or
// OperationType.
func imageChange(in *ec2gen.ModifyImageAttributeInput) (image.Change, error) {
	if err := imageAttributeByName(in); err != nil {
		return image.Change{}, err
	}
	switch {
	case in.Description != nil && in.LaunchPermission != nil:
		return image.Change{}, errs.New(errs.InvalidParameterCombination, "Fields for multiple attribute types specified: description, launchPermission")
	case in.Description != nil:
		return image.Change{Description: new(deref(in.Description.Value))}, nil
	case in.LaunchPermission != nil:
		return permissionChange(in.LaunchPermission)
	}
	return image.Change{}, errs.New(errs.InvalidParameterCombination, "No attributes specified.")
}

func imageAttributeByName(in *ec2gen.ModifyImageAttributeInput) error {
	given := len(in.UserIds) + len(in.UserGroups)
	switch name := deref(in.Attribute); {
	case name == "description" || (name == "" && in.Value != nil):
		if in.Value == nil && in.Description == nil {
			return errs.Missing("Value")
		}
		if in.Value != nil {
			in.Description = &ec2gen.AttributeValue{Value: in.Value}
		}
		return nil
	case name != "" && name != "launchPermission":
		return errs.RefusedParameter("Attribute="+name, "What can be modified is description and launchPermission.")
	case given == 0 && in.OperationType == nil:
		return nil
	case given == 0:
		return errs.New(errs.MissingParameter, "The request must contain the parameter UserId.1 or UserGroup.1")
	case in.OperationType == nil:
		return errs.Missing("OperationType")
	case in.LaunchPermission != nil:
		return errs.New(errs.InvalidParameterCombination, "The parameters LaunchPermission and OperationType cannot be used together")
	}
	var list []ec2gen.LaunchPermission
	for _, id := range in.UserIds {
		list = append(list, ec2gen.LaunchPermission{UserId: new(id)})
	}
	for _, group := range in.UserGroups {
		list = append(list, ec2gen.LaunchPermission{Group: new(ec2gen.PermissionGroup(group))})
	}
	in.LaunchPermission = &ec2gen.LaunchPermissionModifications{Add: list}
	if *in.OperationType == ec2gen.OperationTypeRemove {
		in.LaunchPermission = &ec2gen.LaunchPermissionModifications{Remove: list}
	}
	return nil
}

func permissionChange(m *ec2gen.LaunchPermissionModifications) (change image.Change, err error) {
	if len(m.Add)+len(m.Remove) == 0 {
		return change, errs.New(errs.InvalidParameterCombination, "No attributes specified.")
	}
	read := func(list []ec2gen.LaunchPermission, public bool) (users []ids.Account, err error) {
		for _, p := range list {
			switch {
			case p.UserId != nil && p.Group != nil, p.UserId == nil && p.Group == nil:
				return nil, errs.New(errs.InvalidParameterCombination, "A launch permission has either a Group or a UserId")
			case p.Group != nil && *p.Group != ec2gen.PermissionGroupAll:
				return nil, badItem(string(*p.Group), "group")
			case p.Group != nil:
				change.Public = new(public)
			case !isAccount(*p.UserId):
				return nil, badItem(*p.UserId, "userId")
			default:
				users = append(users, ids.Account(*p.UserId))
			}
		}
		return users, nil
	}
	if change.Add, err = read(m.Add, true); err != nil {
		return change, err
	}
	change.Remove, err = read(m.Remove, false)
	return change, err
}

func badItem(value, item string) error {
	return errs.New(errs.InvalidAMIAttributeItemValue, "Invalid attribute item value \"%.64s\" for %s item type.", value, item)
}

func isAccount(text string) bool { return len(text) == 12 && strings.Trim(text, "0123456789") == "" }

// checkAccounts refuses to permit anything to accounts that do not exist.
func (a *api) checkAccounts(ctx context.Context, list []ids.Account) error {
	if len(list) == 0 {
		return nil
	}
	known, err := a.Account.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, id := range list {
		if !slices.ContainsFunc(known, func(k account.Account) bool { return k.ID == id }) {
			return badItem(string(id), "userId")
		}
	}
	return nil
}
