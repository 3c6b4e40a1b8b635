// Package honesty says of every parameter of a served action whether it is honoured, accepted without effect, or refused
// by name, and refuses the refused ones.
//
// The data is parameters.txt. The same lines are the documentation and the enforcement, so they cannot differ: Check runs
// before an action's handler sees the request.
//
// Invariants, held by tests: each modelled parameter of an action with a section is listed exactly once, each listed name
// is in the model, an action has a section if and only if the server has a method for it.
//
// Deliberately absent: checks of values, other than the values that an accepted parameter may have.
package honesty

import (
	_ "embed"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/assert"
)

//go:embed parameters.txt
var data string

// Class is what becomes of a parameter.
type Class string

// The classes, as parameters.txt spells them.
const (
	Honoured Class = "honoured" // it does what EC2 says
	Accepted Class = "accepted" // it has no effect, for the reason given
	Refused  Class = "refused"  // a request with it is answered UnsupportedOperation
)

// Rule is the statement about one parameter and everything below it ("Placement" covers "Placement.Tenancy").
type Rule struct {
	Class  Class
	Name   string   // as in ec2gen's Parameters, or the begin of one at a dot
	Values []string // of an accepted parameter: the only values taken; any other is refused. Empty: all
	Why    string   // of one that is not honoured
}

// everyAction is the section whose rules hold for all actions that have the parameter.
const everyAction = "*"

var table = mustParse(data)

// Served reports whether the action has a section.
func Served(action string) bool { return action != everyAction && table[action] != nil }

// Actions are the served actions, sorted.
func Actions() []string {
	var names []string
	for name := range table {
		if Served(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Find returns the rule of a modelled parameter of an action.
func Find(action, parameter string) (Rule, bool) {
	for _, section := range []string{action, everyAction} {
		for _, rule := range table[section] {
			if rule.covers(parameter) {
				return rule, true
			}
		}
	}
	return Rule{}, false
}

func (r Rule) covers(parameter string) bool {
	rest, found := strings.CutPrefix(parameter, r.Name)
	return found && (rest == "" || rest[0] == '.')
}

// Check refuses an action that is not served, and a request that sets a refused parameter. The first one by name is
// named. Parameters that the model does not have pass: the decoder refuses them.
func Check(action string, params url.Values) error {
	if !Served(action) {
		return errs.Unsupported(action)
	}
	var refused []string
	for name := range params {
		if rule, found := Find(action, modelled(name)); found && !rule.allows(params[name]) {
			refused = append(refused, name)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	name := slices.Min(refused)
	rule, _ := Find(action, modelled(name))
	return errs.RefusedParameter(name, rule.explain())
}

func (r Rule) allows(values []string) bool {
	switch r.Class {
	case Honoured:
		return true
	case Refused:
		return false
	}
	return len(r.Values) == 0 || !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(r.Values, v) })
}

func (r Rule) explain() string {
	if len(r.Values) == 0 {
		return sentence(r.Why)
	}
	return fmt.Sprintf("Leave it out, or give %s: %s", strings.Join(r.Values, " or "), sentence(r.Why))
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// modelled writes a request's parameter as the model does: N for each list index.
func modelled(name string) string {
	parts := strings.Split(name, ".")
	for i, part := range parts {
		if i > 0 && part != "" && strings.Trim(part, "0123456789") == "" {
			parts[i] = "N"
		}
	}
	return strings.Join(parts, ".")
}

func mustParse(text string) map[string][]Rule {
	parsed, err := parse(text)
	assert.That(err == nil, "parameters.txt is well formed: %v", err)
	return parsed
}

// parse reads sections "[Action]" of lines "class Name Name [= value value] [: why]". # begins a comment line.
func parse(text string) (map[string][]Rule, error) {
	sections := make(map[string][]Rule)
	section := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if name, found := strings.CutPrefix(line, "["); found {
			section = strings.TrimSuffix(name, "]")
			if sections[section] != nil {
				return nil, fmt.Errorf("line %d: section %s is there twice", i+1, section)
			}
			sections[section] = []Rule{}
			continue
		}
		rules, err := parseRules(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		sections[section] = append(sections[section], rules...)
	}
	return sections, nil
}

func parseRules(line string) ([]Rule, error) {
	line, why, _ := strings.Cut(line, " : ")
	line, values, hasValues := strings.Cut(line, " = ")
	fields := strings.Fields(line)
	class := Class(fields[0])
	switch {
	case len(fields) < 2:
		return nil, fmt.Errorf("%q names no parameter", line)
	case class != Honoured && class != Accepted && class != Refused:
		return nil, fmt.Errorf("%q is not a class", class)
	case (class == Honoured) != (why == ""):
		return nil, fmt.Errorf("%q needs a reason exactly when it is not honoured", line)
	case hasValues && class != Accepted:
		return nil, fmt.Errorf("%q: only an accepted parameter lists values", line)
	}
	var rules []Rule
	for _, name := range fields[1:] {
		rules = append(rules, Rule{Class: class, Name: name, Values: strings.Fields(values), Why: strings.TrimSpace(why)})
	}
	return rules, nil
}
