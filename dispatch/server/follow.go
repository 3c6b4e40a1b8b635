package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/session"
	"github.com/nimbrel/nimbrel/store"
)

// follow reads a snapshot and then the feed, again from a snapshot when the feed's past is gone. It is not a
// follow.Follower, since it has to know the history, and must stop when that changes.
func (s *Server) follow(ctx context.Context) error {
	for {
		version, err := s.readAll(ctx)
		if errors.Is(err, store.ErrTooOld) { // reading took longer than history is kept
			continue
		}
		if err != nil {
			return fmt.Errorf("read dispatch documents: %w", err)
		}
		if err := s.readFeed(ctx, version); !errors.Is(err, store.ErrCompacted) {
			return fmt.Errorf("follow dispatch documents: %w", err)
		}
	}
}

// image is the tables as read in one go.
type image struct {
	lib        *session.Library
	epochs     map[string]uint64
	identities map[string][]byte
}

// readAll replaces the documents by a snapshot's.
func (s *Server) readAll(ctx context.Context) (store.Version, error) {
	im := image{session.NewLibrary(), map[string]uint64{}, map[string][]byte{}}
	var version store.Version
	err := s.db.View(ctx, func(r store.Reader) error {
		version = r.Version()
		return dispatchrows.Scan(ctx, r, dispatchrows.Watched(), func(kv store.KV) error {
			return im.apply(store.Change{Key: kv.Key, Value: kv.Value, Version: kv.Version}, nil)
		})
	})
	if err != nil {
		return 0, err
	}
	s.docs.Lock()
	*s.lib, s.version = *im.lib, version
	close(s.advanced)
	s.advanced = make(chan struct{})
	s.docs.Unlock()
	s.mu.Lock()
	wake, end := s.outdated(im)
	s.epochs, s.identities = im.epochs, im.identities
	s.mu.Unlock()
	for _, l := range wake {
		l.wakeUp()
	}
	for _, l := range end {
		go l.conn.Close()
	}
	return version, nil
}

// outdated parts the live sessions into those that go on and those whose target has another epoch or key in im than so
// far: they say hello again, as after a change that the feed tells. It needs Server.mu.
func (s *Server) outdated(im image) (wake, end []*link) {
	for name, t := range s.targets {
		switch {
		case t.live == nil:
		case im.epochs[name] != s.epochs[name] || !bytes.Equal(im.identities[name], s.identities[name]):
			end = append(end, t.live)
		default:
			wake = append(wake, t.live)
		}
	}
	return wake, end
}

func (s *Server) readFeed(ctx context.Context, from store.Version) error {
	feed, err := s.db.Watch(ctx, from, dispatchrows.Watched())
	if err != nil {
		return err
	}
	defer feed.Close()
	for {
		b, err := feed.Next(ctx)
		if err != nil {
			return err
		}
		if err := s.takeHistory(b.History.String()); err != nil {
			return err
		}
		if err := s.takeBatch(b); err != nil {
			return err
		}
	}
}

// takeHistory makes the server ready at the first batch, which tells the history.
func (s *Server) takeHistory(h string) error {
	s.docs.Lock()
	defer s.docs.Unlock()
	if s.history == "" {
		s.history = h
		close(s.ready)
	}
	if s.history != h {
		return fmt.Errorf("history changed from %s to %s: restart the server: %w", s.history, h, store.ErrOtherHistory)
	}
	return nil
}

// takeBatch puts one transaction into the documents and wakes the sessions it concerns.
func (s *Server) takeBatch(b store.Batch) error {
	changed := map[string]bool{}
	var raised []string
	s.docs.Lock()
	s.mu.Lock()
	im := image{s.lib, s.epochs, s.identities}
	var err error
	for _, c := range b.Changes {
		if k, kerr := dispatchrows.ParseKey(c.Key); kerr == nil && (k.Table == dispatchrows.TableEpoch || k.Table == dispatchrows.TableIdentity) {
			raised = append(raised, k.Target)
		}
		if err = im.apply(c, changed); err != nil {
			break
		}
	}
	s.version = b.Version
	close(s.advanced)
	s.advanced = make(chan struct{})
	wake := map[*link]bool{}
	for doc := range changed {
		for l := range s.interest[doc] {
			wake[l] = true
		}
	}
	var end []*link
	for _, name := range raised { // its session says hello again, under the new epoch or with the new key
		if t := s.targets[name]; t != nil && t.live != nil {
			end = append(end, t.live)
		}
	}
	s.mu.Unlock()
	s.docs.Unlock()
	for l := range wake {
		l.wakeUp()
	}
	for _, l := range end {
		go l.conn.Close()
	}
	return err
}

// apply takes one row. Documents it touches are added to changed, which may be nil.
func (im *image) apply(c store.Change, changed map[string]bool) error {
	k, err := dispatchrows.ParseKey(c.Key)
	if err != nil {
		return err
	}
	switch k.Table {
	case dispatchrows.TableSeq, dispatchrows.TableFloor, dispatchrows.TableItem:
		if changed != nil {
			changed[k.ID.Doc] = true
		}
		return im.applyDocument(k, c)
	case dispatchrows.TableEpoch:
		im.epochs[k.Target] = uint64(c.Value.Int)
	case dispatchrows.TableIdentity:
		id, err := dispatchrows.DecodeIdentity(c.Value)
		if err != nil {
			return err
		}
		if im.identities[k.Target] = id.KeyHash; c.Deleted {
			delete(im.identities, k.Target)
		}
	}
	return nil
}

func (im *image) applyDocument(k dispatchrows.Key, c store.Change) error {
	if c.Deleted {
		im.applyDeleted(k)
		return nil
	}
	src := im.lib.Ensure(k.ID)
	switch k.Table {
	case dispatchrows.TableSeq:
		src.Advance(uint64(c.Value.Int))
	case dispatchrows.TableFloor:
		src.SetFloor(uint64(c.Value.Int))
	case dispatchrows.TableItem:
		it, err := dispatchrows.DecodeItem(k.Item, c.Value)
		if err != nil {
			return err
		}
		if err := session.ValidateItem(&it.Item); err != nil {
			return fmt.Errorf("item of %v: %w", k.ID, err)
		}
		src.Put(session.Entry{Item: it.Item, Topics: it.Topics})
	}
	return nil
}

// applyDeleted: a tombstone was collected, or a whole document dropped.
func (im *image) applyDeleted(k dispatchrows.Key) {
	src := im.lib.Section(k.ID)
	if src == nil {
		return
	}
	switch k.Table {
	case dispatchrows.TableSeq:
		im.lib.Drop(k.ID)
	case dispatchrows.TableItem:
		src.Remove(k.Item)
	}
}

func compareID(a, b dispatch.SectionID) int {
	return cmp.Or(cmp.Compare(a.Doc, b.Doc), cmp.Compare(a.Section, b.Section))
}
