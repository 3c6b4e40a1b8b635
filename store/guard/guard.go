// Package guard holds conditions and bounded changes on integer rows as values.
//
// A chooser evaluates a guard on its own view of the rows, and the transactor evaluates the same value on the truth, so
// that "does it fit" exists once. Counters hold what is left, with bound 0.
//
// Pure: no clock, no IO. Values are immutable and safe for concurrent use. Guards over other rows (pools, bytes) are
// operations of a transaction only, see package store. Start with Add and All.
package guard

import "fmt"

// View reads integer rows. A missing row is reported as not found, and counts as 0 for Add.
type View interface {
	Int(key []byte) (n int64, found bool)
}

// Guard is an Add, a condition, or All of several. Other packages cannot add kinds: the transactor knows them all.
type Guard interface {
	// Eval returns nil when the guard holds on the view, else a *Failure that names the row.
	Eval(v View) error

	steps(dst []Step) []Step
}

// Step is one simple guard: Add, AtLeast, Equals or Exists.
type Step interface {
	Guard

	apply(v View) (key []byte, after int64, changes bool, err error)
}

// Add changes the row by Delta, and holds when the result is in [Min, Max]. A missing row counts as 0.
type Add struct {
	Key             []byte
	Delta, Min, Max int64
}

// AtLeast holds when the row exists and its number is at least N.
type AtLeast struct {
	Key []byte
	N   int64
}

// Equals holds when the row exists and its number is N.
type Equals struct {
	Key []byte
	N   int64
}

// Exists holds when the row exists.
type Exists struct {
	Key []byte
}

// Failure tells which row did not hold and what it held.
type Failure struct {
	Key   []byte
	Found bool
	Value int64
	Step  Step
}

// Error names the row and its value.
func (f *Failure) Error() string {
	if !f.Found {
		return fmt.Sprintf("guard %T on %q: no such row", f.Step, f.Key)
	}
	return fmt.Sprintf("guard %+v on %q: row holds %d", f.Step, f.Key, f.Value)
}

type all []Guard

// All holds when every guard holds in order, each on the result of those before it.
func All(guards ...Guard) Guard { return all(guards) }

// Steps lists the simple guards of g in order.
func Steps(g Guard) []Step { return g.steps(nil) }

// Sum adds delta to n. It reports false when the result leaves [lo, hi] or the integers.
func Sum(n, delta, lo, hi int64) (int64, bool) {
	sum := n + delta
	overflows := (delta > 0 && sum < n) || (delta < 0 && sum > n)
	return sum, !overflows && sum >= lo && sum <= hi
}

func (g all) steps(dst []Step) []Step {
	for _, one := range g {
		dst = one.steps(dst)
	}
	return dst
}

func (g Add) steps(dst []Step) []Step     { return append(dst, g) }
func (g AtLeast) steps(dst []Step) []Step { return append(dst, g) }
func (g Equals) steps(dst []Step) []Step  { return append(dst, g) }
func (g Exists) steps(dst []Step) []Step  { return append(dst, g) }

// Eval evaluates the guards in order over their own changes.
func (g all) Eval(v View) error { return eval(v, g.steps(nil)) }

// Eval evaluates one Add.
func (g Add) Eval(v View) error { return eval(v, []Step{g}) }

// Eval evaluates one condition.
func (g AtLeast) Eval(v View) error { return eval(v, []Step{g}) }

// Eval evaluates one condition.
func (g Equals) Eval(v View) error { return eval(v, []Step{g}) }

// Eval evaluates one condition.
func (g Exists) Eval(v View) error { return eval(v, []Step{g}) }

func (g Add) apply(v View) ([]byte, int64, bool, error) {
	n, found := v.Int(g.Key)
	sum, ok := Sum(n, g.Delta, g.Min, g.Max)
	if !ok {
		return nil, 0, false, &Failure{Key: g.Key, Found: found, Value: n, Step: g}
	}
	return g.Key, sum, true, nil
}

func (g AtLeast) apply(v View) ([]byte, int64, bool, error) {
	n, found := v.Int(g.Key)
	return check(found && n >= g.N, g, g.Key, n, found)
}

func (g Equals) apply(v View) ([]byte, int64, bool, error) {
	n, found := v.Int(g.Key)
	return check(found && n == g.N, g, g.Key, n, found)
}

func (g Exists) apply(v View) ([]byte, int64, bool, error) {
	n, found := v.Int(g.Key)
	return check(found, g, g.Key, n, found)
}

func check(ok bool, s Step, key []byte, n int64, found bool) ([]byte, int64, bool, error) {
	if !ok {
		return nil, 0, false, &Failure{Key: key, Found: found, Value: n, Step: s}
	}
	return nil, 0, false, nil
}

// overlay is a view with changes on top.
type overlay struct {
	below   View
	changed map[string]int64
}

func (o overlay) Int(key []byte) (int64, bool) {
	if n, ok := o.changed[string(key)]; ok {
		return n, true
	}
	return o.below.Int(key)
}

func eval(v View, steps []Step) error {
	o := overlay{below: v, changed: map[string]int64{}}
	for _, s := range steps {
		key, after, changes, err := s.apply(o)
		if err != nil {
			return err
		}
		if changes {
			o.changed[string(key)] = after
		}
	}
	return nil
}
