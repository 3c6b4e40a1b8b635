package page

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
)

func self(s string) string { return s }

func request(maxResults int32) Request {
	return Request{Action: "DescribeInstances", Account: "123456789012", Limits: Limits{Min: 1, Max: 1000}, MaxResults: &maxResults}
}

// TestWalk pages through a set while others change it: what stayed is seen exactly once, in order.
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-d]{1,3}`)
		set := make(map[string]bool)
		for _, item := range rapid.SliceOf(name).Draw(t, "items") {
			set[item] = true
		}
		stayed := maps.Clone(set)
		r := request(rapid.Int32Range(1, 5).Draw(t, "size"))
		var seen []string
		for {
			page, next, err := Cut(slices.Collect(maps.Keys(set)), self, r)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > int(*r.MaxResults) {
				t.Fatalf("a page has %d items", len(page))
			}
			seen = append(seen, page...)
			if r.NextToken = next; next == nil {
				break
			}
			added, removed := name.Draw(t, "added"), name.Draw(t, "removed")
			set[added] = true
			delete(set, removed)
			delete(stayed, removed)
		}
		if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
			t.Fatalf("seen %v", seen)
		}
		for item := range stayed {
			if !slices.Contains(seen, item) {
				t.Fatalf("%s was skipped: %v", item, seen)
			}
		}
	})
}

func TestCut(t *testing.T) {
	items := []string{"c", "a", "b"}
	r := request(3)
	if page, next, err := Cut(items, self, r); err != nil || next != nil || !slices.Equal(page, []string{"a", "b", "c"}) || items[0] != "c" {
		t.Errorf("a full last page has no token: %v %v %v", page, next, err)
	}
	r.MaxResults = nil
	r.Limits.Max = 2
	if page, next, err := Cut(items, self, r); err != nil || next == nil || len(page) != 2 {
		t.Errorf("without MaxResults a page is bounded too: %v %v %v", page, next, err)
	}
}

func TestCutRefuses(t *testing.T) {
	items := make([]string, 20)
	for i := range items {
		items[i] = fmt.Sprintf("i-%02d", i)
	}
	_, next, err := Cut(items, self, request(5))
	if err != nil {
		t.Fatal(err)
	}
	flipped := *next
	flipped = flipped[:len(flipped)-1] + string(flipped[len(flipped)-1]^1)
	for _, c := range []struct {
		name   string
		change func(*Request)
		code   string
	}{
		{"same request", func(r *Request) { r.NextToken = next }, ""},
		{"other page size", func(r *Request) { r.NextToken, r.MaxResults = next, new(int32(7)) }, ""},
		{"other action", func(r *Request) { r.NextToken, r.Action = next, "DescribeVpcs" }, errs.InvalidNextToken},
		{"other account", func(r *Request) { r.NextToken, r.Account = next, "210987654321" }, errs.InvalidNextToken},
		{"other filter", func(r *Request) {
			r.NextToken, r.Filters = next, []ec2gen.Filter{{Name: new("a"), Values: []string{"b"}}}
		}, errs.InvalidNextToken},
		{"other selection", func(r *Request) { r.NextToken, r.Selected = next, []string{"all"} }, errs.InvalidNextToken},
		{"changed", func(r *Request) { r.NextToken = &flipped }, errs.InvalidNextToken},
		{"empty", func(r *Request) { r.NextToken = new("") }, errs.InvalidNextToken},
		{"garbage", func(r *Request) { r.NextToken = new("%%%") }, errs.InvalidNextToken},
		{"huge", func(r *Request) { r.NextToken = new(strings.Repeat("A", 1<<20)) }, errs.InvalidNextToken},
		{"too few", func(r *Request) { r.MaxResults = new(int32(0)) }, errs.InvalidParameterValue},
		{"too many", func(r *Request) { r.MaxResults = new(int32(1001)) }, errs.InvalidParameterValue},
		{"with ids", func(r *Request) { r.IDs, r.IDsName = []string{"i-00"}, "InstanceIds" }, errs.InvalidParameterCombination},
	} {
		r := request(5)
		c.change(&r)
		_, _, err := Cut(items, self, r)
		e := new(errs.Error)
		if (c.code == "") != (err == nil) || (err != nil && (!errors.As(err, &e) || e.Code != c.code)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.code)
		}
	}
}

func FuzzToken(f *testing.F) {
	_, next, _ := Cut([]string{"a", "b"}, self, request(1))
	f.Add(*next)
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, token string) {
		r := request(1)
		r.NextToken = &token
		page, _, err := Cut([]string{"a", "b"}, self, r)
		if err == nil && (token != *next || !slices.Equal(page, []string{"b"})) {
			t.Errorf("the forged token %q was accepted", token)
		}
	})
}
