package tool

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// transactionMax bounds a transaction's file.
const transactionMax = 8 << 20

func putCommand(p *place) *cobra.Command {
	var text, digits string
	var n int64
	c := &cobra.Command{
		Use: "put ELEMENT...", Short: "Write one row of a store whose server is down", Args: cobra.MinimumNArgs(1),
		Long:    "Put writes one row, under no guard. What the row's owner holds to is not checked: run `nimbrel check` afterwards.",
		Example: "  nimbrel store put --dir /srv/counters --tenant shop stock apples --int 40",
		RunE: func(c *cobra.Command, args []string) error {
			key, err := parseKey(nil, args)
			if err != nil {
				return err
			}
			o := operation{Op: "put", Key: key}
			f := c.Flags()
			if f.Changed("int") {
				o.Int = &n
			}
			if f.Changed("text") {
				o.Text = &text
			}
			if f.Changed("hex") {
				o.Hex = &digits
			}
			return p.transact(c, []operation{o})
		},
	}
	c.Flags().Int64Var(&n, "int", 0, "an integer `value`")
	c.Flags().StringVar(&text, "text", "", "a `value` of bytes, as text")
	c.Flags().StringVar(&digits, "hex", "", "a `value` of bytes, in hexadecimal")
	return c
}

func txnCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "txn FILE", Short: "Run one transaction of a file on a store whose server is down", Args: cobra.ExactArgs(1),
		Long: `Txn runs the operations of a JSON file, - for the standard input, in order and as one transaction. It is

  {"operations": [
    {"op": "expect", "key": ["stock", "apples"], "atLeast": 1},
    {"op": "add", "key": ["stock", "apples"], "delta": -1, "min": 0},
    {"op": "put", "key": ["sold", 7], "text": "apple"}]}

with the operations put, insert, delete, add (delta, min, max), expect (exists, absent, equals an int, atLeast, atVersion),
create-pool (size), take, take-exact and give (element). Values are int, text or hex. A key is a list of texts, integers,
truth values and {"bytes": "hex"}. A guard that does not hold ends it, and nothing is written.`,
		RunE: func(c *cobra.Command, args []string) error {
			in := c.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			b, err := io.ReadAll(io.LimitReader(in, transactionMax+1))
			if err != nil {
				return fmt.Errorf("read transaction: %w", err)
			}
			ops, err := parseTransaction(b)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return p.transact(c, ops)
		},
	}
}

// key is a key as JSON tells it.
type key []byte

// UnmarshalJSON reads a list of elements.
func (k *key) UnmarshalJSON(b []byte) error {
	var parts []any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&parts); err != nil {
		return errors.New("a key is a list of elements")
	}
	*k = key{}
	for i, part := range parts {
		next, err := appendElement(*k, part)
		if err != nil {
			return fmt.Errorf("element %d of a key: %w", i+1, err)
		}
		*k = next
	}
	return nil
}

func appendElement(dst []byte, part any) ([]byte, error) {
	switch part := part.(type) {
	case string:
		return tuple.AppendText(dst, part), nil
	case bool:
		return tuple.AppendBool(dst, part), nil
	case json.Number:
		var n uint64
		if err := json.Unmarshal([]byte(part), &n); err == nil {
			return tuple.AppendUint(dst, n), nil
		}
		signed, err := part.Int64()
		return tuple.AppendInt(dst, signed), err
	case map[string]any:
		if text, ok := part["bytes"].(string); ok && len(part) == 1 {
			raw, err := hex.DecodeString(text)
			return tuple.AppendBytes(dst, raw), err
		}
	}
	return nil, errors.New(`want a text, an integer, true, false or {"bytes": "hex"}`)
}

// operation is one of a transaction's file.
type operation struct {
	Op  string `json:"op"`
	Key key    `json:"key"`

	Int  *int64  `json:"int"`
	Text *string `json:"text"`
	Hex  *string `json:"hex"`

	Delta *int64 `json:"delta"`
	Min   *int64 `json:"min"`
	Max   *int64 `json:"max"`

	Exists    bool           `json:"exists"`
	Absent    bool           `json:"absent"`
	Equals    *int64         `json:"equals"`
	AtLeast   *int64         `json:"atLeast"`
	AtVersion *store.Version `json:"atVersion"`

	Size    *uint64 `json:"size"`
	Element *uint64 `json:"element"`
}

// parseTransaction reads a file and tells what is wrong with it before any store is opened.
func parseTransaction(b []byte) ([]operation, error) {
	if len(b) > transactionMax {
		return nil, fmt.Errorf("more than %d bytes", transactionMax)
	}
	var t struct {
		Operations []operation `json:"operations"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, err
	}
	if d.More() || len(t.Operations) == 0 {
		return nil, errors.New(`want one object with a list of "operations"`)
	}
	for i := range t.Operations {
		if err := t.Operations[i].check(); err != nil {
			return nil, fmt.Errorf("operation %d: %w", i+1, err)
		}
	}
	return t.Operations, nil
}

func (o *operation) check() error {
	if len(o.Key) == 0 {
		return errors.New("it has no key")
	}
	switch o.Op {
	case "put", "insert":
		_, err := o.value()
		return err
	case "add":
		if o.Delta == nil {
			return errors.New(`add wants a "delta"`)
		}
	case "expect":
		_, err := o.predicate()
		return err
	case "create-pool":
		if o.Size == nil {
			return errors.New(`create-pool wants a "size"`)
		}
	case "take-exact", "give":
		if o.Element == nil {
			return fmt.Errorf(`%s wants an "element"`, o.Op)
		}
	case "delete", "take":
	default:
		return fmt.Errorf("%.40q is none of put, insert, delete, add, expect, create-pool, take, take-exact and give", o.Op)
	}
	return nil
}

func (o *operation) value() (store.Template, error) {
	switch {
	case o.Int != nil && o.Text == nil && o.Hex == nil:
		return store.Int(*o.Int), nil
	case o.Text != nil && o.Int == nil && o.Hex == nil:
		return store.Bytes([]byte(*o.Text)), nil
	case o.Hex != nil && o.Int == nil && o.Text == nil:
		b, err := hex.DecodeString(*o.Hex)
		return store.Bytes(b), err
	}
	return store.Template{}, errors.New("want one value: int, text or hex")
}

func (o *operation) predicate() (store.Predicate, error) {
	var all []store.Predicate
	if o.Exists {
		all = append(all, store.Exists())
	}
	if o.Absent {
		all = append(all, store.Absent())
	}
	if o.Equals != nil {
		all = append(all, store.IntEquals(*o.Equals))
	}
	if o.AtLeast != nil {
		all = append(all, store.IntAtLeast(*o.AtLeast))
	}
	if o.AtVersion != nil {
		all = append(all, store.AtVersion(*o.AtVersion))
	}
	if len(all) != 1 {
		return store.Predicate{}, errors.New("expect wants one of exists, absent, equals, atLeast and atVersion")
	}
	return all[0], nil
}

// apply adds the operation to a transaction; the slot has a result when the transaction is committed.
func (o *operation) apply(tx *store.Tx) (slot store.Slot, has bool) {
	at := store.RawKey(o.Key)
	switch o.Op {
	case "put", "insert":
		v, _ := o.value() // checked before
		if o.Op == "put" {
			tx.Put(at, v)
		} else {
			tx.InsertIfAbsent(at, v)
		}
	case "delete":
		tx.Delete(at)
	case "add":
		return tx.Add(at, *o.Delta, valueOr(o.Min, -1<<63), valueOr(o.Max, 1<<63-1)), true
	case "expect":
		p, _ := o.predicate() // checked before
		tx.Expect(at, p)
	case "create-pool":
		tx.CreatePool(o.Key, *o.Size)
	case "take":
		return tx.Take(o.Key), true
	case "take-exact":
		tx.TakeExact(o.Key, *o.Element)
	case "give":
		tx.Give(o.Key, *o.Element)
	}
	return store.Slot{}, false
}

func valueOr(v *int64, or int64) int64 {
	if v == nil {
		return or
	}
	return *v
}

// transacted is what put and txn print.
type transacted struct {
	Version store.Version `json:"version"`
	Results []result      `json:"results,omitempty"`
}

// result is what an operation gave.
type result struct {
	Operation int     `json:"operation"` // from 1
	Int       *int64  `json:"int,omitempty"`
	Element   *uint64 `json:"element,omitempty"`
}

// transact runs operations on the directory.
func (p *place) transact(c *cobra.Command, ops []operation) (err error) {
	if err := p.needDir("a server's store is changed through its API alone"); err != nil {
		return err
	}
	for i := range ops {
		if err := ops[i].check(); err != nil {
			return err
		}
	}
	look, err := p.open(c.Context(), true) // a mistyped name makes no store
	if err != nil {
		return err
	}
	if err := look.Close(); err != nil {
		return err
	}
	e, err := p.open(c.Context(), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	out, err := p.run(c.Context(), e, ops)
	if err != nil {
		return err
	}
	return printJSON(c.OutOrStdout(), out)
}

func (p *place) run(ctx context.Context, e store.Engine, ops []operation) (*transacted, error) {
	slots := map[int]store.Slot{}
	r, err := store.New(e, store.Options{Cell: p.cell, Tenant: p.tenant}).Transact(ctx, func(tx *store.Tx) error {
		for i := range ops {
			if slot, has := ops[i].apply(tx); has {
				slots[i] = slot
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &transacted{Version: r.Version}
	for i := range ops {
		slot, has := slots[i]
		if !has {
			continue
		}
		line := result{Operation: i + 1}
		if ops[i].Op == "take" {
			line.Element = new(r.Element(slot))
		} else {
			line.Int = new(r.Int(slot))
		}
		out.Results = append(out.Results, line)
	}
	return out, nil
}
