package core

import (
	"bytes"
	"slices"
	"sort"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// recent holds the rows of the newest versions: the conflict window, the overlay of what the base does not show yet, and
// the latest state of hot rows without a read of the base. It knows every write after its floor.
type recent struct {
	limit   int
	floor   store.Version
	shown   store.Version // newest version that the base shows
	rows    map[string]recentRow
	commits []recentCommit // versions floor+1 and on, consecutive
	entries int            // keys in commits
}

type recentRow struct {
	value   store.Value
	deleted bool
	version store.Version
}

type recentCommit struct {
	version store.Version
	keys    []string // sorted
}

func newRecent(floor store.Version, limit int) recent {
	return recent{limit: limit, floor: floor, shown: floor, rows: map[string]recentRow{}}
}

// add takes over the writes of a version, which are in key order.
func (r *recent) add(v store.Version, writes []transactor.Write) {
	c := recentCommit{version: v, keys: make([]string, len(writes))}
	for i, w := range writes {
		c.keys[i] = string(w.Key)
		r.rows[c.keys[i]] = recentRow{value: w.Value, deleted: w.Deleted, version: v}
	}
	r.commits = append(r.commits, c)
	r.entries += len(writes)
}

// shows says that the base shows everything up to a version, and forgets the oldest of that beyond the limit. Commits
// count as entries too, so that empty ones are forgotten as well.
func (r *recent) shows(v store.Version) {
	r.shown = v
	drop := 0
	for ; drop < len(r.commits) && r.commits[drop].version <= v && r.entries+len(r.commits)-drop > r.limit; drop++ {
		c := r.commits[drop]
		for _, key := range c.keys {
			if r.rows[key].version == c.version {
				delete(r.rows, key)
			}
		}
		r.entries -= len(c.keys)
		r.floor = c.version
	}
	clear(r.commits[:drop]) // release the keys of what the slice still spans
	r.commits = r.commits[drop:]
}

// since returns the commits after a version.
func (r *recent) since(v store.Version) []recentCommit {
	i := sort.Search(len(r.commits), func(i int) bool { return r.commits[i].version > v })
	return r.commits[i:]
}

// within returns the keys of a commit in [begin, end); a nil end has no bound.
func (c recentCommit) within(begin, end []byte) []string {
	from, _ := slices.BinarySearch(c.keys, string(begin))
	to := len(c.keys)
	if end != nil {
		to, _ = slices.BinarySearch(c.keys, string(end))
	}
	return c.keys[from:max(from, to)]
}

// latest is the newest state: the base under the recent rows.
type latest struct{ *Core }

var _ transactor.View = latest{}

func (l latest) Get(key []byte) (transactor.Row, error) {
	if row, ok := l.recent.rows[string(key)]; ok {
		return transactor.Row{Value: row.value, Version: row.version, Found: !row.deleted}, nil
	}
	return l.base.Get(key)
}

func (l latest) Keys(begin, end []byte, limit int) ([][]byte, error) {
	// Rows that were deleted since still show in the base: ask for as many more.
	changed := map[string]bool{}
	for _, c := range l.recent.since(l.recent.shown) {
		for _, key := range c.within(begin, end) {
			changed[key] = true
		}
	}
	keys, err := l.base.Keys(begin, end, limit+len(changed))
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k []byte) bool { return changed[string(k)] })
	for key := range changed {
		if !l.recent.rows[key].deleted {
			keys = append(keys, []byte(key))
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys[:min(limit, len(keys))], nil
}

// scanCommits bounds the commits that a range is compared with one by one; for older reads the base is asked.
const scanCommits = 2048

func (l latest) Changed(begin, end []byte, after store.Version) ([]byte, store.Version, error) {
	if end == nil {
		if row, ok := l.recent.rows[string(begin)]; ok {
			if row.version > after {
				return begin, row.version, nil
			}
			return nil, 0, nil
		}
		if after >= l.recent.floor {
			return nil, 0, nil
		}
		return l.base.Changed(begin, nil, after)
	}
	// What the base does not show yet is compared here in any case.
	from := after
	older := after < l.recent.floor || len(l.recent.since(after)) > scanCommits
	if older {
		from = max(after, l.recent.shown)
	}
	for _, c := range l.recent.since(from) {
		if keys := c.within(begin, end); len(keys) > 0 {
			return []byte(keys[0]), c.version, nil
		}
	}
	if older {
		return l.base.Changed(begin, end, after)
	}
	return nil, 0, nil
}

func (l latest) Floor() store.Version { return l.base.Floor() }
