package server

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// maxShown bounds how many instances are made into items at once, for filters that have no index to look at.
const maxShown = 1000

// shown is a kind of item that Describe actions show of instances.
type shown[T any] struct {
	table filter.Table[*T]
	where []compute.Condition // hold besides the filters
	of    func(context.Context, []*compute.Instance) ([]*T, error)
	place func(*T) string
}

// describe is the story of a Describe action over instances. Named ones are read by their ids. Otherwise instances are
// read a few at a time, through the indexes that the filters allow, until the page is full; the page after the last full
// one may be empty when filters without an index are set.
func (k shown[T]) describe(ctx context.Context, a *api, s selection) ([]*T, *string, error) {
	want, err := parseIDs[ids.Instance](s.IDs)
	if err != nil {
		return nil, nil, err
	}
	match, err := filter.Compile(k.table, s.Filters)
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := s.page(ctx).Begin(); err != nil { // before anything is looked for
		return nil, nil, err
	}
	if len(want) > 0 {
		found, err := a.Compute.DescribeInstances(ctx, caller(ctx), want, nil)
		if err != nil {
			return nil, nil, err
		}
		items, err := k.matching(ctx, found, match)
		if err != nil {
			return nil, nil, err
		}
		return page.Cut(items, k.place, s.page(ctx))
	}
	return k.walk(ctx, a, s, match)
}

// walk fills one page.
func (k shown[T]) walk(ctx context.Context, a *api, s selection, match filter.Match[*T]) (items []*T, token *string, err error) {
	request := s.page(ctx)
	size, after, err := request.Begin()
	if err != nil {
		return nil, nil, err
	}
	p := compute.Page{After: after, Limit: size, Where: append(conditions(s.Filters), k.where...)}
	for {
		found, next, err := a.Compute.PageInstances(ctx, caller(ctx), p)
		if err != nil {
			return nil, nil, err
		}
		more, err := k.matching(ctx, found, match)
		if err != nil {
			return nil, nil, err
		}
		items = append(items, more...)
		switch {
		case len(items) > size || (len(items) == size && next != ""):
			items = items[:size]
			return items, request.Token(k.place(items[size-1])), nil
		case next == "":
			return items, nil, nil
		}
		p.After, p.Limit = next, min(2*p.Limit, maxShown)
	}
}

// matching makes items and keeps those that match and are of the states asked for.
func (k shown[T]) matching(ctx context.Context, found []*compute.Instance, match filter.Match[*T]) ([]*T, error) {
	found = slices.DeleteFunc(found, func(i *compute.Instance) bool {
		return slices.ContainsFunc(k.where, func(c compute.Condition) bool {
			return c.Property == compute.ByState && !slices.Contains(c.Values, i.State.String())
		})
	})
	items, err := k.of(ctx, found)
	return slices.DeleteFunc(items, func(item *T) bool { return !match(item) }), err
}

// indexed are the filters of DescribeInstances that an index answers.
var indexed = map[string]compute.Property{
	"instance-id": compute.ByID, "instance-state-name": compute.ByState, "instance-state-code": compute.ByState, "vpc-id": compute.ByVPC,
	"subnet-id": compute.BySubnet, "image-id": compute.ByImage, "private-ip-address": compute.ByAddress,
	"network-interface.addresses.private-ip-address": compute.ByAddress, "network-interface.private-ip-address": compute.ByAddress,
}

// conditions are what filters say to the indexes. They let through all that the filters do, and possibly more.
func conditions(filters []ec2gen.Filter) []compute.Condition {
	var list []compute.Condition
	for _, f := range filters {
		name := deref(f.Name)
		property, found := indexed[name]
		if key, isTag := strings.CutPrefix(name, "tag:"); isTag {
			property, found = compute.ByTag(key), true
		}
		values, exact := filter.Exact(f.Values)
		if !found || !exact {
			continue
		}
		if name == "instance-state-code" {
			values = stateNames(values)
		}
		list = append(list, compute.Condition{Property: property, Values: values})
	}
	return list
}

// stateNames turns codes of states into names. What is no code names no state.
func stateNames(codes []string) []string {
	return each(codes, func(code string) string {
		n, err := strconv.ParseUint(code, 10, 8)
		if err != nil {
			return ""
		}
		return compute.State(n).String()
	})
}

// pointers makes items of views.
func (a *api) pointers(ctx context.Context, instances []*compute.Instance) ([]*convert.View, error) {
	views, err := a.views(ctx, instances)
	return each(views, func(v convert.View) *convert.View { return &v }), err
}
