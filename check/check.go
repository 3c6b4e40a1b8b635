// Package check runs invariants over one snapshot of the store.
//
// Each part's rows package exports what must hold of its rows as Invariants(); tests, simulation and production run the
// same ones. A finding is a defect: the checker repairs nothing.
package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/store"
)

// MaxFindings bounds what Run reports of one invariant; Finding counts go on.
const MaxFindings = 100

// Invariant is one statement about the rows of a part.
type Invariant struct {
	Name string // "part.statement", unique
	Doc  string // the statement in words
	// Check calls report for each thing that breaks the statement. An error says that it could not be checked.
	Check func(ctx context.Context, r store.Reader, report func(subject, detail string)) error
}

// Finding is one broken statement.
type Finding struct {
	Invariant string
	Subject   string // the id of what is wrong
	Detail    string
}

// Report is what a run found at one version.
type Report struct {
	Version  store.Version
	Checked  []Checked // the invariants that were evaluated
	Findings []Finding // at most MaxFindings of each invariant
	Count    int       // of all findings
}

// Checked is one invariant that was evaluated.
type Checked struct {
	Invariant string
	Rows      int // that it read: 0 says that there was nothing to break it
	Broken    int // findings, those beyond MaxFindings included
}

// Clean tells whether nothing is wrong.
func (r Report) Clean() bool { return r.Count == 0 }

// Run evaluates the invariants on one snapshot. The error joins those that could not be checked; the others are in the
// report all the same.
func Run(ctx context.Context, db *store.DB, invariants []Invariant) (Report, error) {
	var report Report
	var failed []error
	err := db.View(ctx, func(r store.Reader) error {
		report.Version = r.Version()
		for _, inv := range invariants {
			if err := report.evaluate(ctx, r, inv); err != nil {
				failed = append(failed, fmt.Errorf("check %s: %w", inv.Name, err))
			}
		}
		return nil
	})
	return report, errors.Join(append(failed, err)...)
}

func (r *Report) evaluate(ctx context.Context, reader store.Reader, inv Invariant) error {
	found := 0
	counted := &counter{Reader: reader}
	err := inv.Check(ctx, counted, func(subject, detail string) {
		r.Count++
		if found++; found <= MaxFindings {
			r.Findings = append(r.Findings, Finding{Invariant: inv.Name, Subject: subject, Detail: detail})
		}
	})
	if err != nil {
		return err
	}
	r.Checked = append(r.Checked, Checked{Invariant: inv.Name, Rows: counted.rows, Broken: found})
	return nil
}

// counter counts the rows that an invariant reads.
type counter struct {
	store.Reader
	rows int
}

func (c *counter) Get(ctx context.Context, key []byte) (store.Value, bool, error) {
	v, found, err := c.Reader.Get(ctx, key)
	if found {
		c.rows++
	}
	return v, found, err
}

func (c *counter) Range(ctx context.Context, o store.RangeOptions) ([]store.KV, error) {
	rows, err := c.Reader.Range(ctx, o)
	c.rows += len(rows)
	return rows, err
}

// Scan calls fn for every row under prefix, in key order, in as many reads as it takes.
func Scan(ctx context.Context, r store.Reader, prefix []byte, fn func(kv store.KV) error) error {
	begin, end := prefix, store.PrefixEnd(prefix)
	for {
		rows, err := r.Range(ctx, store.RangeOptions{Begin: begin, End: end, Limit: store.MaxRangeRows})
		if err != nil {
			return err
		}
		for _, kv := range rows {
			if err := fn(kv); err != nil {
				return err
			}
		}
		if len(rows) < store.MaxRangeRows {
			return nil
		}
		begin = append(append([]byte(nil), rows[len(rows)-1].Key...), 0)
	}
}
