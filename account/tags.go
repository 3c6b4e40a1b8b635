package account

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Tag is one key and value on one resource.
type Tag struct {
	Resource string // id
	Kind     string // EC2's resource type ("vpc", "network-interface")
	Key      string
	Value    string
}

// TagDeletion names a tag to remove: with Value set, only if the tag has that value.
type TagDeletion struct {
	Key   string
	Value *string
}

// Tagger keeps the tags of all resources. All methods are safe for concurrent use.
type Tagger interface {
	// CreateTags sets tags on every resource or, on any error, on none. Existing keys are overwritten. *NotFoundError
	// (KindResource) names the first resource that does not exist.
	CreateTags(ctx context.Context, a ids.Account, resources []string, tags map[string]string) error
	// DeleteTags removes the named tags, or all when none are named. Removing what is not there succeeds.
	DeleteTags(ctx context.Context, a ids.Account, resources []string, tags []TagDeletion) error
	// DescribeTags returns the matching tags (nil: all) of an account, by resource and key.
	DescribeTags(ctx context.Context, a ids.Account, match func(*Tag) bool) ([]Tag, error)
	TagReader
}

// TagReader is the read side for parts that show tags with their own resources.
type TagReader interface {
	// Tags returns a resource's tags from memory, nil if it has none. The map is the caller's.
	Tags(a ids.Account, resource string) map[string]string
	// WaitTags waits until Tags shows everything that was committed before the call, or returns ErrBehind.
	WaitTags(ctx context.Context) error
}

// ValidateTags checks keys and values of a set that a user gave; the error is an *InvalidError or *TagLimitError.
// The prefix aws: is refused as in EC2, so that system tags can use it.
func ValidateTags(resource string, tags map[string]string) error {
	if len(tags) > MaxTagsPerResource {
		return &TagLimitError{Resource: resource}
	}
	for k, v := range tags {
		if err := validateTag(k, v); err != nil {
			return err
		}
	}
	return nil
}

func validateTag(key, value string) error {
	switch {
	case key == "":
		return &InvalidError{Param: "Tag", Value: key, Reason: "a tag key must not be empty"}
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return &InvalidError{Param: "Tag", Value: strings.ToValidUTF8(key, "?"), Reason: "tags must be valid UTF-8"}
	case utf8.RuneCountInString(key) > MaxTagKeyRunes:
		return &InvalidError{Param: "Tag", Value: key, Reason: fmt.Sprintf("a tag key has at most %d characters", MaxTagKeyRunes)}
	case utf8.RuneCountInString(value) > MaxTagValueRunes:
		return &InvalidError{Param: "Tag", Value: key, Reason: fmt.Sprintf("a tag value has at most %d characters", MaxTagValueRunes)}
	case strings.HasPrefix(strings.ToLower(key), "aws:"):
		return &InvalidError{Param: "Tag", Value: key, Reason: "tag keys starting with aws: are reserved"}
	}
	return nil
}
