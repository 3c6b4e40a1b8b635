package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/ec2/internal/query"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// maxIDs bounds the ids that one request may name.
const maxIDs = 1000

// selection is what every Describe request says of which items it wants.
type selection struct {
	Filters    []ec2gen.Filter
	IDs        []string
	IDsName    string // how the action calls them
	Flags      []string
	MaxResults *int32
	NextToken  *string
	Limits     page.Limits
}

func (s selection) page(ctx context.Context) page.Request {
	call := query.CallFrom(ctx)
	return page.Request{
		Action: call.Action, Account: call.Account, Limits: s.Limits, MaxResults: s.MaxResults, NextToken: s.NextToken,
		Filters: s.Filters, Selected: s.Flags, IDs: s.IDs, IDsName: s.IDsName,
	}
}

// reader is the shape of the parts' Describe methods.
type reader[ID ids.ID, T, R any] func(ctx context.Context, account ids.Account, want []ID, match func(*T) bool) ([]R, error)

// describe is the story of a Describe action: check ids and filters, read what matches, cut the page.
func describe[ID ids.ID, T, R any](ctx context.Context, s selection, table filter.Table[*T], read reader[ID, T, R], key func(R) string) ([]R, *string, error) {
	want, err := parseIDs[ID](s.IDs)
	if err != nil {
		return nil, nil, err
	}
	match, err := filter.Compile(table, s.Filters)
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := s.page(ctx).Begin(); err != nil { // before anything is looked for
		return nil, nil, err
	}
	found, err := read(ctx, caller(ctx), want, match)
	if err != nil {
		return nil, nil, err
	}
	return page.Cut(found, key, s.page(ctx))
}

// parseIDs checks ids and drops repetitions.
func parseIDs[T ids.ID](texts []string) ([]T, error) {
	if len(texts) > maxIDs {
		return nil, errs.New(errs.InvalidParameterValue, "The request names %d ids; at most %d are allowed.", len(texts), maxIDs)
	}
	var list []T
	for _, text := range texts {
		id, err := errs.ParseID[T](text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	return list, nil
}

// requireIDs is parseIDs for a parameter that must be there.
func requireIDs[T ids.ID](texts []string, parameter string) ([]T, error) {
	if len(texts) == 0 {
		return nil, errs.Missing(parameter)
	}
	return parseIDs[T](texts)
}

// requireID reads an id that must be there.
func requireID[T ids.ID](text *string, parameter string) (T, error) {
	if text == nil || *text == "" {
		return "", errs.Missing(parameter)
	}
	return errs.ParseID[T](*text)
}

// optionalID reads an id that may be absent.
func optionalID[T ids.ID](text *string) (T, error) {
	if text == nil || *text == "" {
		return "", nil
	}
	return errs.ParseID[T](*text)
}

// each converts a page.
func each[T, U any](list []T, convert func(T) U) []U {
	out := make([]U, len(list))
	for i, item := range list {
		out[i] = convert(item)
	}
	return out
}

// deref reads an optional value; the zero value when absent.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// attribute reads an optional structure with one boolean.
func attribute(v *ec2gen.AttributeBooleanValue) *bool {
	if v == nil {
		return nil
	}
	return v.Value
}

// The shapes of filter values.

// one makes a filter's values of a text; empty means that the item lacks the property.
func one[T any, S ~string](get func(T) S) func(T) []string {
	return func(item T) []string {
		if v := string(get(item)); v != "" {
			return []string{v}
		}
		return nil
	}
}

// yes makes a filter's values of a boolean.
func yes[T any](get func(T) bool) func(T) []string {
	return func(item T) []string { return []string{fmt.Sprint(get(item))} }
}

// count makes a filter's values of a number.
func count[T any](get func(T) int) func(T) []string {
	return func(item T) []string { return []string{fmt.Sprint(get(item))} }
}

// always makes a filter of a property that is the same for every item.
func always[T any](value string) func(T) []string {
	return func(T) []string { return []string{value} }
}

// never makes a filter of a property that no item has here.
func never[T any](T) []string { return nil }

// texts makes a filter's values of a list of texts.
func texts[T any, S ~string](get func(T) []S) func(T) []string {
	return func(item T) []string { return each(get(item), func(s S) string { return string(s) }) }
}
