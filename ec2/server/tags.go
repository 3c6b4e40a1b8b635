package server

import (
	"context"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// tagsOf reads the tags of a creating request by resource type. Only the given types may be tagged by it.
func tagsOf(specifications []ec2gen.TagSpecification, allowed ...ec2gen.ResourceType) (map[ec2gen.ResourceType]map[string]string, error) {
	byType := make(map[ec2gen.ResourceType]map[string]string)
	for _, s := range specifications {
		if s.ResourceType == nil {
			return nil, errs.New(errs.InvalidParameterValue, "Tag specification resource type must have a value")
		}
		kind := *s.ResourceType
		if !slices.Contains(allowed, kind) {
			return nil, errs.New(errs.InvalidParameterValue, "'%s' is not a valid taggable resource type for this operation.", kind)
		}
		if byType[kind] != nil {
			return nil, errs.New(errs.InvalidParameterValue, "The same resource type may not be specified more than once in tag specifications")
		}
		tags, err := tagSet(s.Tags)
		if err != nil {
			return nil, err
		}
		byType[kind] = tags
	}
	return byType, nil
}

// createTags is tagsOf for an action that makes resources of one type.
func createTags(specifications []ec2gen.TagSpecification, kind ec2gen.ResourceType) (map[string]string, error) {
	byType, err := tagsOf(specifications, kind)
	return byType[kind], err
}

// tagSet reads and checks a list of tags. A tag without a value has the empty one.
func tagSet(list []ec2gen.Tag) (map[string]string, error) {
	tags := make(map[string]string, len(list))
	for _, tag := range list {
		if tag.Key == nil {
			return nil, errs.New(errs.InvalidParameterValue, "Tag key cannot be null")
		}
		if _, twice := tags[*tag.Key]; twice {
			return nil, errs.New(errs.InvalidParameterValue, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		tags[*tag.Key] = deref(tag.Value)
	}
	return tags, account.ValidateTags("", tags)
}

// taggedResources checks the resources of a tag call.
func taggedResources(resources []string) error {
	if len(resources) == 0 {
		return errs.Missing("ResourceId.1")
	}
	if len(resources) > account.MaxTagResources {
		return errs.New(errs.InvalidParameterValue, "The request names %d resources; at most %d are allowed.", len(resources), account.MaxTagResources)
	}
	for _, resource := range resources {
		if err := convert.Resource(resource).Check(); err != nil {
			return err
		}
	}
	return nil
}

func (a *api) CreateTags(ctx context.Context, in *ec2gen.CreateTagsInput) (*ec2gen.CreateTagsOutput, error) {
	if err := taggedResources(in.Resources); err != nil {
		return nil, err
	}
	if len(in.Tags) == 0 {
		return nil, errs.Missing("Tag.1")
	}
	tags, err := tagSet(in.Tags)
	if err != nil {
		return nil, err
	}
	if dryRun(ctx) != nil {
		return nil, orDryRun(a.resourcesExist(ctx, in.Resources))
	}
	return nil, a.Tags.CreateTags(ctx, caller(ctx), in.Resources, tags)
}

func (a *api) DeleteTags(ctx context.Context, in *ec2gen.DeleteTagsInput) (*ec2gen.DeleteTagsOutput, error) {
	if err := taggedResources(in.Resources); err != nil {
		return nil, err
	}
	var deletions []account.TagDeletion
	for _, tag := range in.Tags {
		if tag.Key == nil {
			return nil, errs.New(errs.InvalidParameterValue, "Tag key cannot be null")
		}
		deletions = append(deletions, account.TagDeletion{Key: *tag.Key, Value: tag.Value})
	}
	if dryRun(ctx) != nil {
		return nil, orDryRun(a.resourcesExist(ctx, in.Resources))
	}
	return nil, a.Tags.DeleteTags(ctx, caller(ctx), in.Resources, deletions)
}

// resourcesExist checks for a dry run that the account owns what a tag call names. The call itself is guarded at commit.
func (a *api) resourcesExist(ctx context.Context, resources []string) error {
	describe := map[string]func(id string) error{
		"i":      exists(ctx, a.Compute.DescribeInstances),
		"vol":    exists(ctx, a.Compute.DescribeVolumes),
		"vpc":    exists(ctx, a.VPC.DescribeVPCs),
		"subnet": exists(ctx, a.VPC.DescribeSubnets),
		"sg":     exists(ctx, a.VPC.DescribeGroups),
		"sgr":    exists(ctx, a.VPC.DescribeRules),
		"eni":    exists(ctx, a.VPC.DescribeInterfaces),
		"rtb":    exists(ctx, a.VPC.DescribeRouteTables),
		"acl":    exists(ctx, a.VPC.DescribeNetworkACLs),
		"dopt":   exists(ctx, a.VPC.DescribeDHCPOptions),
		"ami": func(id string) error {
			found, err := a.Image.DescribeImages(ctx, caller(ctx), []ids.Image{ids.Image(id)}, nil)
			if err == nil && found[0].Owner != caller(ctx) {
				return errs.NotFound(ids.Image(id)) // as the call itself says: tags are the owner's
			}
			return err
		},
		"key": func(id string) error {
			_, err := a.Account.DescribeKeyPairs(ctx, caller(ctx), account.KeyPairSelection{IDs: []ids.KeyPair{ids.KeyPair(id)}}, nil)
			return err
		},
	}
	for _, resource := range resources {
		kind, _, _ := strings.Cut(resource, "-")
		check := describe[kind]
		if check == nil {
			return convert.Resource(resource).NotFound()
		}
		if err := check(resource); err != nil {
			return err
		}
	}
	return nil
}

// exists makes a check of one id of a Describe method.
func exists[ID ids.ID, T, R any](ctx context.Context, read reader[ID, T, R]) func(id string) error {
	return func(id string) error {
		_, err := read(ctx, caller(ctx), []ID{ID(id)}, nil)
		return err
	}
}

var tagFilters = filter.Table[*account.Tag]{
	Values: map[string]func(*account.Tag) []string{
		"key":           func(t *account.Tag) []string { return []string{t.Key} },
		"value":         func(t *account.Tag) []string { return []string{t.Value} },
		"resource-id":   func(t *account.Tag) []string { return []string{t.Resource} },
		"resource-type": func(t *account.Tag) []string { return []string{t.Kind} },
	},
	Tags: func(t *account.Tag) map[string]string { return map[string]string{t.Key: t.Value} },
}

func (a *api) DescribeTags(ctx context.Context, in *ec2gen.DescribeTagsInput) (*ec2gen.DescribeTagsOutput, error) {
	match, err := filter.Compile(tagFilters, in.Filters)
	if err != nil {
		return nil, err
	}
	tags, err := a.Tags.DescribeTags(ctx, caller(ctx), match)
	if err != nil {
		return nil, err
	}
	s := selection{Filters: in.Filters, MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	tags, next, err := page.Cut(tags, func(t account.Tag) string { return strings.Join([]string{t.Resource, t.Key}, "\x00") }, s.page(ctx))
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeTagsOutput{Tags: each(tags, convert.Tag), NextToken: next}, nil
}
