// Package server is the image catalog's service: it registers images whose content it keeps in a directory, one file per
// digest, and answers reads from memory.
//
// A file of the directory is complete when it has its name: content is written beside, synced, then renamed. Files are
// never changed after. Concurrency: all methods may be called from any goroutine.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// readBehind bounds how long a read waits for the view.
const readBehind = time.Second

// Options are what the catalog works with; all but Log are required.
type Options struct {
	Dir  string // where content lies, one file per digest
	Tags account.TagReader
	Env  env.Env
	Log  *slog.Logger // default slog.Default
}

// Service implements image.Service.
type Service struct {
	db       *store.DB
	options  Options
	follower *follow.Follower

	mu     sync.RWMutex
	images map[ids.Image]imagerows.Image
}

var _ image.Service = (*Service)(nil)

// New makes the service. Reads wait until Run.
func New(db *store.DB, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Service{db: db, options: o, images: map[ids.Image]imagerows.Image{}}
	s.follower = follow.New(db, [][]byte{imagerows.Prefix()}, s.apply)
	return s
}

// Run follows the store until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if err := s.follower.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("follow image rows: %w", err)
	}
	return nil
}

func (s *Service) apply(b follow.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Snapshot {
		clear(s.images)
	}
	for _, c := range b.Changes {
		id, err := imagerows.ParseKey(c.Key)
		if err == nil && c.Deleted {
			delete(s.images, id)
			continue
		}
		row, decodeErr := imagerows.Decode(c.Value.Bytes)
		if err = errors.Join(err, decodeErr); err != nil {
			s.options.Log.Error("row is unreadable", "key", fmt.Sprintf("%q", c.Key), "err", err)
			continue
		}
		s.images[id] = row
	}
}

// current waits until the view and the tags show everything committed before the call.
func (s *Service) current(ctx context.Context) error {
	version, err := s.db.Version(ctx)
	if err != nil {
		return fmt.Errorf("read store version: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readBehind, image.ErrBehind)
	defer cancel()
	if err := s.follower.WaitVersion(ctx, version); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	return s.options.Tags.WaitTags(ctx)
}

// DescribeImages implements image.Service.
func (s *Service) DescribeImages(ctx context.Context, a ids.Account, named []ids.Image, keep func(*image.Image) bool) ([]*image.Image, error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	rows, err := s.launchable(a, named)
	if err != nil {
		return nil, err
	}
	var out []*image.Image
	for i := range rows {
		shown := s.show(a, &rows[i])
		if keep == nil || keep(shown) {
			out = append(out, shown)
		}
	}
	return out, nil
}

// show is a row as the account sees it: tags, and the names of other accounts, are the owner's to see.
func (s *Service) show(a ids.Account, row *imagerows.Image) *image.Image {
	shown := row.View()
	if shown.Owner == a {
		shown.Tags = s.options.Tags.Tags(a, string(shown.ID))
		return shown
	}
	shown.Users = nil
	if _, named := slices.BinarySearch(row.Users, a); named {
		shown.Users = []ids.Account{a}
	}
	return shown
}

// launchable lists what the account may launch: the named images, or all, by creation time.
func (s *Service) launchable(a ids.Account, named []ids.Image) ([]imagerows.Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	chosen := map[ids.Image]imagerows.Image{}
	missing := &image.NotFoundError{}
	for _, id := range named {
		row, found := s.images[id]
		if !found || !row.Permits(a) {
			missing.IDs = append(missing.IDs, id)
		}
		chosen[id] = row
	}
	if len(missing.IDs) > 0 {
		return nil, missing
	}
	for id, row := range s.images {
		if len(named) == 0 && row.Permits(a) {
			chosen[id] = row
		}
	}
	return slices.SortedFunc(maps.Values(chosen), func(x, y imagerows.Image) int {
		return cmp.Or(cmp.Compare(x.CreatedMs, y.CreatedMs), cmp.Compare(x.ID, y.ID))
	}), nil
}

// RegisterLocal implements image.Service.
func (s *Service) RegisterLocal(ctx context.Context, r image.Registration) (*image.Image, error) {
	if err := validate(r); err != nil {
		return nil, err
	}
	digest, size, err := adopt(ctx, s.options.Dir, r.Path)
	if err != nil {
		return nil, fmt.Errorf("register image %s: %w", r.Name, err)
	}
	row := imagerows.Image{
		ID: ids.New[ids.Image](s.options.Env.Random), Owner: r.Owner, Name: r.Name, Description: r.Description, Public: r.Public,
		SHA256: digest, Bytes: size, Architecture: r.Architecture, BootMode: r.BootMode,
		RootSnapshot: ids.New[ids.Snapshot](s.options.Env.Random), CreatedMs: s.options.Env.Clock.Now().UnixMilli(),
	}
	var registered imagerows.Image
	_, err = s.db.Transact(ctx, func(tx *store.Tx) (err error) {
		registered, err = imagerows.Register(ctx, tx, row)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("register image %s: %w", r.Name, err)
	}
	return registered.View(), nil
}

func validate(r image.Registration) error {
	switch {
	case len(r.Name) < image.MinNameBytes || len(r.Name) > image.MaxNameBytes || !utf8.ValidString(r.Name):
		return &image.InvalidError{Field: "name", Reason: fmt.Sprintf("%q must have %d to %d bytes", r.Name, image.MinNameBytes, image.MaxNameBytes)}
	case r.Architecture != "x86_64" && r.Architecture != "arm64":
		return &image.InvalidError{Field: "architecture", Reason: fmt.Sprintf("%q is neither x86_64 nor arm64", r.Architecture)}
	case r.Owner == "":
		return &image.InvalidError{Field: "owner", Reason: "an image needs an owner"}
	}
	return cmp.Or(validDescription(r.Description), validBootMode(r.BootMode))
}

func validDescription(text string) error {
	if len(text) > image.MaxDescriptionBytes || !utf8.ValidString(text) {
		return &image.InvalidError{Field: "description", Reason: fmt.Sprintf("it must have at most %d bytes", image.MaxDescriptionBytes)}
	}
	return nil
}

func validBootMode(mode string) error {
	if mode != "" && mode != "legacy-bios" && mode != "uefi" && mode != "uefi-preferred" {
		return &image.InvalidError{Field: "boot mode", Reason: fmt.Sprintf("%q is none of legacy-bios, uefi, uefi-preferred", mode)}
	}
	return nil
}
