package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/transactor"
)

// Problem is one thing that is wrong with a directory.
type Problem struct {
	Statement string `json:"statement"` // what does not hold
	Subject   string `json:"subject"`   // where
	Detail    string `json:"detail"`
}

// Counts are what a verification read.
type Counts struct {
	Rows, RowVersions, LogEntries, Records, Pools int
}

// Verify reads everything that a directory holds and reports what no run of this program leaves behind. It changes
// nothing and needs memory for one row, one log entry, the pages of one pool at a time, and the names of pools.
//
// Statements: every entry decodes and is within the limits; the log has each version above the floor once, in order of
// time; what it says was written, and nothing else, is there, byte for byte; at or below the floor a row has one state
// and it is no deletion; a record is under its own name and no newer than the log; a pool's pages, summaries, count and
// hint agree.
//
// What it cannot see is a row at or below the floor that vanished, or a value that was exchanged for one of the same
// length, in a way that the tables' own checksums agree with: for that there are a backup's digests, and the invariants of
// those who own the rows.
func (s *State) Verify(report func(Problem)) Counts {
	v := verifier{state: s, report: report, floor: s.floor, last: s.last.Version}
	for _, step := range []func() error{v.rows, v.log, v.records, v.strangers, v.pools} {
		if err := step(); err != nil {
			v.problem("readable", "files", "%v", err)
		}
	}
	return v.counts
}

type verifier struct {
	state  *State
	report func(Problem)
	floor  floor
	last   store.Version
	counts Counts
	above  int // states of rows above the floor
	pooled [][]byte
}

func (v *verifier) problem(statement, subject, format string, args ...any) {
	v.report(Problem{Statement: statement, Subject: subject, Detail: fmt.Sprintf(format, args...)})
}

// each walks a space of keys.
func (v *verifier) each(lower, upper []byte, fn func(key, value []byte) error) error {
	it, err := v.state.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := fn(it.Key(), value); err != nil {
			return err
		}
	}
	return it.Error()
}

func space(s byte) (lower, upper []byte) { return []byte{s, 0}, []byte{s + 1, 0} }

// rows reads every state of every row.
func (v *verifier) rows() error {
	var row []byte // whose states are read
	var newer store.Version
	old := 0 // its states at or below the floor
	lower, upper := space(spaceRow)
	return v.each(lower, upper, func(physical, value []byte) error {
		key, version, err := parseRowKey(physical)
		if err != nil {
			v.problem("decodes", fmt.Sprintf("key %x", physical), "%v", err)
			return nil
		}
		v.counts.RowVersions++
		first := row == nil || !bytes.Equal(key, row)
		if first {
			row, newer, old = append(row[:0], key...), 0, 0
		}
		_, deleted, err := parseValue(value)
		switch {
		case err != nil:
			v.problem("decodes", rowName(key, version), "%v", err)
		case len(key) > store.MaxKeyBytes || len(value) > store.MaxValueBytes+1:
			v.problem("limits", rowName(key, version), "key of %d bytes, value of %d", len(key), len(value)-1)
		}
		switch {
		case version == 0 || version > v.last:
			v.problem("row in log", rowName(key, version), "the newest version is %d", v.last)
		case !first && version >= newer:
			v.problem("row order", rowName(key, version), "after its version %d", newer)
		}
		newer = version
		if version > v.floor.Version {
			v.above++
		} else if old++; old > 1 || deleted {
			v.problem("history floor", rowName(key, version), "not the row's one state at the floor, version %d", v.floor.Version)
		}
		if first && !deleted {
			v.counts.Rows++
			v.pool(key)
		}
		return nil
	})
}

func rowName(key []byte, version store.Version) string {
	return fmt.Sprintf("row %q @%d", key, version)
}

// log follows the log and finds each write that it names.
func (v *verifier) log() error {
	before := Entry{Version: v.floor.Version, Written: v.floor.Written}
	written := 0
	lower, upper := space(spaceLog)
	err := v.each(lower, upper, func(physical, value []byte) error {
		name := content(physical)
		if len(name) != 9 {
			v.problem("decodes", fmt.Sprintf("key %x", physical), "no version of a log entry")
			return nil
		}
		e, err := parseEntry(store.Version(binary.BigEndian.Uint64(name[1:])), value)
		if err != nil {
			v.problem("decodes", "log", "%v", err)
			e.Version = store.Version(binary.BigEndian.Uint64(name[1:]))
		}
		v.counts.LogEntries++
		switch {
		case e.Version != before.Version+1:
			v.problem("log whole", fmt.Sprintf("log entry %d", e.Version), "follows version %d", before.Version)
		case err == nil && e.TimeMs < before.TimeMs:
			v.problem("log order", fmt.Sprintf("log entry %d", e.Version), "of %d ms, the entry before of %d ms", e.TimeMs, before.TimeMs)
		}
		if err == nil {
			written += len(e.Keys)
			if err := v.entry(e, before); err != nil {
				return err
			}
		}
		before = e
		return nil
	})
	if err == nil && written != v.above {
		v.problem("feed equals history", "log", "it names %d writes above the floor, there are %d", written, v.above)
	}
	return err
}

// entry finds what one version wrote.
func (v *verifier) entry(e, before Entry) error {
	bytesWritten := before.Written
	for i, key := range e.Keys {
		name := rowName(key, e.Version)
		if i > 0 && bytes.Compare(e.Keys[i-1], key) >= 0 {
			v.problem("log order", name, "its entry's keys are not in order")
		}
		physical := rowKey(key, e.Version)
		value, closer, err := v.state.db.Get(physical)
		if err == pebble.ErrNotFound {
			v.problem("feed equals history", name, "the log names it, and it is not there")
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		bytesWritten += uint64(2*len(physical) + len(value))
		if err := closer.Close(); err != nil {
			return err
		}
	}
	if e.Version == before.Version+1 && bytesWritten != e.Written {
		v.problem("feed equals history", fmt.Sprintf("log entry %d", e.Version), "%d bytes were written up to it, %d are there", e.Written, bytesWritten)
	}
	return nil
}

// records reads the remembered answers.
func (v *verifier) records() error {
	lower, upper := space(spaceRecord)
	return v.each(lower, upper, func(physical, value []byte) error {
		v.counts.Records++
		r, err := parseRecord(value)
		if err != nil {
			v.problem("decodes", fmt.Sprintf("key %x", physical), "%v", err)
			return nil
		}
		name := fmt.Sprintf("record %v", r.ID)
		if !bytes.Equal(physical, recordKey(transactor.RecordKey{Session: r.ID.Session, Seq: r.ID.Seq})) {
			v.problem("record named", name, "it is under key %x", physical)
		}
		if r.Answer.Outcome == store.OutcomeCommitted && r.Answer.Version > v.last {
			v.problem("record in log", name, "committed at version %d, the newest is %d", r.Answer.Version, v.last)
		}
		return nil
	})
}

// strangers finds keys that are of no space, and meta rows of no name.
func (v *verifier) strangers() error {
	known := map[string]bool{string(formatKey): true, string(floorKey): true}
	spaces := []byte{spaceRecord, spaceLog, spaceMeta, spaceRow} // in order
	from := []byte(nil)
	for _, s := range append(spaces, 0xFF) {
		lower, upper := space(s)
		if s == 0xFF {
			lower, upper = nil, nil
		}
		err := v.each(from, lower, func(key, _ []byte) error {
			v.problem("decodes", fmt.Sprintf("key %x", key), "of no kind that this format has")
			return nil
		})
		if err != nil {
			return err
		}
		from = upper
	}
	lower, upper := space(spaceMeta)
	return v.each(lower, upper, func(key, _ []byte) error {
		if !known[string(key)] {
			v.problem("decodes", fmt.Sprintf("key %x", key), "of no name that this format has")
		}
		return nil
	})
}
