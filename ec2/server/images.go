package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
)

var imageFilters = makeImageFilters()

func makeImageFilters() filter.Table[*image.Image] {
	type item = *image.Image
	return filter.Table[item]{
		Values: map[string]func(item) []string{
			"architecture": one(func(i item) string { return i.Architecture }),
			"block-device-mapping.delete-on-termination": always[item]("true"),
			"block-device-mapping.device-name":           one(func(i item) string { return i.RootDeviceName }),
			"block-device-mapping.encrypted":             always[item]("false"),
			"block-device-mapping.snapshot-id":           one(func(i item) ids.Snapshot { return i.RootSnapshot }),
			"block-device-mapping.volume-size":           count(func(i item) int { return i.DiskGiB() }),
			"block-device-mapping.volume-type":           always[item](string(convert.VolumeType)),
			"boot-mode":                                  one(func(i item) string { return i.BootMode }),
			"creation-date":                              one(func(i item) string { return i.CreateTime.UTC().Format(filterTime) }),
			"description":                                one(func(i item) string { return i.Description }),
			"ena-support":                                always[item]("true"),
			"hypervisor":                                 always[item]("xen"),
			"image-id":                                   one(func(i item) ids.Image { return i.ID }),
			"image-type":                                 always[item]("machine"),
			"is-public":                                  yes(func(i item) bool { return i.Public }),
			"kernel-id":                                  never[item],
			"name":                                       one(func(i item) string { return i.Name }),
			"owner-alias":                                never[item],
			"owner-id":                                   one(func(i item) ids.Account { return i.Owner }),
			"platform":                                   never[item],
			"product-code":                               never[item],
			"product-code.type":                          never[item],
			"ramdisk-id":                                 never[item],
			"root-device-name":                           one(func(i item) string { return i.RootDeviceName }),
			"root-device-type":                           always[item]("ebs"),
			"state":                                      one(func(i item) string { return i.State.String() }),
			"state-reason-code":                          never[item],
			"state-reason-message":                       never[item],
			"sriov-net-support":                          never[item],
			"virtualization-type":                        always[item]("hvm"),
		},
		Tags: func(i item) map[string]string { return i.Tags },
	}
}

func (a *api) DescribeImages(ctx context.Context, in *ec2gen.DescribeImagesInput) (*ec2gen.DescribeImagesOutput, error) {
	s := selection{
		Filters: in.Filters, IDs: in.ImageIds, IDsName: "imageIds", Flags: append(slices.Clone(in.Owners), in.ExecutableUsers...),
		MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Limits{Min: 1, Max: 1000},
	}
	self := string(caller(ctx))
	read := func(ctx context.Context, owner ids.Account, want []ids.Image, match func(*image.Image) bool) ([]*image.Image, error) {
		return a.Image.DescribeImages(ctx, owner, want, func(i *image.Image) bool {
			return match(i) && (i.State == image.Available || len(want) > 0) && ownedBy(i, in.Owners, self) && launchableBy(i, in.ExecutableUsers, self)
		})
	}
	found, next, err := describe(ctx, s, imageFilters, read, func(i *image.Image) string { return string(i.ID) })
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeImagesOutput{Images: each(found, convert.Image), NextToken: next}, nil
}

// ownedBy tells whether one of the wanted owners owns the image: an account, or self. Aliases such as amazon own nothing.
func ownedBy(i *image.Image, owners []string, self string) bool {
	return len(owners) == 0 || slices.ContainsFunc(owners, func(owner string) bool {
		return owner == string(i.Owner) || (owner == "self" && self == string(i.Owner))
	})
}

// launchableBy tells whether one of the wanted users may launch the image by permission: all for public ones, or an
// account that it is shared with. An owner needs no permission, so its private images are nobody's.
func launchableBy(i *image.Image, users []string, self string) bool {
	return len(users) == 0 || slices.ContainsFunc(users, func(user string) bool {
		if user == "self" {
			user = self
		}
		return (user == "all" && i.Public) || slices.Contains(i.Users, ids.Account(user))
	})
}

func volumeFilters() filter.Table[*compute.Volume] {
	type item = *compute.Volume
	attached := func(get func(item) string) func(item) []string {
		return func(v item) []string {
			if v.Instance == "" {
				return nil
			}
			return []string{get(v)}
		}
	}
	return filter.Table[item]{
		Values: map[string]func(item) []string{
			"attachment.attach-time":           attached(func(v item) string { return v.CreateTime.UTC().Format(filterTime) }),
			"attachment.delete-on-termination": attached(func(v item) string { return fmt.Sprint(v.DeleteOnTermination) }),
			"attachment.device":                attached(func(v item) string { return v.Device }),
			"attachment.instance-id":           attached(func(v item) string { return string(v.Instance) }),
			"attachment.status":                attached(func(item) string { return "attached" }),
			"availability-zone":                one(func(v item) string { return v.Zone }),
			"create-time":                      one(func(v item) string { return v.CreateTime.UTC().Format(filterTime) }),
			"encrypted":                        always[item]("false"),
			"fast-restored":                    never[item],
			"multi-attach-enabled":             always[item]("false"),
			"size":                             count(func(v item) int { return v.SizeGiB }),
			"status":                           one(func(v item) string { return v.State.String() }),
			"volume-id":                        one(func(v item) ids.Volume { return v.ID }),
			"volume-type":                      always[item](string(convert.VolumeType)),
		},
		Tags: func(v item) map[string]string { return v.Tags },
	}
}

func (a *api) DescribeVolumes(ctx context.Context, in *ec2gen.DescribeVolumesInput) (*ec2gen.DescribeVolumesOutput, error) {
	snapshots, err := a.rootSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	table := volumeFilters()
	table.Values["snapshot-id"] = one(func(v *compute.Volume) ids.Snapshot { return snapshots[v.Image] })
	s := selection{Filters: in.Filters, IDs: in.VolumeIds, IDsName: "volumeIds", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	found, next, err := describe(ctx, s, table, a.Compute.DescribeVolumes, func(v *compute.Volume) string { return string(v.ID) })
	if err != nil {
		return nil, err
	}
	convertOne := func(v *compute.Volume) ec2gen.Volume { return convert.Volume(v, snapshots[v.Image]) }
	return &ec2gen.DescribeVolumesOutput{Volumes: each(found, convertOne), NextToken: next}, nil
}

// rootSnapshots are the snapshots that volumes began as, by image.
func (a *api) rootSnapshots(ctx context.Context) (map[ids.Image]ids.Snapshot, error) {
	images, err := a.Image.DescribeImages(ctx, caller(ctx), nil, nil)
	byImage := make(map[ids.Image]ids.Snapshot, len(images))
	for _, i := range images {
		byImage[i.ID] = i.RootSnapshot
	}
	return byImage, err
}
