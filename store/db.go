package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/store/internal/pool"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Options of a handle. The zero value of a field takes its default.
type Options struct {
	Cell   uint32
	Tenant string
	// MaxAttempts bounds how often Transact runs a closure that conflicts. Default 100.
	MaxAttempts int
	// MaxResends bounds how often Transact resends a commit whose outcome is unknown. Default 5.
	MaxResends int
	// Lifetime is how long a commit may wait before the engine refuses it as expired. Default 1 min, at most
	// MaxCommitLifetime.
	Lifetime time.Duration
	// Env defaults to the machine's.
	Env env.Env
}

// DB is a handle on one tenant of one cell: it sees the keys under that prefix only, relative to it. Safe for
// concurrent use.
type DB struct {
	engine   Engine
	options  Options
	prefix   []byte
	sessions sessions
}

// New returns a handle. It owns no resource: close the engine.
func New(e Engine, o Options) *DB {
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 100
	}
	if o.MaxResends == 0 {
		o.MaxResends = 5
	}
	if o.Lifetime == 0 {
		o.Lifetime = time.Minute
	}
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	return &DB{engine: e, options: o, prefix: HandlePrefix(o.Cell, o.Tenant), sessions: sessions{random: o.Env.Random}}
}

// HandlePrefix is what a handle of the cell and tenant puts before its keys.
func HandlePrefix(cell uint32, tenant string) []byte {
	return tuple.AppendText(tuple.AppendUint(nil, uint64(cell)), tenant)
}

// Result is what a committed transaction gives: its version and the results of its guards.
type Result struct {
	// Version is the transaction's, or of the snapshot it read when it wrote nothing.
	Version Version
	// Attempts is how often the closure ran.
	Attempts int
	results  []SlotResult
}

// Int returns what a slot of Add, Min or Max became; 0 when it was skipped.
func (r *Result) Int(s Slot) int64 { return r.at(s).Int }

// Element returns what a slot of Take became; 0 when it was skipped.
func (r *Result) Element(s Slot) uint64 { return r.at(s).Element }

// Label returns what a slot of FirstOf became; nil when it was skipped.
func (r *Result) Label(s Slot) []byte { return r.at(s).Label }

// Ran tells whether the operation or group of a slot ran.
func (r *Result) Ran(s Slot) bool { return s.Kind == SlotVersion || r.at(s).Ran }

func (r *Result) at(s Slot) SlotResult {
	if int(s.Op) >= len(r.results) {
		return SlotResult{}
	}
	return r.results[s.Op]
}

// Transact runs fn and commits what it collected. When a row it read has changed, fn runs again on a snapshot at least
// that new: it must have no effect but on tx. An error of fn ends it and nothing is applied. Errors: *ConflictError,
// *GuardError, *RefusedError, or one that wraps ErrUnknown or ErrUnresolved.
func (db *DB) Transact(ctx context.Context, fn func(tx *Tx) error) (*Result, error) {
	var atLeast Version
	for attempt := 1; ; attempt++ {
		tx := &Tx{db: db, errs: map[uint32]error{}}
		tx.reads.atLeast = atLeast
		answer, err := db.attempt(ctx, tx, attempt, fn)
		if err != nil {
			return nil, err
		}
		if answer.Outcome != OutcomeConflict {
			return tx.result(answer, attempt)
		}
		if attempt >= db.options.MaxAttempts {
			return nil, &ConflictError{Key: answer.Key, Version: answer.Version, Attempts: attempt}
		}
		atLeast = answer.Version
	}
}

// attempt runs the closure once and sends its commit.
func (db *DB) attempt(ctx context.Context, tx *Tx, attempt int, fn func(tx *Tx) error) (*Answer, error) {
	defer tx.release()
	if err := fn(tx); err != nil {
		return nil, err
	}
	if tx.err != nil {
		return nil, tx.err
	}
	if len(tx.ops) == 0 {
		return &Answer{Outcome: OutcomeCommitted, Version: tx.Version()}, nil
	}
	return db.commit(ctx, tx, attempt)
}

// commit sends the transaction, again and with the same bytes while its outcome is unknown.
func (db *DB) commit(ctx context.Context, tx *Tx, attempt int) (*Answer, error) {
	ticket, err := db.sessions.begin()
	if err != nil {
		return nil, err
	}
	c := &Commit{
		ID:          CommitID{Session: ticket.session.id, Seq: ticket.seq, Attempt: uint32(attempt)},
		AckedBelow:  ticket.ackedBelow,
		NotAfterMs:  db.options.Env.Clock.Now().Add(db.options.Lifetime).UnixMilli(),
		Tenant:      db.options.Tenant,
		ReadVersion: tx.Version(),
		ReadHistory: tx.history(),
		Reads:       tx.reads.ranges,
		Ops:         tx.ops,
	}
	for resend := 0; ; resend++ {
		answer, err := db.engine.Commit(ctx, c)
		if resend > 0 {
			err = ofResent(answer, err)
		}
		unknown := errors.Is(err, ErrUnknown)
		if unknown && resend < db.options.MaxResends && ctx.Err() == nil {
			continue
		}
		db.sessions.end(ticket, unknown)
		if err != nil {
			return nil, fmt.Errorf("commit %v: %w", c.ID, err)
		}
		return answer, nil
	}
}

// ofResent is the error of a copy whose original may have been applied. A refusal that comes before the engine looks for
// the commit's record speaks of the copy alone, and so does an error: the outcome stays unknown.
func ofResent(a *Answer, err error) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return err
	case err != nil:
		return fmt.Errorf("resend: %w: %w", ErrUnknown, err)
	case a.Outcome != OutcomeRefused:
		return nil
	}
	switch a.Reason {
	case ReasonOverloaded, ReasonDiskFull, ReasonExpired:
		return fmt.Errorf("resend: %w: refused, %v: %s", ErrUnknown, a.Reason, a.Detail)
	}
	return nil
}

func (tx *Tx) result(a *Answer, attempts int) (*Result, error) {
	switch a.Outcome {
	case OutcomeCommitted:
		return &Result{Version: a.Version, Attempts: attempts, results: a.Results}, nil
	case OutcomeGuardFailed:
		return nil, tx.guardError(a.Failure)
	case OutcomeCancelled:
		return nil, &RefusedError{Reason: ReasonCancelled, Retry: ReasonCancelled.Retry()}
	default:
		return nil, &RefusedError{Reason: a.Reason, Retry: a.Reason.Retry(), Detail: a.Detail}
	}
}

func (tx *Tx) guardError(f *Failure) *GuardError {
	if f == nil {
		return nil
	}
	return &GuardError{
		Op: int(f.Op), Key: tx.db.relative(f.Key), Found: f.Found, Value: f.Value, Version: f.Version,
		InsideFound: f.InsideFound, Inside: f.Inside, Err: tx.errs[f.Op], Cause: tx.guardError(f.Cause),
	}
}

// View calls fn with one snapshot of the latest durable state.
func (db *DB) View(ctx context.Context, fn func(r Reader) error) error {
	s, err := db.engine.Snapshot(ctx, 0)
	if err != nil {
		return fmt.Errorf("open snapshot: %w", err)
	}
	defer s.Release()
	return fn(&view{db: db, snapshot: s})
}

// Version returns the version of the latest durable state.
func (db *DB) Version(ctx context.Context) (Version, error) {
	s, err := db.engine.Snapshot(ctx, 0)
	if err != nil {
		return 0, fmt.Errorf("open snapshot: %w", err)
	}
	defer s.Release()
	return s.Version(), nil
}

// Watch streams the transactions after version from that touch a key under one of the prefixes; none means all of the
// handle. Keys are relative to the handle.
func (db *DB) Watch(ctx context.Context, from Version, prefixes ...[]byte) (Feed, error) {
	whole := [][]byte{db.prefix}
	if len(prefixes) > 0 {
		whole = whole[:0]
	}
	for _, p := range prefixes {
		whole = append(whole, db.absolute(p))
	}
	f, err := db.engine.Watch(ctx, from, whole...)
	if err != nil {
		return nil, err
	}
	return &relativeFeed{db: db, Feed: f}, nil
}

// Resume is Watch from a position that was kept, perhaps by another process. It returns ErrOtherHistory when the store is
// of another history than the position, as after a restore from a backup, whatever the versions are.
func (db *DB) Resume(ctx context.Context, at Position, prefixes ...[]byte) (Feed, error) {
	s, err := db.engine.Snapshot(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	history := s.History()
	s.Release()
	if history != at.History {
		return nil, fmt.Errorf("resume from version %d of %v, this is %v: %w", at.Version, at.History, history, ErrOtherHistory)
	}
	return db.Watch(ctx, at.Version, prefixes...)
}

// PoolFree returns how many elements of a pool are free, or ErrNoPool. Read it in a View or at a snapshot: as a
// validated read it conflicts with every Take.
func PoolFree(ctx context.Context, r Reader, prefix []byte) (uint64, error) {
	v, found, err := r.Get(ctx, FreeKey(prefix))
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("pool %q: %w", prefix, ErrNoPool)
	}
	return uint64(v.Int), nil
}

// PoolTaken lists the elements of a pool that are taken, the reserved ones included, in order. The error says what of the
// pool's rows does not go together. It reads the whole pool, for checkers.
func PoolTaken(ctx context.Context, r Reader, prefix []byte) ([]uint64, error) {
	free, err := PoolFree(ctx, r, prefix)
	if err != nil {
		return nil, err
	}
	size, _, err := r.Get(ctx, pool.SizeKey(prefix))
	if err != nil {
		return nil, err
	}
	var taken []uint64
	below := func(i uint64) bool { return false } // whether a page of the level below has nothing free
	for level, n := 0, uint64(size.Int); level < pool.Levels(uint64(size.Int)); level, n = level+1, (n+pool.PageBits-1)/pool.PageBits {
		clear := map[uint64]bool{}
		for page := uint64(0); page*pool.PageBits < n; page++ {
			if err := clearBits(ctx, r, pool.PageKey(prefix, level, page), page*pool.PageBits, n, clear); err != nil {
				return nil, err
			}
		}
		for i := range n {
			if level > 0 && clear[i] != below(i) {
				return nil, fmt.Errorf("pool %q: bit %d of level %d says free %t", prefix, i, level, !clear[i])
			}
			if level == 0 && clear[i] {
				taken = append(taken, i)
			}
		}
		below = func(i uint64) bool {
			for bit := i * pool.PageBits; bit < min(n, (i+1)*pool.PageBits); bit++ {
				if !clear[bit] {
					return false
				}
			}
			return true
		}
	}
	if uint64(len(taken))+free != uint64(size.Int) {
		return nil, fmt.Errorf("pool %q: of %d elements %d are taken and %d are counted as free", prefix, size.Int, len(taken), free)
	}
	return taken, nil
}

// clearBits notes the bits of a page, which begins at first of n, that are not set. An absent page is all set.
func clearBits(ctx context.Context, r Reader, key []byte, first, n uint64, into map[uint64]bool) error {
	row, found, err := r.Get(ctx, key)
	if err != nil || !found {
		return err
	}
	if len(row.Bytes) != pool.PageBytes {
		return fmt.Errorf("pool page %q has %d bytes", key, len(row.Bytes))
	}
	for i := range min(pool.PageBits, n-first) {
		if row.Bytes[i/8]&(1<<(i%8)) == 0 {
			into[first+i] = true
		}
	}
	return nil
}

// FreeKey names the integer row that counts a pool's free elements, for guards on it.
func FreeKey(prefix []byte) []byte { return pool.FreeKey(prefix) }
