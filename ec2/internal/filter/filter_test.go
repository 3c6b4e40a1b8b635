package filter

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
)

type thing struct {
	state  string
	groups []string
	tags   map[string]string
}

var table = Table[thing]{
	Values: map[string]func(thing) []string{
		"state":    func(t thing) []string { return []string{t.state} },
		"group-id": func(t thing) []string { return t.groups },
	},
	Tags:    func(t thing) map[string]string { return t.tags },
	Ignored: []string{"owner-alias"},
}

func f(name string, values ...string) ec2gen.Filter {
	return ec2gen.Filter{Name: &name, Values: values}
}

func TestCompile(t *testing.T) {
	item := thing{"running", []string{"sg-1", "sg-2"}, map[string]string{"Name": "web 1", "empty": ""}}
	for _, c := range []struct {
		filters []ec2gen.Filter
		want    bool
	}{
		{nil, true},
		{[]ec2gen.Filter{f("state", "running")}, true},
		{[]ec2gen.Filter{f("state", "Running")}, false},
		{[]ec2gen.Filter{f("state", "stopped", "running")}, true},
		{[]ec2gen.Filter{f("state", "running"), f("group-id", "sg-2")}, true},
		{[]ec2gen.Filter{f("state", "running"), f("group-id", "sg-3")}, false},
		{[]ec2gen.Filter{f("group-id", "sg-1"), f("group-id", "sg-2")}, true},
		{[]ec2gen.Filter{f("tag:Name", "web*")}, true},
		{[]ec2gen.Filter{f("tag:Name", "db*")}, false},
		{[]ec2gen.Filter{f("tag:name", "*")}, false},
		{[]ec2gen.Filter{f("tag:empty", "")}, true},
		{[]ec2gen.Filter{f("tag:empty", "*")}, true},
		{[]ec2gen.Filter{f("tag-key", "Na?e")}, true},
		{[]ec2gen.Filter{f("tag-key", "web 1")}, false},
		{[]ec2gen.Filter{f("owner-alias", "amazon")}, true},
	} {
		match, err := Compile(table, c.filters)
		if err != nil || match(item) != c.want {
			t.Errorf("%d filters on %s: %v, want %v", len(c.filters), item.state, err, c.want)
		}
	}
	none, err := Compile(table, []ec2gen.Filter{f("group-id", "*")})
	if err != nil || none(thing{}) {
		t.Errorf("an item without the property must not match *: %v", err)
	}
}

func TestCompileRefuses(t *testing.T) {
	many := make([]ec2gen.Filter, MaxFilters+1)
	for i := range many {
		many[i] = f("state", "x")
	}
	for _, c := range []struct {
		filters []ec2gen.Filter
		code    string
		names   string
	}{
		{[]ec2gen.Filter{f("state", "x"), f("colour", "x")}, errs.InvalidParameterValue, "Filter.2.Name"},
		{[]ec2gen.Filter{f("tag:", "x")}, errs.InvalidParameterValue, "group-id, owner-alias, state, tag-key, tag:<key>"},
		{[]ec2gen.Filter{f("state")}, errs.MissingParameter, "Filter.1.Value.1"},
		{[]ec2gen.Filter{{Values: []string{"x"}}}, errs.MissingParameter, "Filter.1.Name"},
		{[]ec2gen.Filter{f("state", strings.Repeat("x", MaxValueBytes+1))}, errs.InvalidParameterValue, "Filter.1.Value.1"},
		{[]ec2gen.Filter{f("state", make([]string, MaxValues+1)...)}, errs.FilterLimitExceeded, "200"},
		{many, errs.FilterLimitExceeded, "50"},
	} {
		_, err := Compile(table, c.filters)
		e := new(errs.Error)
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.names) {
			t.Errorf("got %v, want %s naming %s", err, c.code, c.names)
		}
	}
	untagged := table
	untagged.Tags = nil
	if _, err := Compile(untagged, []ec2gen.Filter{f("tag:Name", "x")}); err == nil {
		t.Error("tag: must be refused where items have no tags")
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"?", "", false}, {"?", "ö", true}, {"a*b*c", "axxbyyc", true},
		{"a*b*c", "axxbyy", false}, {"*a", "aaa", true}, {"**", "x", true}, {`\*`, "*", true}, {`\*`, "x", false}, {`a\?`, "a?", true},
		{`a\?`, "ab", false}, {`\\`, `\`, true}, {`\`, `\`, true}, {`\a`, "a", true}, {"ami-*", "ami-0", true}, {"*.x", "a.b.x", true},
	} {
		if got := NewPattern(c.pattern).Match(c.value); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.value, got)
		}
	}
}

// TestPatternIsNotExponential would take longer than the universe with naive backtracking.
func TestPatternIsNotExponential(t *testing.T) {
	if NewPattern(strings.Repeat("*a", 120) + "b").Match(strings.Repeat("a", 255)) {
		t.Error("matched")
	}
}

// model is the definition of matching, by recursion.
func model(pattern, value []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(value) == 0
	case pattern[0] == '*':
		return model(pattern[1:], value) || (len(value) > 0 && model(pattern, value[1:]))
	case len(value) == 0:
		return false
	case pattern[0] == '?':
		return model(pattern[1:], value[1:])
	case pattern[0] == '\\' && len(pattern) > 1:
		return pattern[1] == value[0] && model(pattern[2:], value[1:])
	}
	return pattern[0] == value[0] && model(pattern[1:], value[1:])
}

func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{{"a*b?c", "axxbyc"}, {`\*\`, `*\`}, {"*?*", "ab"}, {"***ö", "öö"}, {`?\?*`, "a?b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if len(pattern) > 12 || len(value) > 20 || !utf8.ValidString(pattern) || !utf8.ValidString(value) {
			return
		}
		if got, want := NewPattern(pattern).Match(value), model([]rune(pattern), []rune(value)); got != want {
			t.Errorf("%q on %q: %v, the model says %v", pattern, value, got, want)
		}
	})
}

// TestPatternExhaustive compares every pattern with every value over a small alphabet.
func TestPatternExhaustive(t *testing.T) {
	for _, pattern := range words(`ab*?\`, 4) {
		compiled := NewPattern(pattern)
		for _, value := range words(`ab*`, 4) {
			if got, want := compiled.Match(value), model([]rune(pattern), []rune(value)); got != want {
				t.Fatalf("%q on %q: %v, the model says %v", pattern, value, got, want)
			}
		}
	}
}

func words(alphabet string, longest int) []string {
	all, last := []string{""}, []string{""}
	for range longest {
		var next []string
		for _, word := range last {
			for _, r := range alphabet {
				next = append(next, word+string(r))
			}
		}
		all, last = append(all, next...), next
	}
	return all
}
