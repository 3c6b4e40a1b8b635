package server

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/internal/ids"
)

func importKey(t *testing.T, s *Service, a ids.Account, name string) string {
	t.Helper()
	k, err := s.ImportKeyPair(t.Context(), account.KeyPairRequest{Account: a, Name: name, PublicKey: []byte(edLine)})
	if err != nil {
		t.Fatal(err)
	}
	return string(k.ID)
}

func TestTags(t *testing.T) {
	s, _ := newService(t, Options{})
	ctx, tags := t.Context(), s.Tags()
	a := create(t, s)
	first, second := importKey(t, s, a, "1"), importKey(t, s, a, "2")
	both := []string{first, second, first}
	for range 2 { // the same again succeeds
		if err := tags.CreateTags(ctx, a, both, map[string]string{"x": "1", "y": ""}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tags.CreateTags(ctx, a, []string{first}, map[string]string{"x": "2"}); err != nil {
		t.Fatal(err)
	}
	all, err := tags.DescribeTags(ctx, a, nil)
	if err != nil || len(all) != 4 || all[0].Kind != "key-pair" {
		t.Fatalf("DescribeTags = %+v, %v", all, err)
	}
	some, err := tags.DescribeTags(ctx, a, func(tag *account.Tag) bool { return tag.Value == "2" })
	if want := (account.Tag{Resource: first, Kind: "key-pair", Key: "x", Value: "2"}); err != nil || len(some) != 1 || some[0] != want {
		t.Fatalf("DescribeTags with a filter = %+v, %v", some, err)
	}
	one := "1"
	deletions := []account.TagDeletion{{Key: "x", Value: &one}, {Key: "missing"}}
	if err := tags.DeleteTags(ctx, a, both, deletions); err != nil { // only where x is 1
		t.Fatal(err)
	}
	if err := tags.DeleteTags(ctx, a, []string{second}, nil); err != nil {
		t.Fatal(err)
	}
	if err := tags.WaitTags(ctx); err != nil {
		t.Fatal(err)
	}
	if got := tags.Tags(a, first); len(got) != 2 || got["x"] != "2" {
		t.Errorf("first has %v", got)
	}
	if got := tags.Tags(a, second); got != nil {
		t.Errorf("second has %v", got)
	}
}

func TestTagRefusals(t *testing.T) {
	s, _ := newService(t, Options{})
	ctx, tags := t.Context(), s.Tags()
	a := create(t, s)
	key := importKey(t, s, a, "1")
	tag := map[string]string{"x": "1"}
	for _, resources := range [][]string{{key, "key-0123456789abcdef0"}, {"vpc-0123456789abcdef0"}, {"nonsense"}} {
		err := tags.CreateTags(ctx, a, resources, tag)
		if e := as[*account.NotFoundError](t, err); e.Kind != account.KindResource || e.ID == key {
			t.Errorf("%v: %+v", resources, e)
		}
	}
	as[*account.NotFoundError](t, tags.CreateTags(ctx, "999999999999", []string{key}, tag))
	as[*account.InvalidError](t, tags.CreateTags(ctx, a, nil, tag))
	as[*account.InvalidError](t, tags.CreateTags(ctx, a, []string{key}, nil))
	for _, bad := range []map[string]string{
		{"": "x"}, {"aws:x": ""}, {"AWS:x": ""}, {"\xff": ""}, {"x": "\xff"},
		{strings.Repeat("x", account.MaxTagKeyRunes+1): ""}, {"x": strings.Repeat("ü", account.MaxTagValueRunes+1)},
	} {
		if e := as[*account.InvalidError](t, tags.CreateTags(ctx, a, []string{key}, bad)); e.Param != "Tag" {
			t.Errorf("%+v", e)
		}
	}
	longest := map[string]string{strings.Repeat("ü", account.MaxTagKeyRunes): strings.Repeat("ü", account.MaxTagValueRunes)}
	if err := tags.CreateTags(ctx, a, []string{key}, longest); err != nil {
		t.Error(err)
	}
	many := map[string]string{}
	for i := range account.MaxTagsPerResource {
		many[fmt.Sprint(i)] = ""
	}
	if e := as[*account.TagLimitError](t, tags.CreateTags(ctx, a, []string{key}, many)); e.Resource != key {
		t.Errorf("%+v", e)
	}
	many["one more"] = ""
	as[*account.TagLimitError](t, tags.CreateTags(ctx, a, []string{key}, many))
}

// TestConcurrentTagsAllStay: editors of one resource retry until each edit is in.
func TestConcurrentTagsAllStay(t *testing.T) {
	s, _ := newService(t, Options{})
	a := create(t, s)
	key := importKey(t, s, a, "1")
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			if err := s.Tags().CreateTags(t.Context(), a, []string{key}, map[string]string{fmt.Sprint(i): ""}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if err := s.Tags().WaitTags(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Tags().Tags(a, key); len(got) != 32 {
		t.Fatalf("%d tags stayed", len(got))
	}
}

func TestDeletedResourceLosesItsTags(t *testing.T) {
	s, _ := newService(t, Options{}) // the invariant at the end sees a tag left behind
	a := create(t, s)
	key := importKey(t, s, a, "1")
	if err := s.Tags().CreateTags(t.Context(), a, []string{key}, map[string]string{"x": ""}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteKeyPair(t.Context(), a, "1", ""); err != nil {
		t.Fatal(err)
	}
	as[*account.NotFoundError](t, s.Tags().CreateTags(t.Context(), a, []string{key}, map[string]string{"x": ""}))
}
