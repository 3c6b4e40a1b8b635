// Package server is the image catalog's service: it registers images whose content it keeps in a chunk store, takes
// uploads that can be interrupted, and answers reads from memory.
//
// What a user gives is read by one process alone, the converter (image/convert); from there on there are only chunks of raw
// disks. Concurrency: all methods may be called from any goroutine.
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
	"github.com/nimbrel/nimbrel/image/chunk"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/follow"
)

// readBehind bounds how long a read waits for the view.
const readBehind = time.Second

// Options are what the catalog works with. Dir, Tags and Env are required.
type Options struct {
	Dir  string // of the chunk store, and of uploads
	Tags account.TagReader
	Env  env.Env
	Log  *slog.Logger // default slog.Default

	// Converter is the command that runs convert.Work. None converts in this process, which is for tests: a file that
	// takes a reader over would take the process.
	Converter []string
	// StallAfter bounds how long the converter may neither read nor send anything. Default convert.DefaultStallAfter.
	StallAfter time.Duration
	// MaxDiskBytes bounds one image's disk. Default DefaultMaxDiskBytes.
	MaxDiskBytes uint64
	// MaxAccountBytes bounds the disks of one account's images together. Default DefaultMaxAccountBytes.
	MaxAccountBytes uint64
	// MaxAccountImages bounds the images of one account. Default image.DefaultMaxPerAccount.
	MaxAccountImages int
}

const (
	// DefaultMaxDiskBytes is the largest disk of an image.
	DefaultMaxDiskBytes = 1 << 40
	// DefaultMaxAccountBytes is what one account's images may have together.
	DefaultMaxAccountBytes = 16 << 40
)

// Service implements image.Service.
type Service struct {
	db       *store.DB
	options  Options
	follower *follow.Follower
	chunks   func() (*chunk.Store, error) // opened when first needed

	uploadMu sync.Mutex // after an upload's own
	uploads  map[string]*upload

	mu     sync.RWMutex
	images map[ids.Image]imagerows.Image
}

var _ image.Service = (*Service)(nil)

// New makes the service. Reads wait until Run.
func New(db *store.DB, o Options) *Service {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.MaxDiskBytes = cmp.Or(o.MaxDiskBytes, DefaultMaxDiskBytes)
	o.MaxAccountBytes = cmp.Or(o.MaxAccountBytes, DefaultMaxAccountBytes)
	o.MaxAccountImages = cmp.Or(o.MaxAccountImages, image.DefaultMaxPerAccount)
	s := &Service{db: db, options: o, images: map[ids.Image]imagerows.Image{}, uploads: map[string]*upload{}}
	s.chunks = sync.OnceValues(func() (*chunk.Store, error) { return chunk.Open(o.Dir) })
	s.follower = follow.New(db, [][]byte{imagerows.Prefix()}, s.apply)
	return s
}

// Run follows the store and collects what no image lists, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var collecting sync.WaitGroup
	defer collecting.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	collecting.Go(func() { s.collect(ctx) })
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
	c, err := s.adopt(ctx, r.Path)
	if err != nil {
		return nil, fmt.Errorf("register image %s: %w", r.Name, err)
	}
	return s.register(ctx, r, c)
}

// register makes the row of content that is durable.
func (s *Service) register(ctx context.Context, r image.Registration, c content) (*image.Image, error) {
	if err := s.checkRoom(r, c); err != nil {
		return nil, err
	}
	row := imagerows.Image{
		ID: ids.New[ids.Image](s.options.Env.Random), Owner: r.Owner, Name: r.Name, Description: r.Description, Public: r.Public,
		SHA256: c.digest, Bytes: c.bytes, Architecture: r.Architecture, BootMode: r.BootMode,
		RootSnapshot: ids.New[ids.Snapshot](s.options.Env.Random), CreatedMs: s.options.Env.Clock.Now().UnixMilli(),
	}
	var registered imagerows.Image
	_, err := s.db.Transact(ctx, func(tx *store.Tx) (err error) {
		registered, err = imagerows.Register(ctx, tx, row, s.options.MaxAccountImages)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("register image %s: %w", r.Name, err)
	}
	return registered.View(), nil
}

// checkRoom holds the owner's bound of bytes, by the view: imports at once may exceed it by one image each.
func (s *Service) checkRoom(r image.Registration, c content) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	total := c.bytes
	for _, i := range s.images {
		if i.Owner == r.Owner && i.Name != r.Name {
			total += i.Bytes
		}
	}
	if total <= s.options.MaxAccountBytes {
		return nil
	}
	return &image.InvalidError{Field: "content", Reason: fmt.Sprintf(
		"the images of account %s would have %d GiB together, at most %d: deregister some first", r.Owner, total>>30, s.options.MaxAccountBytes>>30)}
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
