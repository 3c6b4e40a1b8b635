package admin

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
)

// topKeys bounds each list of keys.
const topKeys = 20

// Stats are a running store's counts since it was opened, and its sizes now.
type Stats struct {
	History string        `json:"history"`
	Durable store.Version `json:"durable"`
	Floor   store.Version `json:"floor"` // oldest version that can be read

	Commits       uint64 `json:"commits"`
	Conflicts     uint64 `json:"conflicts"`
	GuardFailures uint64 `json:"guardFailures"`
	Refused       uint64 `json:"refused"`
	Batches       uint64 `json:"batches"`
	BatchCommits  uint64 `json:"batchCommits"`
	Waiting       int    `json:"waiting"`
	// SyncP50Us and SyncP99Us are bounds that so many of the batches were under, from apply to durable, in microseconds.
	SyncP50Us uint64 `json:"syncP50Us"`
	SyncP99Us uint64 `json:"syncP99Us"`

	DiskBytes     uint64 `json:"diskBytes"`
	LogBytes      uint64 `json:"logBytes"` // of the engine's own log, within DiskBytes
	HistoryBytes  uint64 `json:"historyBytes"`
	MemTableBytes uint64 `json:"memTableBytes"`
	CacheBytes    uint64 `json:"cacheBytes"`

	// The keys most often written (an estimate), and those that conflicts and failed guards named.
	HotKeys      []KeyCount `json:"hotKeys"`
	ConflictKeys []KeyCount `json:"conflictKeys"`
	GuardKeys    []KeyCount `json:"guardKeys"`

	Bounds Bounds `json:"bounds"`
}

// Bounds are an engine's options that bound what it uses.
type Bounds struct {
	HistoryMs    int64  `json:"historyMs"`
	HistoryBytes uint64 `json:"historyBytes"`
	QueueCommits int    `json:"queueCommits"`
	BatchCommits int    `json:"batchCommits"`
	RecentRows   int    `json:"recentRows"`
	FeedBytes    int    `json:"feedBytes"`
	CacheBytes   int64  `json:"cacheBytes"`
	ReserveBytes uint64 `json:"reserveBytes"`
}

// KeyCount counts one whole key. An empty one counts all keys beyond those that are counted one by one.
type KeyCount struct {
	Key   []byte `json:"key"`
	Count uint64 `json:"count"`
}

// Summarize reads an engine's counts.
func Summarize(e *embed.Engine) Stats {
	s, o := e.Stats(), e.Options()
	return Stats{
		History: e.History().String(), Durable: s.Durable, Floor: s.Floor,
		Commits: s.Commits, Conflicts: s.Conflicts, GuardFailures: s.GuardFailures, Refused: s.Refused,
		Batches: s.Batches, BatchCommits: s.BatchCommits, Waiting: s.Waiting,
		SyncP50Us: quantile(s.SyncMicros[:], 50), SyncP99Us: quantile(s.SyncMicros[:], 99),
		DiskBytes: s.DiskBytes, LogBytes: s.LogBytes, HistoryBytes: s.HistoryBytes, MemTableBytes: s.MemTableBytes, CacheBytes: s.CacheBytes,
		HotKeys: top(s.HotKeys), ConflictKeys: top(s.ConflictKeys), GuardKeys: top(s.GuardKeys),
		Bounds: Bounds{
			HistoryMs: int64(o.History / time.Millisecond), HistoryBytes: o.HistoryBytes, QueueCommits: o.QueueCommits, BatchCommits: o.BatchCommits,
			RecentRows: o.RecentRows, FeedBytes: o.FeedBytes, CacheBytes: o.CacheBytes, ReserveBytes: o.ReserveBytes,
		},
	}
}

// quantile is the least power of two, in microseconds, that so many per cent of what a histogram counts are under.
func quantile(counts []uint64, percent uint64) uint64 {
	var all, seen uint64
	for _, n := range counts {
		all += n
	}
	for i, n := range counts {
		if seen += n; all > 0 && seen*100 >= all*percent {
			return 1 << i
		}
	}
	return 0
}

func top(m map[string]uint64) []KeyCount {
	list := make([]KeyCount, 0, len(m))
	for key, n := range m {
		list = append(list, KeyCount{Key: []byte(key), Count: n})
	}
	slices.SortFunc(list, func(a, b KeyCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), bytes.Compare(a.Key, b.Key))
	})
	return list[:min(len(list), topKeys)]
}
