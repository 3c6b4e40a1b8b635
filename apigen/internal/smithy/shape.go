package smithy

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// simple maps Smithy's prelude to kinds.
var simple = map[string]string{
	"smithy.api#String": "string", "smithy.api#Boolean": "boolean", "smithy.api#Integer": "integer", "smithy.api#Long": "long",
	"smithy.api#Double": "double", "smithy.api#Timestamp": "timestamp", "smithy.api#Blob": "blob", "smithy.api#Document": "document",
}

// allowed lists the traits that a shape of each type may carry, besides documentation.
var allowed = map[string][]string{
	"structure": {}, "list": {"length"}, "string": {"length"}, "enum": {}, "boolean": {}, "integer": {"range"}, "long": {"range"},
	"double": {"range"}, "timestamp": {}, "blob": {"length"}, "document": {},
}

// shape resolves a shape id; user is who refers to it.
func (p *parser) shape(id, user string) (*Shape, error) {
	if shape, ok := p.shapes[id]; ok {
		return shape, nil
	}
	if kind, ok := simple[id]; ok {
		return &Shape{Name: localName(id), Kind: kind}, nil
	}
	raw, ok := p.raw.Shapes[id]
	if !ok {
		return nil, p.errorf(id, "not defined, but %s uses it; define it or correct the name there", user)
	}
	traits, ok := allowed[raw.Type]
	if !ok {
		return nil, p.errorf(id, "type %q is outside the subset; use one of %v", raw.Type, slices.Sorted(maps.Keys(allowed)))
	}
	if err := p.allow(id, raw.Traits, append(traits, "documentation")...); err != nil {
		return nil, err
	}
	shape := &Shape{Name: localName(id), Kind: raw.Type, Doc: raw.Traits.text("documentation")}
	p.shapes[id] = shape
	if err := p.bounds(id, shape, raw.Traits); err != nil {
		return nil, err
	}
	switch raw.Type {
	case "structure":
		return shape, p.members(id, shape, raw)
	case "list":
		return shape, p.list(id, shape, raw)
	case "enum":
		return shape, p.enum(id, shape, raw)
	}
	return shape, nil
}

func (p *parser) bounds(id string, shape *Shape, traits traits) error {
	for _, name := range []string{"smithy.api#length", "smithy.api#range"} {
		text, ok := traits[name]
		if !ok {
			continue
		}
		var bounds struct{ Min, Max *float64 }
		if err := json.Unmarshal(text, &bounds); err != nil {
			return p.errorf(id, "trait %s: %v; write {\"min\": 0, \"max\": 100}", name, err)
		}
		shape.Min, shape.Max = bounds.Min, bounds.Max
	}
	return nil
}

func (p *parser) members(id string, shape *Shape, raw rawShape) error {
	seen := make(map[string]string)
	for _, m := range raw.Members {
		where := id + "$" + m.Name
		if err := p.allow(where, m.Traits, "documentation", "required", "jsonName"); err != nil {
			return err
		}
		target, err := p.shape(m.Target, where)
		if err != nil {
			return err
		}
		_, required := m.Traits["smithy.api#required"]
		member := &Member{Name: m.Name, JSONName: m.Traits.text("jsonName"), Doc: m.Traits.text("documentation"), Shape: target, Required: required}
		if member.JSONName == "" {
			member.JSONName = m.Name
		}
		if other, taken := seen[strings.ToLower(member.JSONName)]; taken {
			return p.errorf(where, "has the JSON name of %s (JSON decoding ignores case); rename one", other)
		}
		seen[strings.ToLower(member.JSONName)] = m.Name
		shape.Members = append(shape.Members, member)
	}
	return nil
}

func (p *parser) list(id string, shape *Shape, raw rawShape) error {
	if raw.Member == nil {
		return p.errorf(id, "a list needs a member")
	}
	if shape.Max == nil {
		return p.errorf(id, "the list has no bound; add the trait smithy.api#length with a max")
	}
	element, err := p.shape(raw.Member.Target, id)
	if err != nil {
		return err
	}
	if element.Kind == "list" {
		return p.errorf(id, "a list of lists is outside the subset; put a structure between them")
	}
	shape.Element = element
	return nil
}

func (p *parser) enum(id string, shape *Shape, raw rawShape) error {
	for _, m := range raw.Members {
		value := m.Traits.text("enumValue")
		if value == "" {
			return p.errorf(id+"$"+m.Name, "has no value; add the trait smithy.api#enumValue")
		}
		shape.Values = append(shape.Values, value)
	}
	if len(shape.Values) == 0 {
		return p.errorf(id, "the enumeration is empty")
	}
	return nil
}

// allow refuses a trait that would have no effect.
func (p *parser) allow(id string, traits traits, names ...string) error {
	for _, trait := range slices.Sorted(maps.Keys(traits)) {
		known := slices.ContainsFunc(names, func(name string) bool {
			return trait == "smithy.api#"+name || trait == "aws.protocols#"+name || trait == name
		})
		if !known {
			return p.errorf(id, "the trait %s has no effect here; take it out (allowed: %v)", trait, names)
		}
	}
	return nil
}

// text returns a trait's string, empty when absent. Its name may leave out Smithy's own namespace.
func (t traits) text(name string) string {
	value, ok := t[name]
	if !ok {
		value = t["smithy.api#"+name]
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// ordered is a JSON object of members that keeps the order of its keys.
type ordered []namedMember

type namedMember struct {
	Name string
	rawMember
}

func (o *ordered) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		var m rawMember
		if err := decoder.Decode(&m); err != nil {
			return err
		}
		*o = append(*o, namedMember{Name: key.(string), rawMember: m})
	}
	return nil
}
