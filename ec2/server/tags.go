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
		return nil, orDryRun(a.Tags.CheckResources(ctx, caller(ctx), in.Resources))
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
		return nil, orDryRun(a.Tags.CheckResources(ctx, caller(ctx), in.Resources))
	}
	return nil, a.Tags.DeleteTags(ctx, caller(ctx), in.Resources, deletions)
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
