package guard

import (
	"errors"
	"math"
	"testing"
)

type rows map[string]int64

func (r rows) Int(key []byte) (int64, bool) { n, ok := r[string(key)]; return n, ok }

func TestEval(t *testing.T) {
	view := rows{"cpu": 4, "zero": 0}
	cpu, none := []byte("cpu"), []byte("none")
	for name, c := range map[string]struct {
		g     Guard
		fails string // key; empty: holds
		value int64
	}{
		"add fits":          {g: Add{cpu, -4, 0, 9}},
		"add below":         {g: Add{cpu, -5, 0, 9}, fails: "cpu", value: 4},
		"add above":         {g: Add{cpu, 6, 0, 9}, fails: "cpu", value: 4},
		"add to nothing":    {g: Add{none, 1, 0, 9}},
		"take from nothing": {g: Add{none, -1, 0, 9}, fails: "none"},
		"overflow":          {g: Add{cpu, math.MaxInt64, 0, math.MaxInt64}, fails: "cpu", value: 4},
		"adds accumulate":   {g: All(Add{cpu, -2, 0, 9}, Add{cpu, -2, 0, 9})},
		"second add fails":  {g: All(Add{cpu, -3, 0, 9}, Add{cpu, -2, 0, 9}), fails: "cpu", value: 1},
		"nested":            {g: All(All(Add{cpu, -3, 0, 9}), All(AtLeast{cpu, 1}, AtLeast{cpu, 2})), fails: "cpu", value: 1},
		"at least":          {g: AtLeast{cpu, 4}},
		"at least fails":    {g: AtLeast{cpu, 5}, fails: "cpu", value: 4},
		"at least of none":  {g: AtLeast{none, 0}, fails: "none"},
		"equals":            {g: Equals{cpu, 4}},
		"equals fails":      {g: Equals{cpu, 3}, fails: "cpu", value: 4},
		"exists":            {g: Exists{[]byte("zero")}},
		"exists after add":  {g: All(Add{none, 0, 0, 0}, Exists{none})},
		"exists fails":      {g: Exists{none}, fails: "none"},
		"nothing":           {g: All()},
	} {
		err := c.g.Eval(view)
		var f *Failure
		if c.fails == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.fails != "" && (!errors.As(err, &f) || string(f.Key) != c.fails || f.Value != c.value) {
			t.Errorf("%s: %v, want failure on %s at %d", name, err, c.fails, c.value)
		}
	}
}
