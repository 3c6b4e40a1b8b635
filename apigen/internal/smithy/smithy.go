// Package smithy reads the subset of Smithy 2.0 (JSON form) that our own services use.
//
// The subset: one service with operations; structures, lists, strings, enumerations, booleans, integers, longs, doubles,
// timestamps, blobs and documents; the traits required, length, range, documentation, readonly, error, httpError,
// jsonName, and nimbrel.api#retry on errors. Anything else is refused by name, so that a trait never has silently no
// effect.
//
// Invariant of a parsed Model: every reference resolves; every list has a largest length (length.max); every error has a
// status and a retry class; every member has a JSON name.
package smithy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Model is one service.
type Model struct {
	File       string
	Service    string // shape name without its namespace
	Version    string
	Doc        string
	Operations []*Operation // by name
	Shapes     []*Shape     // structures and enumerations that operations reach, by name
	Errors     []*Shape     // by name
}

// Operation is one call. Input and Output are structures.
type Operation struct {
	Name          string
	Doc           string
	Input, Output *Shape
	ReadOnly      bool
}

// Shape is a type. Only what its Kind uses is set.
type Shape struct {
	Name     string
	Kind     string // Smithy's word: structure, list, string, enum, boolean, integer, long, double, timestamp, blob, document
	Doc      string
	Members  []*Member
	Element  *Shape   // list
	Values   []string // enum
	Min, Max *float64 // length of strings, blobs and lists; range of numbers

	Status int    // error: HTTP status
	Retry  string // error: retry class
}

// Member is a field of a structure.
type Member struct {
	Name     string
	JSONName string
	Doc      string
	Shape    *Shape
	Required bool
}

// RetryClasses are what nimbrel.api#retry may say: never sent again as it is, sent again after a pause, or unknown (ask
// what became of it first).
var RetryClasses = []string{"never", "later", "unknown"}

type rawModel struct {
	Smithy string
	Shapes map[string]rawShape
}

type rawShape struct {
	Type       string
	Version    string
	Operations []rawRef
	Errors     []rawRef
	Input      *rawRef
	Output     *rawRef
	Members    ordered
	Member     *rawMember
	Traits     traits
}

type rawRef struct{ Target string }

type rawMember struct {
	Target string
	Traits traits
}

type traits map[string]json.RawMessage

// Parse reads a model of exactly one service.
func Parse(file string, text []byte) (*Model, error) {
	p := &parser{file: file, shapes: make(map[string]*Shape)}
	if err := json.Unmarshal(text, &p.raw); err != nil {
		return nil, fmt.Errorf("%s: not a Smithy model in JSON: %w", file, err)
	}
	if !strings.HasPrefix(p.raw.Smithy, "2.") && p.raw.Smithy != "2" {
		return nil, fmt.Errorf("%s: smithy version is %q; write \"smithy\": \"2.0\"", file, p.raw.Smithy)
	}
	var services []string
	for id, shape := range p.raw.Shapes {
		if shape.Type == "service" {
			services = append(services, id)
		}
	}
	if len(services) != 1 {
		return nil, fmt.Errorf("%s: found %d services; a model has exactly one", file, len(services))
	}
	return p.service(services[0])
}

type parser struct {
	file   string
	raw    rawModel
	shapes map[string]*Shape // by id
}

// errorf names the file and the shape.
func (p *parser) errorf(id, format string, args ...any) error {
	return fmt.Errorf("%s: shape %s: %s", p.file, id, fmt.Sprintf(format, args...))
}

func (p *parser) service(id string) (*Model, error) {
	raw := p.raw.Shapes[id]
	if err := p.allow(id, raw.Traits, "documentation", "awsJson1_1"); err != nil {
		return nil, err
	}
	if _, ok := raw.Traits["aws.protocols#awsJson1_1"]; !ok {
		return nil, p.errorf(id, "has no protocol; add the trait aws.protocols#awsJson1_1")
	}
	model := &Model{File: p.file, Service: localName(id), Version: raw.Version, Doc: raw.Traits.text("documentation")}
	for _, ref := range raw.Operations {
		operation, err := p.operation(ref.Target)
		if err != nil {
			return nil, err
		}
		model.Operations = append(model.Operations, operation)
	}
	for _, ref := range raw.Errors {
		shape, err := p.errorShape(ref.Target)
		if err != nil {
			return nil, err
		}
		model.Errors = append(model.Errors, shape)
	}
	for _, shape := range p.shapes {
		if (shape.Kind == "structure" || shape.Kind == "enum") && !slices.Contains(model.Errors, shape) {
			model.Shapes = append(model.Shapes, shape)
		}
	}
	slices.SortFunc(model.Operations, func(a, b *Operation) int { return strings.Compare(a.Name, b.Name) })
	byName := func(a, b *Shape) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(model.Shapes, byName)
	slices.SortFunc(model.Errors, byName)
	return model, p.unused()
}

func (p *parser) operation(id string) (*Operation, error) {
	raw, ok := p.raw.Shapes[id]
	if !ok || raw.Type != "operation" {
		return nil, p.errorf(id, "the service lists it as an operation, but it is not defined as one")
	}
	if err := p.allow(id, raw.Traits, "documentation", "readonly"); err != nil {
		return nil, err
	}
	if raw.Input == nil || raw.Output == nil {
		return nil, p.errorf(id, "an operation needs an input and an output structure, also when they are empty")
	}
	_, readOnly := raw.Traits["smithy.api#readonly"]
	operation := &Operation{Name: localName(id), Doc: raw.Traits.text("documentation"), ReadOnly: readOnly}
	if operation.Doc == "" {
		return nil, p.errorf(id, "has no smithy.api#documentation; say what the operation does")
	}
	var err error
	if operation.Input, err = p.structure(raw.Input.Target, id, operation.Name+"Input"); err != nil {
		return nil, err
	}
	operation.Output, err = p.structure(raw.Output.Target, id, operation.Name+"Output")
	return operation, err
}

// structure resolves an operation's input or output and holds it to its name.
func (p *parser) structure(id, user, want string) (*Shape, error) {
	shape, err := p.shape(id, user)
	if err != nil {
		return nil, err
	}
	if shape.Kind != "structure" || shape.Name != want {
		return nil, p.errorf(id, "must be a structure called %s, because %s uses it so", want, localName(user))
	}
	return shape, nil
}

func (p *parser) errorShape(id string) (*Shape, error) {
	raw := p.raw.Shapes[id]
	if raw.Type != "structure" || len(raw.Members) > 0 {
		return nil, p.errorf(id, "an error is a structure without members; its message and retry class are implied")
	}
	if err := p.allow(id, raw.Traits, "documentation", "error", "httpError", "nimbrel.api#retry"); err != nil {
		return nil, err
	}
	shape := &Shape{Name: localName(id), Kind: "structure", Doc: raw.Traits.text("documentation"), Retry: raw.Traits.text("nimbrel.api#retry")}
	if err := json.Unmarshal(raw.Traits["smithy.api#httpError"], &shape.Status); err != nil || shape.Status < 400 || shape.Status > 599 {
		return nil, p.errorf(id, "needs the trait smithy.api#httpError with a status from 400 to 599")
	}
	if !slices.Contains(RetryClasses, shape.Retry) {
		return nil, p.errorf(id, "needs the trait nimbrel.api#retry with one of %v", RetryClasses)
	}
	p.shapes[id] = shape
	return shape, nil
}

// unused refuses shapes that nothing reaches: they are forgotten, or misspelt where they should be used.
func (p *parser) unused() error {
	ids := make([]string, 0, len(p.raw.Shapes))
	for id := range p.raw.Shapes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	used := make(map[string]bool)
	for _, raw := range p.raw.Shapes {
		for _, ref := range raw.Operations {
			used[ref.Target] = true
		}
	}
	for _, id := range ids {
		if p.shapes[id] == nil && p.raw.Shapes[id].Type != "service" && !used[id] {
			return p.errorf(id, "nothing uses it; use it or take it out")
		}
	}
	return nil
}

// localName drops the namespace of a shape id.
func localName(id string) string { return id[strings.IndexByte(id, '#')+1:] }
