// Package filter is Filter.N of the Describe actions: values of one filter are alternatives, filters hold together, values
// may contain wildcards, and a filter that an action does not have is refused by name.
//
// An action brings a table from filter name to the values that an item has under it. tag:KEY and tag-key come with the
// table's Tags. Comparison is exact and case-sensitive, as in EC2.
//
// Invariants: matching takes time proportional to the lengths of pattern and value multiplied, both bounded; nothing here
// allocates per item but what the table's functions do.
//
// Deliberately absent: which filters an action has, and reading items. Start reading at Compile.
package filter

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
)

// Bounds on one request.
const (
	MaxFilters    = 50
	MaxValues     = 200 // in all filters together
	MaxValueBytes = 255
)

// Table says what an action can be filtered by.
type Table[T any] struct {
	// Values gives, for a filter name, the values that an item has: none when the item lacks the property. Booleans are
	// "true" and "false".
	Values map[string]func(T) []string

	// Tags gives an item's tags. Nil when the items of the action have none.
	Tags func(T) map[string]string

	// Ignored names filters that are accepted and match every item, each for a reason its owner documents.
	Ignored []string
}

// Match reports whether an item passes. The one for no filters passes everything.
type Match[T any] func(item T) bool

// Compile checks the filters of a request against the table.
func Compile[T any](table Table[T], filters []ec2gen.Filter) (Match[T], error) {
	if len(filters) > MaxFilters {
		return nil, errs.New(errs.FilterLimitExceeded, "The request has %d filters; at most %d are allowed.", len(filters), MaxFilters)
	}
	values := 0
	var conditions []Match[T]
	for i, f := range filters {
		if values += len(f.Values); values > MaxValues {
			return nil, errs.New(errs.FilterLimitExceeded, "The filters have more than %d values.", MaxValues)
		}
		condition, err := compile(table, f, fmt.Sprintf("Filter.%d", i+1))
		if err != nil {
			return nil, err
		}
		if condition != nil {
			conditions = append(conditions, condition)
		}
	}
	return func(item T) bool {
		for _, holds := range conditions {
			if !holds(item) {
				return false
			}
		}
		return true
	}, nil
}

// compile makes the condition of one filter; at is its name in the request. A nil condition always holds.
func compile[T any](table Table[T], f ec2gen.Filter, at string) (Match[T], error) {
	if f.Name == nil || *f.Name == "" {
		return nil, errs.Missing(at + ".Name")
	}
	if len(f.Values) == 0 {
		return nil, errs.Missing(at + ".Value.1")
	}
	patterns := make([]Pattern, len(f.Values))
	for i, value := range f.Values {
		if len(value) > MaxValueBytes {
			return nil, errs.Invalid(fmt.Sprintf("%s.Value.%d", at, i+1), value, fmt.Sprintf("It is longer than %d bytes.", MaxValueBytes))
		}
		patterns[i] = NewPattern(value)
	}
	name := *f.Name
	if get := table.Values[name]; get != nil {
		return func(item T) bool { return anyMatches(patterns, get(item)) }, nil
	}
	if table.Tags != nil {
		if condition := tagCondition(table.Tags, name, patterns); condition != nil {
			return condition, nil
		}
	}
	if slices.Contains(table.Ignored, name) {
		return nil, nil
	}
	return nil, errs.Invalid(at+".Name", name, "The filters of this action are: "+table.names()+".")
}

func tagCondition[T any](tags func(T) map[string]string, name string, patterns []Pattern) Match[T] {
	if key, ok := strings.CutPrefix(name, "tag:"); ok && key != "" {
		return func(item T) bool {
			value, has := tags(item)[key]
			return has && matches(patterns, value)
		}
	}
	if name != "tag-key" {
		return nil
	}
	return func(item T) bool {
		for key := range tags(item) {
			if matches(patterns, key) {
				return true
			}
		}
		return false
	}
}

func (t Table[T]) names() string {
	names := append(slices.Collect(maps.Keys(t.Values)), t.Ignored...)
	if t.Tags != nil {
		names = append(names, "tag:<key>", "tag-key")
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func anyMatches(patterns []Pattern, values []string) bool {
	return slices.ContainsFunc(values, func(value string) bool { return matches(patterns, value) })
}

func matches(patterns []Pattern, value string) bool {
	return slices.ContainsFunc(patterns, func(p Pattern) bool { return p.Match(value) })
}
