package convert

import (
	"maps"
	"slices"
	"time"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// text makes an optional text of any text-like value; always present, also when empty.
func text[T ~string](v T) *string { return new(string(v)) }

// present is text, but absent when empty.
func present[T ~string](v T) *string {
	if v == "" {
		return nil
	}
	return text(v)
}

func number[T ~int | ~uint16 | ~uint8](v T) *int32 { return new(int32(v)) }

// instant is absent for the zero time.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

// Tags lists tags by key.
func Tags(tags map[string]string) []ec2gen.Tag {
	list := make([]ec2gen.Tag, 0, len(tags))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, ec2gen.Tag{Key: new(key), Value: new(tags[key])})
	}
	return list
}

// GroupNames are the names of security groups by id. An id without a name is shown by its id.
type GroupNames map[ids.SecurityGroup]string

func (n GroupNames) identifiers(groups []ids.SecurityGroup) []ec2gen.GroupIdentifier {
	list := make([]ec2gen.GroupIdentifier, 0, len(groups))
	for _, id := range groups {
		list = append(list, ec2gen.GroupIdentifier{GroupId: text(id), GroupName: text(n.of(id))})
	}
	return list
}

func (n GroupNames) of(id ids.SecurityGroup) string {
	if name := n[id]; name != "" {
		return name
	}
	return string(id)
}

// Of lists the names of groups.
func (n GroupNames) Of(groups []ids.SecurityGroup) []string {
	names := make([]string, len(groups))
	for i, id := range groups {
		names[i] = n.of(id)
	}
	return names
}
