package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// script runs the text language of scripts/ against an engine. A commit's lines are operations:
//
//	put KEY VALUE            insert KEY VALUE         del KEY            delrange BEGIN END
//	add KEY DELTA MIN MAX    min KEY N                max KEY N
//	expect KEY exists|absent|=N|>=N|@VERSION          pool POOL SIZE RESERVED...
//	take POOL [FROM TO]      takex POOL N             give POOL N        rmpool POOL
//	group {                  first { / label L { }    atleast N { / group { }
//
// "NAME = " before an operation names its slot; $NAME in a key's element or as a value uses it, $version is the
// commit's. A KEY is elements joined by "/", numbers as integers. "read KEY" and "range BEGIN END" are validated reads
// before the operations.
type script struct {
	t     testing.TB
	db    *store.DB
	slots map[string]store.Slot
	lines []string
}

// run executes one command and returns what it prints.
func (s *script) run(cmd, input string) string {
	switch cmd {
	case "commit":
		return s.commit(input)
	case "scan":
		return s.scan()
	}
	return "unknown command " + cmd
}

func (s *script) commit(input string) string {
	s.slots = map[string]store.Slot{}
	r, err := s.db.Transact(s.t.Context(), func(tx *store.Tx) error {
		s.slots["version"] = tx.CommitVersion()
		s.lines = strings.Split(strings.TrimSpace(input), "\n")
		s.block(tx)
		return nil
	})
	if err != nil {
		return s.describe(err)
	}
	out := fmt.Sprintf("committed @%d", r.Version)
	names := make([]string, 0, len(s.slots))
	for name := range s.slots {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out += s.result(r, name)
	}
	return out + "\n"
}

func (s *script) result(r *store.Result, name string) string {
	slot := s.slots[name]
	switch {
	case slot.Kind == store.SlotVersion:
		return ""
	case slot.Kind == store.SlotBit:
		return fmt.Sprintf(" %s=%v", name, r.Ran(slot))
	case !r.Ran(slot):
		return fmt.Sprintf(" %s=skipped", name)
	case slot.Kind == store.SlotInt:
		return fmt.Sprintf(" %s=%d", name, r.Int(slot))
	case slot.Kind == store.SlotElement:
		return fmt.Sprintf(" %s=%d", name, r.Element(slot))
	}
	return fmt.Sprintf(" %s=%s", name, r.Label(slot))
}

func (s *script) describe(err error) string {
	var g *store.GuardError
	if !errors.As(err, &g) {
		return err.Error() + "\n"
	}
	out := ""
	for indent := ""; g != nil; g, indent = g.Cause, indent+"  " {
		out += fmt.Sprintf("%sguard %d failed on %s: committed %s", indent, g.Op, printKey(g.Key), printValue(g.Value, g.Found))
		if g.Found {
			out += fmt.Sprintf(" @%d", g.Version)
		}
		out += ", inside " + printValue(g.Inside, g.InsideFound) + "\n"
	}
	return out
}

func (s *script) scan() string {
	var out strings.Builder
	err := s.db.View(s.t.Context(), func(r store.Reader) error {
		rows, err := r.Range(s.t.Context(), store.RangeOptions{})
		for _, kv := range rows {
			fmt.Fprintf(&out, "%s = %s @%d\n", printKey(kv.Key), printValue(kv.Value, true), kv.Version)
		}
		return err
	})
	if err != nil {
		return err.Error() + "\n"
	}
	return out.String()
}

// next takes the next line, split into words; nil at the end or at a closing brace.
func (s *script) next() []string {
	if len(s.lines) == 0 {
		return nil
	}
	words := strings.Fields(s.lines[0])
	s.lines = s.lines[1:]
	if len(words) == 0 || words[0] == "}" {
		return nil
	}
	return words
}

// block runs lines up to the block's end.
func (s *script) block(tx *store.Tx) {
	for words := s.next(); words != nil; words = s.next() {
		name := ""
		if len(words) > 2 && words[1] == "=" {
			name, words = words[0], words[2:]
		}
		if slot, ok := s.operation(tx, words[0], words[1:]); ok && name != "" {
			s.slots[name] = slot
		}
	}
}

func (s *script) operation(tx *store.Tx, verb string, args []string) (slot store.Slot, ok bool) {
	ctx := s.t.Context()
	switch verb {
	case "read":
		_, _, _ = tx.Get(ctx, s.key(args[0]).Base)
	case "range":
		_, _ = tx.Range(ctx, store.RangeOptions{Begin: s.key(args[0]).Base, End: s.key(args[1]).Base})
	case "put":
		tx.Put(s.key(args[0]), s.value(args[1]))
	case "insert":
		tx.InsertIfAbsent(s.key(args[0]), s.value(args[1]))
	case "del":
		tx.Delete(s.key(args[0]))
	case "delrange":
		tx.DeleteRange(s.key(args[0]).Base, s.key(args[1]).Base)
	case "expect":
		tx.Expect(s.key(args[0]), predicate(args[1]))
	case "add":
		return tx.Add(s.key(args[0]), number(args[1]), number(args[2]), number(args[3])), true
	case "min":
		return tx.Min(s.key(args[0]), number(args[1])), true
	case "max":
		return tx.Max(s.key(args[0]), number(args[1])), true
	case "pool", "rmpool", "take", "takex", "give":
		return s.pool(tx, verb, s.key(args[0]).Base, args[1:]), true
	case "group":
		return tx.Group(s.block), true
	case "first":
		return s.first(tx), true
	case "atleast":
		return s.atLeast(tx, int(number(args[0]))), false
	default:
		panic("unknown operation " + verb)
	}
	return slot, false
}

func (s *script) pool(tx *store.Tx, verb string, pool []byte, args []string) (slot store.Slot) {
	var n []uint64
	for _, a := range args {
		n = append(n, uint64(number(a)))
	}
	switch {
	case verb == "pool":
		tx.CreatePool(pool, n[0], n[1:]...)
	case verb == "rmpool":
		tx.DeletePool(pool)
	case verb == "takex":
		tx.TakeExact(pool, n[0])
	case verb == "give":
		tx.Give(pool, n[0])
	case len(n) == 2:
		return tx.Take(pool, store.Within(n[0], n[1]))
	default:
		return tx.Take(pool)
	}
	return slot
}

func (s *script) first(tx *store.Tx) store.Slot {
	// The builder runs each alternative at once and in order, so the lines can be read on the way; one that has none
	// left ends the list.
	var alternatives []store.Alternative
	for words := s.next(); words != nil; words = s.next() {
		alternatives = append(alternatives, store.Alternative{Label: []byte(words[1]), Guards: s.deferred()})
	}
	return tx.FirstOf(alternatives)
}

func (s *script) atLeast(tx *store.Tx, n int) store.Slot {
	var groups []func(tx *store.Tx)
	var names []string
	for words := s.next(); words != nil; words = s.next() {
		names = append(names, words[0])
		groups = append(groups, s.deferred())
	}
	for i, slot := range tx.AtLeast(n, groups) {
		s.slots[names[i]] = slot
	}
	return store.Slot{}
}

// deferred cuts a block out of the lines and returns what runs it.
func (s *script) deferred() func(tx *store.Tx) {
	depth, n := 1, 0
	for ; depth > 0; n++ {
		line := strings.TrimSpace(s.lines[n])
		if strings.HasSuffix(line, "{") {
			depth++
		} else if line == "}" {
			depth--
		}
	}
	block := s.lines[:n]
	s.lines = s.lines[n:]
	return func(tx *store.Tx) {
		rest := s.lines
		s.lines = block
		s.block(tx)
		s.lines = rest
	}
}

func (s *script) key(text string) store.Template {
	var parts []any
	for _, part := range strings.Split(text, "/") {
		switch n, err := strconv.ParseInt(part, 10, 64); {
		case strings.HasPrefix(part, "$"):
			parts = append(parts, s.slots[part[1:]])
		case err == nil:
			parts = append(parts, n)
		default:
			parts = append(parts, part)
		}
	}
	return store.Key(parts...)
}

func (s *script) value(text string) store.Template {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return store.Int(n)
	}
	if !strings.HasPrefix(text, "$") {
		return store.Bytes([]byte(text))
	}
	slot := s.slots[text[1:]]
	if slot.Kind == store.SlotLabel {
		return store.Template{Kind: store.KindBytes, Splices: []store.Splice{{Slot: slot, As: store.EncRaw}}}
	}
	return store.SlotValue(slot)
}

func predicate(text string) store.Predicate {
	switch {
	case text == "exists":
		return store.Exists()
	case text == "absent":
		return store.Absent()
	case text[0] == '@':
		return store.AtVersion(store.Version(number(text[1:])))
	case text[0] == '=':
		return store.IntEquals(number(text[1:]))
	case strings.HasPrefix(text, ">="):
		return store.IntAtLeast(number(text[2:]))
	}
	return store.Equals(store.BytesValue([]byte(text)))
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func printKey(key []byte) string {
	parts, err := tuple.Decode(key)
	if err != nil {
		return fmt.Sprintf("%x", key)
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		texts[i] = fmt.Sprint(p)
	}
	return strings.Join(texts, "/")
}

func printValue(v store.Value, found bool) string {
	switch {
	case !found:
		return "nothing"
	case v.Kind == store.KindInt64:
		return strconv.FormatInt(v.Int, 10)
	case len(v.Bytes) > 32:
		return fmt.Sprintf("%d bytes", len(v.Bytes))
	}
	return fmt.Sprintf("%q", v.Bytes)
}
