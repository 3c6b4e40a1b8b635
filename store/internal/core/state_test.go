package core

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// kind is what a request of the small world does.
type kind uint8

const (
	addOne   kind = iota // n += 1, at most the world's limit
	takeOne              // an element of the pool of three
	giveZero             // element 0 back
	copyN                // x = n, n read before and validated
	countR               // one more row under r, r read before and validated: r/1 on an empty r, r/2 on one row
	insertR              // r/1, unless it is there
	addB                 // b += 1: refused while b holds bytes
	deleteB
)

const limitN, poolSize = 1, 3

var (
	keyN, keyX, keyB = store.Prefix("n"), store.Prefix("x"), store.Prefix("b")
	keyP, rangeR     = store.Prefix("p"), store.Prefix("r")
	keysR            = [2][]byte{store.Prefix("r", uint64(1)), store.Prefix("r", uint64(2))}
)

// model is the meaning of the requests, written down a second time: the state as a client thinks of it.
type model struct {
	n, x, b int64 // b -1: bytes
	r       [2]bool
	free    uint8
	last    int64 // of the pool; -1: none
}

// does returns the state after a request, its result, and whether its guard holds. read is what the request read before.
func (m model) does(k kind, read int64) (after model, result int64, ok bool) {
	switch k {
	case addOne:
		m.n++
		return m, m.n, m.n <= limitN
	case takeOne:
		for i := range int64(poolSize) {
			e := (m.last + 1 + i) % poolSize
			if m.free&(1<<e) != 0 {
				m.free &^= 1 << e
				m.last = e
				return m, e, true
			}
		}
		return m, 0, false
	case giveZero:
		held := m.free&1 == 0
		m.free |= 1
		return m, 0, held
	case copyN:
		m.x = read
	case countR:
		m.r[read] = true
	case insertR:
		absent := !m.r[0]
		m.r[0] = true
		return m, 0, absent
	case addB:
		m.b++
		return m, m.b, true
	case deleteB:
		m.b = 0
	}
	return m, 0, true
}

// operations is the request as the store knows it.
func (k kind) operations(read int64) (ops []store.Op, reads []store.ReadRange) {
	op := store.Op{Kind: store.OpPut}
	switch k {
	case addOne:
		op = store.Op{Kind: store.OpAdd, Key: store.RawKey(keyN), Delta: 1, Max: limitN}
	case takeOne:
		op = store.Op{Kind: store.OpTake, Key: store.RawKey(keyP), To: poolSize - 1}
	case giveZero:
		op = store.Op{Kind: store.OpGive, Key: store.RawKey(keyP)}
	case copyN:
		op.Key, op.Value = store.RawKey(keyX), store.Int(read)
		reads = []store.ReadRange{{Begin: keyN}}
	case countR:
		op.Key, op.Value = store.RawKey(keysR[read]), store.Int(1)
		reads = []store.ReadRange{{Begin: rangeR, End: store.PrefixEnd(rangeR)}}
	case insertR:
		op = store.Op{Kind: store.OpInsertIfAbsent, Key: store.RawKey(keysR[0]), Value: store.Int(1)}
	case addB:
		op = store.Op{Kind: store.OpAdd, Key: store.RawKey(keyB), Delta: 1, Max: 9}
	case deleteB:
		op = store.Op{Kind: store.OpDelete, Key: store.RawKey(keyB)}
	}
	return []store.Op{op}, reads
}

func (m model) read(k kind) int64 {
	switch {
	case k == copyN:
		return m.n
	case k == countR && m.r[0]:
		return 1
	}
	return 0
}

// name of a request: whose it is and which of their requests. Its session and sequence say the same.
type name struct{ client, request int8 }

func nameOf(id store.CommitID) name { return name{int8(id.Session[0]), int8(id.Seq - 1)} }

// verdict is what the log says of a request for ever.
type verdict struct {
	outcome    store.Outcome
	attempt    uint32
	version    store.Version
	notAfterMs int64
}

type rowVersion struct {
	version store.Version
	value   store.Value
	deleted bool
}

// node is the log up to one batch, with the state there. It is never changed.
type node struct {
	parent  *node
	batch   *Batch
	mark    Mark
	rows    map[string][]rowVersion
	records map[transactor.RecordKey]transactor.Record
	decided map[name]verdict
	models  []model // of versions 0, 1, …
	digest  [16]byte
}

// apply appends a batch to the log, and checks that it is what a sequential execution on the model does.
func (n *node) apply(b *Batch, sent map[store.CommitID]*sent) (*node, error) {
	next := &node{parent: n, batch: b, mark: Mark{At: b.At, Version: b.Version, TimeMs: b.TimeMs}, rows: maps.Clone(n.rows),
		records: maps.Clone(n.records), decided: maps.Clone(n.decided), models: slices.Clip(n.models)}
	for _, k := range b.Expired {
		delete(next.records, k)
	}
	for _, s := range b.Steps {
		if err := next.step(s, sent[s.Record.ID]); err != nil {
			return nil, err
		}
	}
	if v := store.Version(len(next.models) - 1); v != b.Version {
		return nil, fmt.Errorf("batch ends at version %d, the log at %d", b.Version, v)
	}
	next.sum()
	return next, nil
}

func (n *node) step(s Step, from *sent) error {
	r := *s.Record
	who := nameOf(r.ID)
	if before, twice := n.decided[who]; twice && (before.outcome == store.OutcomeCommitted || s.Version != 0) {
		return fmt.Errorf("request %v is decided twice: %v at %d, then %v at %d", who, before.outcome, before.version, r.Answer.Outcome, s.Version)
	}
	n.decided[who] = verdict{r.Answer.Outcome, r.ID.Attempt, r.Answer.Version, r.NotAfterMs}
	n.records[transactor.RecordKey{Session: r.ID.Session, Seq: r.ID.Seq}] = r
	for _, k := range s.Drops {
		delete(n.records, k)
	}
	if s.Version == 0 {
		return nil
	}
	return n.commit(s, from)
}

func (n *node) commit(s Step, from *sent) error {
	if s.Version != store.Version(len(n.models)) {
		return fmt.Errorf("version %d after %d", s.Version, len(n.models)-1)
	}
	for _, read := range from.commit.Reads {
		if key, v := n.changed(read.Begin, read.End, from.commit.ReadVersion); v != 0 {
			return fmt.Errorf("version %d read %q at %d, it changed at %d", s.Version, key, from.commit.ReadVersion, v)
		}
	}
	for _, w := range s.Writes {
		n.rows[string(w.Key)] = append(slices.Clip(n.rows[string(w.Key)]), rowVersion{s.Version, w.Value, w.Deleted})
	}
	want, result, ok := n.models[s.Version-1].does(from.kind, from.read)
	if n.models = append(n.models, want); !ok {
		return fmt.Errorf("version %d commits request %v, whose guard does not hold", s.Version, from.who)
	}
	if got := n.model(); got != want {
		return fmt.Errorf("version %d leaves %+v, the model has %+v", s.Version, got, want)
	}
	if got := s.Record.Answer.Results[0]; got.Int+int64(got.Element) != result && from.kind != giveZero && from.kind != insertR {
		return fmt.Errorf("version %d answers %+v, the model %d", s.Version, got, result)
	}
	return nil
}

// model reads the rows as the model has them.
func (n *node) model() model {
	m := model{n: n.row(keyN).value.Int, x: n.row(keyX).value.Int, last: -1, free: 1<<poolSize - 1}
	if b := n.row(keyB); b.value.Kind == store.KindBytes {
		m.b = -1
	} else {
		m.b = b.value.Int
	}
	for i, key := range keysR {
		m.r[i] = n.row(key).version != 0
	}
	if last := n.row(pool.LastKey(keyP)); last.version != 0 {
		m.last = last.value.Int
	}
	if page := n.row(pool.PageKey(keyP, 0, 0)); page.version != 0 {
		m.free = page.value.Bytes[0]
	}
	return m
}

func (n *node) row(key []byte) rowVersion {
	list := n.rows[string(key)]
	if len(list) == 0 || list[len(list)-1].deleted {
		return rowVersion{}
	}
	return list[len(list)-1]
}

func (n *node) changed(begin, end []byte, after store.Version) (key []byte, v store.Version) {
	for _, k := range slices.Sorted(maps.Keys(n.rows)) {
		list := n.rows[k]
		in := k == string(begin) || (end != nil && k >= string(begin) && k < string(end))
		if last := list[len(list)-1].version; in && last > after {
			return []byte(k), last
		}
	}
	return nil, 0
}

// sum gives equal logs equal digests, however they were cut into batches.
func (n *node) sum() {
	var b []byte
	u := func(v ...uint64) {
		for _, v := range v {
			b = binary.AppendUvarint(b, v)
		}
	}
	u(uint64(n.mark.Version), uint64(n.mark.TimeMs))
	for _, k := range slices.Sorted(maps.Keys(n.rows)) {
		b = append(append(b, k...), 0)
		for _, r := range n.rows[k] {
			u(uint64(r.version), uint64(r.value.Int), uint64(len(r.value.Bytes)))
			b = append(b, r.value.Bytes[:min(1, len(r.value.Bytes))]...)
		}
	}
	for c := range int8(4) {
		for r := range int8(4) {
			d := n.decided[name{c, r}]
			kept, ok := n.records[transactor.RecordKey{Session: store.SessionID{byte(c)}, Seq: uint64(r + 1)}]
			u(uint64(d.outcome), uint64(d.attempt), uint64(d.version), uint64(d.notAfterMs), uint64(kept.NotAfterMs), kept.AckedBelow)
			if ok {
				b = append(b, 1)
			}
		}
	}
	sum := sha256.Sum256(b)
	copy(n.digest[:], sum[:])
}

// shown is a node as the core's base.
type shown struct{ *node }

func (s shown) Get(key []byte) (transactor.Row, error) {
	r := s.row(key)
	return transactor.Row{Value: r.value, Version: r.version, Found: r.version != 0}, nil
}

func (s shown) Keys(begin, end []byte, limit int) (keys [][]byte, err error) {
	for k := range s.rows {
		if k >= string(begin) && k < string(end) && s.row([]byte(k)).version != 0 {
			keys = append(keys, []byte(k))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys[:min(limit, len(keys))], nil
}

func (s shown) Changed(begin, end []byte, after store.Version) ([]byte, store.Version, error) {
	key, v := s.changed(begin, end, after)
	return key, v, nil
}

func (s shown) Floor() store.Version { return 0 }

func (s shown) Records(fn func(transactor.Record)) error {
	for _, r := range s.records {
		fn(r)
	}
	return nil
}

// genesis is the log with a pool, and bytes in b.
func genesis() *node {
	n := &node{rows: map[string][]rowVersion{}, records: map[transactor.RecordKey]transactor.Record{}, decided: map[name]verdict{},
		models: []model{{last: -1, free: 1<<poolSize - 1}}}
	ops := []store.Op{{Kind: store.OpCreatePool, Key: store.RawKey(keyP), To: poolSize},
		{Kind: store.OpPut, Index: 1, Key: store.RawKey(keyB), Value: store.Bytes([]byte("b"))}}
	e, err := transactor.Evaluate(shown{n}, &transactor.Sessions{}, transactor.Input{Next: 1, MaxBytes: 1 << 20,
		Commit: &store.Commit{ID: store.CommitID{Seq: 1, Attempt: 1}, Ops: ops}})
	if err != nil || e.Answer.Outcome != store.OutcomeCommitted {
		panic(fmt.Sprint(e.Answer, err))
	}
	for _, w := range e.Writes {
		n.rows[string(w.Key)] = []rowVersion{{version: 1, value: w.Value}}
	}
	n.mark.Version = 1
	n.models = append(n.models, n.model())
	n.sum()
	return n
}
