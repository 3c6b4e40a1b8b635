package wire

import "github.com/nimbrel/nimbrel/store"

// Version of the messages. Both ends have the same or do not speak.
const Version = 1

// The methods; numbers are part of the protocol.
const (
	MethodHello    uint32 = 1
	MethodSnapshot uint32 = 2
	MethodGet      uint32 = 3
	MethodRange    uint32 = 4
	MethodRelease  uint32 = 5
	MethodCommit   uint32 = 6
)

// The streams by name. On StreamCommit the client sends one Commit and reads one Reply, for commits and answers beyond
// MaxRequestBytes. On StreamWatch it sends one Watch and reads a Reply, then Batches; a Reply that is no batch ends it.
const (
	StreamCommit = "store/commit"
	StreamWatch  = "store/watch"
)

const (
	// MaxRequestBytes bounds what is sent as a request; above, a stream carries it.
	MaxRequestBytes = 512 << 10
	// MaxCommitBytes bounds an encoded commit: the largest transaction, with room for its structure.
	MaxCommitBytes = 3 * store.MaxTransactionBytesLimit
	// MaxMessageBytes bounds what a server sends in one message: a transaction that deleted MaxDeletedRows longest keys.
	MaxMessageBytes = 128 << 20
	// MaxPrefixes bounds the prefixes of one watch.
	MaxPrefixes = 1024
	// MaxReleases bounds the snapshots of one release.
	MaxReleases = 1024
	// pageBytes is about how much one answer to a Range holds.
	pageBytes = MaxRequestBytes
)

// SnapshotID names a snapshot that a server holds. It is drawn at random, so that a client cannot name another's, and
// outlives the connection that took it.
type SnapshotID [16]byte

// Hello is the first request of a connection.
type Hello struct {
	Version int `cbor:"1,keyasint"`
}

// Welcome answers it.
type Welcome struct {
	Version int             `cbor:"1,keyasint"`
	History store.HistoryID `cbor:"2,keyasint"`
}

// Open asks for a snapshot.
type Open struct {
	AtLeast store.Version `cbor:"1,keyasint,omitempty"`
}

// Opened answers it.
type Opened struct {
	ID      SnapshotID      `cbor:"1,keyasint"`
	History store.HistoryID `cbor:"2,keyasint"`
	Version store.Version   `cbor:"3,keyasint,omitempty"`
}

// Get reads a row.
type Get struct {
	ID  SnapshotID `cbor:"1,keyasint"`
	Key []byte     `cbor:"2,keyasint"`
}

// Got answers it.
type Got struct {
	Found   bool          `cbor:"1,keyasint,omitempty"`
	Value   store.Value   `cbor:"2,keyasint"`
	Version store.Version `cbor:"3,keyasint,omitempty"`
}

// Range reads a part of a range. Unbounded stands for a nil End.
type Range struct {
	ID        SnapshotID `cbor:"1,keyasint"`
	Begin     []byte     `cbor:"2,keyasint,omitempty"`
	End       []byte     `cbor:"3,keyasint,omitempty"`
	Unbounded bool       `cbor:"4,keyasint,omitempty"`
	Limit     int        `cbor:"5,keyasint"`
	Reverse   bool       `cbor:"6,keyasint,omitempty"`
}

// Row is one row of a Page.
type Row struct {
	Key     []byte        `cbor:"1,keyasint"`
	Value   store.Value   `cbor:"2,keyasint"`
	Version store.Version `cbor:"3,keyasint,omitempty"`
}

// Page answers Range: its first rows. More tells that the rest has to be asked for.
type Page struct {
	Rows []Row `cbor:"1,keyasint,omitempty"`
	More bool  `cbor:"2,keyasint,omitempty"`
}

// Release ends snapshots.
type Release struct {
	IDs []SnapshotID `cbor:"1,keyasint"`
}

// Watch begins a feed. With Pinned set, the store must be of History.
type Watch struct {
	From     store.Version   `cbor:"1,keyasint,omitempty"`
	Prefixes [][]byte        `cbor:"2,keyasint,omitempty"`
	History  store.HistoryID `cbor:"3,keyasint"`
	Pinned   bool            `cbor:"4,keyasint,omitempty"`
}

// Reply is a message of the server on a stream. A Code other than 0 is an error and the last message.
type Reply struct {
	Code    uint32          `cbor:"1,keyasint,omitempty"`
	Text    string          `cbor:"2,keyasint,omitempty"`
	Answer  *store.Answer   `cbor:"3,keyasint,omitempty"`
	History store.HistoryID `cbor:"4,keyasint"`
	Batch   *Batch          `cbor:"5,keyasint,omitempty"`
}

// Batch is a transaction or mark of a feed, of the history that the first Reply named.
type Batch struct {
	Version  store.Version  `cbor:"1,keyasint"`
	Changes  []store.Change `cbor:"2,keyasint,omitempty"`
	Progress bool           `cbor:"3,keyasint,omitempty"`
}

// NewPage puts rows in a page up to its bound, at least one of them. More says that some of these rows, or others after
// them, are left.
func NewPage(rows []store.KV, more bool) Page {
	p, size := Page{More: more}, 0
	for i, kv := range rows {
		if size >= pageBytes {
			p.More = true
			break
		}
		size += len(kv.Key) + len(kv.Value.Bytes) + 48
		p.Rows = append(p.Rows, Row(rows[i]))
	}
	return p
}

// Full tells whether so many bytes fill a page.
func Full(bytes int) bool { return bytes >= pageBytes }

// After narrows a range to what follows key.
func After(o store.RangeOptions, key []byte) store.RangeOptions {
	if o.Reverse {
		o.End = key
	} else {
		o.Begin = append(append(make([]byte, 0, len(key)+1), key...), 0)
	}
	return o
}
