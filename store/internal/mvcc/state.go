package mvcc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// Format is the number of the on-disk format that this program writes.
//
//	1: the first: versioned rows, log, records.
const Format = 1

var (
	// ErrNewerFormat says that a newer program wrote the directory.
	ErrNewerFormat = errors.New("directory has a newer format: use the program that wrote it, or a newer one")
	// ErrNoStore says that there is no store in the directory.
	ErrNoStore = errors.New("no store in this directory")
	// ErrLocked says that the directory is open already.
	ErrLocked = errors.New("the store is open in another process: stop that one first (its server, or `nimbrel dev down`)")
)

// Options of Open.
type Options struct {
	FS       vfs.FS // default: the machine's
	ReadOnly bool
	Random   io.Reader // for the history id of a new store
	NowMs    int64     // Unix time, for the format's history
	Logger   pebble.Logger
	// CacheBytes and MemTableBytes size Pebble; defaults 64 MiB and 32 MiB.
	CacheBytes    int64
	MemTableBytes uint64
}

// State is an open directory. Reads are safe for concurrent use; batches are applied by one goroutine at a time.
type State struct {
	db      *pebble.DB
	lock    *pebble.Lock
	history store.HistoryID
	last    Entry // newest at opening

	mu    sync.Mutex
	floor floor // mu
}

// formatRow says which format a directory has, and had.
type formatRow struct {
	Number  uint64          `cbor:"1,keyasint"`
	History store.HistoryID `cbor:"2,keyasint"`
	Changes []formatChange  `cbor:"3,keyasint"`
}

// formatChange is one step of a directory's life: a format it got, or a restore, which names what it was restored from.
type formatChange struct {
	Number      uint64        `cbor:"1,keyasint"`
	AtMs        int64         `cbor:"2,keyasint"`
	From        []byte        `cbor:"3,keyasint,omitempty"` // a HistoryID
	FromVersion store.Version `cbor:"4,keyasint,omitempty"`
}

// floor is the oldest version that can be read.
type floor struct {
	Version store.Version `cbor:"1,keyasint"`
	Written uint64        `cbor:"2,keyasint"`
}

var (
	formatKey = prefixKey(spaceMeta, []byte("format"))
	floorKey  = prefixKey(spaceMeta, []byte("floor"))
)

// Open opens a directory, or creates it unless it is to be read only.
func Open(dir string, o Options) (*State, error) {
	p := pebbleOptions(o)
	lock, err := lockDirectory(dir, p)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	p.Lock = lock
	s := &State{lock: lock}
	if s.db, err = pebble.Open(dir, p); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, errors.Join(known(err), lock.Close()))
	}
	if err := s.load(o); err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, errors.Join(err, s.Close()))
	}
	return s, nil
}

// lockDirectory makes this the only user of the directory, which it creates unless it is to be read only.
func lockDirectory(dir string, p *pebble.Options) (*pebble.Lock, error) {
	if _, err := p.FS.Stat(dir); err != nil {
		if p.ReadOnly {
			return nil, ErrNoStore
		}
		if err := makeDirectory(p.FS, dir); err != nil {
			return nil, err
		}
	}
	lock, err := pebble.LockDirectory(dir, p.FS)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w (%v)", ErrLocked, err)
	}
	return lock, err
}

// makeDirectory makes a directory whose name survives a loss of power, as what is synced in it must. The folders above it
// may be as new; one that this user may not open is older than this store.
func makeDirectory(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for above := fs.PathDir(dir); ; above = fs.PathDir(above) {
		f, err := fs.OpenDir(above)
		if err != nil {
			return nil //nolint:nilerr // not ours
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync folder %s: %w", above, err)
		}
		if above == fs.PathDir(above) {
			return nil
		}
	}
}

// known turns Pebble's error into ours where a caller branches.
func known(err error) error {
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return ErrNoStore
	}
	return err
}

func pebbleOptions(o Options) *pebble.Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = 32 << 20
	}
	p := &pebble.Options{
		Comparer:           Comparer,
		FS:                 o.FS,
		ReadOnly:           o.ReadOnly,
		ErrorIfNotExists:   o.ReadOnly,
		FormatMajorVersion: pebble.FormatNewest,
		CacheSize:          o.CacheBytes,
		MemTableSize:       o.MemTableBytes,
		Logger:             o.Logger,
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// load reads the format, or writes it into a new directory.
func (s *State) load(o Options) error {
	var f formatRow
	found, err := s.meta(formatKey, &f)
	if err != nil {
		return err
	}
	switch {
	case !found && o.ReadOnly:
		return ErrNoStore
	case !found:
		return s.create(o)
	case f.Number > Format:
		return fmt.Errorf("format %d, this program knows up to %d: %w", f.Number, Format, ErrNewerFormat)
	}
	s.history = f.History
	if _, err := s.meta(floorKey, &s.floor); err != nil {
		return err
	}
	if s.last, err = s.lastEntry(); err != nil {
		return err
	}
	if s.last.Version < s.floor.Version { // the log was collected to its end
		s.last = Entry{Version: s.floor.Version, Written: s.floor.Written}
	}
	return nil
}

func (s *State) create(o Options) error {
	if _, err := io.ReadFull(o.Random, s.history[:]); err != nil {
		return fmt.Errorf("draw history id: %w", err)
	}
	b, err := cbor.Marshal(formatRow{
		Number: Format, History: s.history, Changes: []formatChange{{Number: Format, AtMs: o.NowMs}},
	})
	if err != nil {
		return fmt.Errorf("encode format: %w", err)
	}
	return s.db.Set(formatKey, b, pebble.Sync)
}

func (s *State) meta(key []byte, into any) (found bool, err error) {
	b, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key, err)
	}
	defer closer.Close()
	if err := cbor.Unmarshal(b, into); err != nil {
		return false, fmt.Errorf("decode %q: %w", key, err)
	}
	return true, nil
}

// History returns the id that the directory got when it was created.
func (s *State) History() store.HistoryID { return s.history }

// Last returns the newest log entry at opening; its version is 0 in a new store.
func (s *State) Last() Entry { return s.last }

// Floor returns the oldest version that can be read.
func (s *State) Floor() store.Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor.Version
}

// Collected returns the floor, and the bytes of rows that were written up to it.
func (s *State) Collected() (store.Version, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floor.Version, s.floor.Written
}

// Metrics returns Pebble's own.
func (s *State) Metrics() *pebble.Metrics { return s.db.Metrics() }

// Close closes the directory.
func (s *State) Close() error { return errors.Join(s.db.Close(), s.lock.Close()) }

// Records calls fn with every stored record, by session and sequence.
func (s *State) Records(fn func(transactor.Record)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceRecord, 0}, UpperBound: []byte{spaceRecord + 1, 0}})
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		r, err := parseRecord(it.Value())
		if err != nil {
			return err
		}
		fn(r)
	}
	return it.Error()
}

func parseRecord(b []byte) (r transactor.Record, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("record: %v: %w", err, errMalformed)
	}
	if r.Answer == nil {
		return r, fmt.Errorf("record without its answer: %w", errMalformed)
	}
	return r, nil
}

// Batch gathers what becomes durable together.
type Batch struct {
	b       *pebble.Batch
	scratch []byte
}

// NewBatch returns an empty batch.
func (s *State) NewBatch() *Batch { return &Batch{b: s.db.NewBatch()} }

// Empty tells whether there is nothing to apply.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Write adds one version's rows and its log entry, and returns what the entry counts as written.
func (b *Batch) Write(v store.Version, timeMs int64, written uint64, writes []transactor.Write) (uint64, error) {
	e := Entry{Version: v, TimeMs: timeMs, Keys: make([][]byte, 0, len(writes))}
	for _, w := range writes {
		b.scratch = appendValue(b.scratch[:0], w)
		key := rowKey(w.Key, v)
		if err := b.b.Set(key, b.scratch, nil); err != nil {
			return 0, fmt.Errorf("write row %q: %w", w.Key, err)
		}
		written += uint64(2*len(key) + len(b.scratch))
		e.Keys = append(e.Keys, w.Key)
	}
	e.Written = written
	b.scratch = e.append(b.scratch[:0])
	return written, b.b.Set(logKey(v), b.scratch, nil)
}

// Record adds a record.
func (b *Batch) Record(r *transactor.Record) error {
	value, err := cbor.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record %v: %w", r.ID, err)
	}
	return b.b.Set(recordKey(transactor.RecordKey{Session: r.ID.Session, Seq: r.ID.Seq}), value, nil)
}

// Drop removes records.
func (b *Batch) Drop(keys []transactor.RecordKey) error {
	for _, k := range keys {
		if err := b.b.Delete(recordKey(k), nil); err != nil {
			return fmt.Errorf("drop record: %w", err)
		}
	}
	return nil
}

// Apply makes the batch visible and starts its sync. Call Wait next.
func (s *State) Apply(b *Batch) error { return s.db.ApplyNoSyncWait(b.b, pebble.Sync) }

// Wait returns when the applied batch is durable, and frees it.
func (b *Batch) Wait() error { return errors.Join(b.b.SyncWait(), b.b.Close()) }

// Discard frees a batch that was not applied.
func (b *Batch) Discard() error { return b.b.Close() }

func cloneKey(key []byte) []byte { return slices.Clone(key) }
