package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
)

// maxDiskGiB is EC2's bound of a root volume.
const maxDiskGiB = 16384

// errDryRun ends a transaction whose edits were to be checked only.
var errDryRun = errors.New("dry run")

// Register implements image.Service.
func (s *Service) Register(ctx context.Context, r image.Request, dryRun bool) (*image.Image, error) {
	if err := cmp.Or(validName(r.Name), validDescription(r.Description), validBootMode(r.BootMode), account.ValidateTags("", r.Tags)); err != nil {
		return nil, err
	}
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	from, err := s.source(r.Account, r.Source)
	if err != nil {
		return nil, err
	}
	row, err := s.derive(from, r)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, dryRun, func(tx *store.Tx) error {
		return imagerows.Create(ctx, tx, row, from.ID, r.Tags, s.options.MaxAccountImages)
	})
	if err != nil || dryRun {
		return nil, err
	}
	made := row.View()
	made.Tags = r.Tags
	return made, nil
}

// validName holds names to EC2's characters, of which none means anything in a location.
func validName(name string) error {
	const marks = "()[] ./-'@_"
	odd := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(marks, c)
	}
	if len(name) < image.MinNameBytes || len(name) > image.MaxNameBytes || strings.ContainsFunc(name, odd) {
		return &image.InvalidError{Field: "name", Reason: fmt.Sprintf(
			"AMI names must be between %d and %d characters long, and may contain letters, numbers, and %q only", image.MinNameBytes, image.MaxNameBytes, marks)}
	}
	return nil
}

// source finds the image whose content is named. The oldest wins when several show one snapshot.
func (s *Service) source(a ids.Account, from image.Source) (imagerows.Image, error) {
	rows, err := s.launchable(a, nil)
	if err != nil {
		return imagerows.Image{}, err
	}
	is := func(i imagerows.Image) bool { return i.RootSnapshot == from.Snapshot }
	if from.Snapshot == "" {
		is = func(i imagerows.Image) bool { return string(i.Owner)+"/"+i.Name == from.Location }
	}
	if k := slices.IndexFunc(rows, is); k >= 0 {
		return rows[k], nil
	}
	if from.Snapshot != "" {
		return imagerows.Image{}, &image.SnapshotError{ID: from.Snapshot}
	}
	return imagerows.Image{}, &image.InvalidError{Field: "location", Reason: fmt.Sprintf(
		"%.200q names no image that this account may launch; DescribeImages shows the location of each", from.Location)}
}

// derive is the new row: the source's content under the request's name.
func (s *Service) derive(from imagerows.Image, r image.Request) (imagerows.Image, error) {
	least := from.View().MinDiskGiB()
	switch {
	case r.Architecture != "" && r.Architecture != from.Architecture:
		return from, &image.InvalidError{Field: "architecture", Reason: "the content is " + from.Architecture + ", not " + r.Architecture}
	case r.RootDiskGiB != 0 && (r.RootDiskGiB < least || r.RootDiskGiB > maxDiskGiB):
		return from, &image.InvalidError{Field: "volume size", Reason: fmt.Sprintf("%d GiB is not within %d, as the content needs, and %d", r.RootDiskGiB, least, maxDiskGiB)}
	}
	row := from
	row.ID, row.Owner, row.Name, row.Description = ids.New[ids.Image](s.options.Env.Random), r.Account, r.Name, r.Description
	row.Public, row.Users, row.CreatedMs = false, nil, s.options.Env.Clock.Now().UnixMilli()
	row.BootMode = cmp.Or(r.BootMode, from.BootMode)
	row.RootDiskGiB = cmp.Or(r.RootDiskGiB, from.RootDiskGiB)
	return row, nil
}

// change commits what edit writes or, in a dry run, only lets it find fault.
func (s *Service) change(ctx context.Context, dryRun bool, edit func(*store.Tx) error) error {
	_, err := s.db.Transact(ctx, func(tx *store.Tx) error {
		if err := edit(tx); err != nil || !dryRun {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// Deregister implements image.Service.
func (s *Service) Deregister(ctx context.Context, a ids.Account, id ids.Image, dryRun bool) error {
	if err := s.owned(ctx, a, id); err != nil {
		return err
	}
	return s.change(ctx, dryRun, func(tx *store.Tx) error { return imagerows.Deregister(ctx, tx, a, id) })
}

// Modify implements image.Service.
func (s *Service) Modify(ctx context.Context, a ids.Account, id ids.Image, c image.Change, dryRun bool) error {
	if c.Description != nil {
		if err := validDescription(*c.Description); err != nil {
			return err
		}
	}
	if err := s.owned(ctx, a, id); err != nil {
		return err
	}
	return s.change(ctx, dryRun, func(tx *store.Tx) error {
		return imagerows.Modify(ctx, tx, a, id, func(i *imagerows.Image) error { return apply(i, c) })
	})
}

// owned fails unless the account owns the image: what it may launch it is told that it does not own, and no more.
func (s *Service) owned(ctx context.Context, a ids.Account, id ids.Image) error {
	if err := s.current(ctx); err != nil {
		return err
	}
	rows, err := s.launchable(a, []ids.Image{id})
	if err == nil && rows[0].Owner != a {
		return &image.OwnerError{ID: id}
	}
	return err
}

// apply makes the change. Users are replaced, never edited in place: rows are shared with the view.
func apply(i *imagerows.Image, c image.Change) error {
	if c.Description != nil {
		i.Description = *c.Description
	}
	if c.Public != nil {
		i.Public = *c.Public
	}
	users := map[ids.Account]bool{}
	for _, a := range i.Users {
		users[a] = !c.ClearUsers
	}
	for _, a := range c.Add {
		users[a] = true
	}
	for _, a := range c.Remove {
		users[a] = false
	}
	delete(users, i.Owner) // who needs no permission
	maps.DeleteFunc(users, func(_ ids.Account, permitted bool) bool { return !permitted })
	if len(users) > image.MaxUsers && len(users) > len(i.Users) {
		return &image.LimitError{What: "accounts that an image is shared with", Max: image.MaxUsers}
	}
	i.Users = slices.Sorted(maps.Keys(users))
	return nil
}
