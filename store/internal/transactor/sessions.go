package transactor

import (
	"maps"
	"slices"

	"github.com/nimbrel/nimbrel/store"
)

// MaxSessions bounds the sessions that are remembered at once.
const MaxSessions = 65536

// Record is a remembered answer: what makes a resent commit apply at most once. It is dropped when the client has
// acknowledged it, or after NotAfterMs, when a copy of the commit would be refused as expired anyway.
type Record struct {
	ID         store.CommitID `cbor:"1,keyasint"`
	Digest     [16]byte       `cbor:"2,keyasint"`
	AckedBelow uint64         `cbor:"3,keyasint,omitempty"`
	NotAfterMs int64          `cbor:"4,keyasint"`
	Answer     *store.Answer  `cbor:"5,keyasint"`
}

// RecordKey names a record.
type RecordKey struct {
	Session store.SessionID
	Seq     uint64
}

// Sessions is the memory of answers. The zero value is empty. Not safe for concurrent use.
type Sessions struct {
	sessions map[store.SessionID]*session
}

type session struct {
	ackedBelow uint64
	records    map[uint64]Record
	low        uint64 // no record below
	lastMs     int64  // when the last of its commits expires: until then acknowledged ones must be refused
}

// lookup answers a commit that was answered before, or that must not run any more; else nil.
func (s *Sessions) lookup(c *store.Commit, digest [16]byte) *store.Answer {
	known := s.sessions[c.ID.Session]
	if known == nil {
		return nil
	}
	if c.ID.Seq < known.ackedBelow {
		return store.Refuse(store.ReasonExpired, "commit %v was acknowledged by its client", c.ID)
	}
	r, ok := known.records[c.ID.Seq]
	switch {
	case !ok:
		return nil
	case c.Cancel:
		return r.Answer
	case r.Answer.Outcome == store.OutcomeCancelled:
		return store.Refuse(store.ReasonCancelled, "commit %v was cancelled", c.ID)
	case r.Digest != digest:
		return store.Refuse(store.ReasonMismatch, "commit %v was answered with other content or as attempt %d",
			c.ID, r.ID.Attempt)
	}
	return r.Answer
}

// room refuses a commit whose answer cannot be remembered.
func (s *Sessions) room(c *store.Commit) *store.Answer {
	known := s.sessions[c.ID.Session]
	if known == nil {
		if len(s.sessions) >= MaxSessions {
			return store.Refuse(store.ReasonOverloaded, "%d sessions are open", MaxSessions)
		}
		return nil
	}
	if len(known.records) >= store.MaxSessionRecords && !known.frees(c.AckedBelow) {
		return store.Refuse(store.ReasonOverloaded, "session has %d answers that its client did not acknowledge",
			len(known.records))
	}
	return nil
}

// frees says whether an acknowledgement drops a record. What lies below it may be a gap, which drops none.
func (k *session) frees(below uint64) bool {
	if below <= k.low {
		return false
	}
	for seq := range k.records {
		if seq < below {
			return true
		}
	}
	return false
}

// remember adds the record of a definite answer to an effect. It stays as long as copies of the commits that it
// acknowledges are not expired: after a restart it is what refuses them.
func (s *Sessions) remember(in Input, e Effect) Effect {
	c := in.Commit
	notAfterMs := c.NotAfterMs
	if known := s.sessions[c.ID.Session]; known != nil {
		notAfterMs = max(notAfterMs, known.lastMs)
	}
	e.Record = &Record{ID: c.ID, Digest: in.Digest, AckedBelow: c.AckedBelow, NotAfterMs: notAfterMs, Answer: e.Answer}
	return e
}

// Keep stores a record and returns the names of those that it acknowledges, now dropped.
func (s *Sessions) Keep(r Record) []RecordKey {
	if s.sessions == nil {
		s.sessions = map[store.SessionID]*session{}
	}
	known := s.sessions[r.ID.Session]
	if known == nil {
		known = &session{records: map[uint64]Record{}, low: r.ID.Seq}
		s.sessions[r.ID.Session] = known
	}
	known.records[r.ID.Seq] = r
	known.low = min(known.low, r.ID.Seq)
	known.lastMs = max(known.lastMs, r.NotAfterMs)
	return known.acknowledge(r.ID.Session, r.AckedBelow)
}

func (k *session) acknowledge(id store.SessionID, below uint64) []RecordKey {
	k.ackedBelow = max(k.ackedBelow, below)
	var dropped []RecordKey
	drop := func(seq uint64) {
		if _, ok := k.records[seq]; ok {
			delete(k.records, seq)
			dropped = append(dropped, RecordKey{Session: id, Seq: seq})
		}
	}
	if k.ackedBelow > k.low && k.ackedBelow-k.low > 2*store.MaxSessionRecords {
		k.low = k.ackedBelow // a gap in the sequence: do not walk it
		for _, seq := range slices.Sorted(maps.Keys(k.records)) {
			if seq < k.ackedBelow {
				drop(seq)
			}
		}
	}
	for ; k.low < k.ackedBelow; k.low++ {
		drop(k.low)
	}
	return dropped
}

// Expire drops what is of no use after a time, and returns the names of the dropped records in order. It walks all
// records: call it seldom.
func (s *Sessions) Expire(nowMs int64) []RecordKey {
	var dropped []RecordKey
	for id, known := range s.sessions {
		dropped = append(dropped, s.expireSession(id, known, nowMs)...)
	}
	slices.SortFunc(dropped, func(a, b RecordKey) int {
		if c := slices.Compare(a.Session[:], b.Session[:]); c != 0 {
			return c
		}
		return int(int64(a.Seq - b.Seq))
	})
	return dropped
}

func (s *Sessions) expireSession(id store.SessionID, known *session, nowMs int64) []RecordKey {
	var dropped []RecordKey
	for seq, r := range known.records {
		if r.NotAfterMs < nowMs {
			delete(known.records, seq)
			dropped = append(dropped, RecordKey{Session: id, Seq: seq})
		}
	}
	if known.lastMs < nowMs {
		delete(s.sessions, id)
	}
	return dropped
}

// Len returns how many records are kept.
func (s *Sessions) Len() int {
	n := 0
	for _, known := range s.sessions {
		n += len(known.records)
	}
	return n
}

// Clone returns an independent copy, for a search that branches.
func (s *Sessions) Clone() Sessions {
	out := Sessions{sessions: make(map[store.SessionID]*session, len(s.sessions))}
	for id, known := range s.sessions {
		k := *known
		k.records = maps.Clone(known.records)
		out.sessions[id] = &k
	}
	return out
}
