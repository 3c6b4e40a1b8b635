// Package ec2model reads the EC2 service model and keeps what a list of actions reaches.
//
// Invariant: a parsed Model is closed (every reference resolves) and free of what the generator cannot express, so that
// later stages need no error paths.
package ec2model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Model is the part of the service that the chosen actions use.
type Model struct {
	File    string // where it was read, for messages
	Version string // of the API, "2016-11-15"
	Actions []*Action
	Shapes  []*Shape // by name
	Known   []string // every action of the service, chosen or not, by name
}

// Action is one chosen operation. Output is nil when the action has no result.
type Action struct {
	Name          string
	Input, Output *Shape
}

// Kind is a shape's type.
type Kind string

// The kinds that EC2 uses.
const (
	Structure Kind = "structure"
	List      Kind = "list"
	String    Kind = "string"
	Boolean   Kind = "boolean"
	Integer   Kind = "integer"
	Long      Kind = "long"
	Double    Kind = "double"
	Timestamp Kind = "timestamp"
	Blob      Kind = "blob"
)

// Shape is a type of the model.
type Shape struct {
	Name     string
	Kind     Kind
	Members  []*Member // of a structure, in the model's order
	Element  *Shape    // of a list
	Enum     []string
	Min, Max *float64
	InInput  bool // reached from a chosen action's input
	InOutput bool // reached from a chosen action's output
}

// Member is a field of a structure.
type Member struct {
	Name      string
	Shape     *Shape
	QueryName string // its name in a request
	XMLName   string // its name in an answer
	Required  bool
}

// Open lists enumerations whose values this cloud extends; they are texts.
var open = []string{"InstanceType"}

// raw* mirror the file.
type rawModel struct {
	Metadata   struct{ APIVersion, Protocol string }
	Operations map[string]struct {
		Input, Output *rawRef
	}
	Shapes map[string]rawShape
}

type rawShape struct {
	Type     string
	Members  ordered
	Member   *rawRef
	Required []string
	Enum     []string
	Min, Max *float64
}

type rawRef struct {
	Shape        string
	LocationName string
	QueryName    string
}

// Parse reads a model and takes the closure of the actions.
func Parse(file string, text []byte, actions []string) (*Model, error) {
	var raw rawModel
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("%s: not an EC2 model: %w", file, err)
	}
	if raw.Metadata.Protocol != "ec2" {
		return nil, fmt.Errorf("%s: protocol is %q; only ec2 models can be read here", file, raw.Metadata.Protocol)
	}
	p := &parser{file: file, raw: raw, shapes: make(map[string]*Shape)}
	model := &Model{File: file, Version: raw.Metadata.APIVersion}
	for _, name := range slices.Sorted(slices.Values(actions)) {
		action, err := p.action(name)
		if err != nil {
			return nil, err
		}
		model.Actions = append(model.Actions, action)
	}
	for _, shape := range p.shapes {
		model.Shapes = append(model.Shapes, shape)
	}
	slices.SortFunc(model.Shapes, func(a, b *Shape) int { return strings.Compare(a.Name, b.Name) })
	for name := range raw.Operations {
		model.Known = append(model.Known, name)
	}
	slices.Sort(model.Known)
	return model, nil
}

type parser struct {
	file   string
	raw    rawModel
	shapes map[string]*Shape
}

func (p *parser) action(name string) (*Action, error) {
	operation, ok := p.raw.Operations[name]
	if !ok {
		return nil, fmt.Errorf("%s: no action %s; correct its name in the action list or take it out", p.file, name)
	}
	if operation.Input == nil {
		return nil, fmt.Errorf("%s: action %s has no input shape; take it out of the action list", p.file, name)
	}
	action := &Action{Name: name}
	var err error
	if action.Input, err = p.shape(operation.Input.Shape, name); err != nil {
		return nil, err
	}
	mark(action.Input, func(s *Shape) *bool { return &s.InInput })
	if operation.Output == nil {
		return action, nil
	}
	if action.Output, err = p.shape(operation.Output.Shape, name); err != nil {
		return nil, err
	}
	mark(action.Output, func(s *Shape) *bool { return &s.InOutput })
	return action, nil
}

// shape resolves a name; user is who refers to it.
func (p *parser) shape(name, user string) (*Shape, error) {
	if shape, ok := p.shapes[name]; ok {
		return shape, nil
	}
	raw, ok := p.raw.Shapes[name]
	if !ok {
		return nil, fmt.Errorf("%s: shape %s, used by %s, is not defined; the model is incomplete", p.file, name, user)
	}
	shape := &Shape{Name: name, Kind: Kind(raw.Type), Min: raw.Min, Max: raw.Max}
	p.shapes[name] = shape // before its members: shapes may refer to themselves
	if !slices.Contains(open, name) {
		shape.Enum = raw.Enum
	}
	switch shape.Kind {
	case Structure:
		return shape, p.members(shape, raw)
	case List:
		return shape, p.element(shape, raw)
	case String, Boolean, Integer, Long, Double, Timestamp, Blob:
		return shape, nil
	}
	return nil, fmt.Errorf("%s: shape %s has type %q, which EC2 codecs do not have; take out the action that uses it or teach ec2model", p.file, name, raw.Type)
}

func (p *parser) members(shape *Shape, raw rawShape) error {
	for _, m := range raw.Members {
		target, err := p.shape(m.Ref.Shape, shape.Name+"."+m.Name)
		if err != nil {
			return err
		}
		shape.Members = append(shape.Members, &Member{
			Name:      m.Name,
			Shape:     target,
			QueryName: queryName(m.Name, m.Ref),
			XMLName:   firstOf(m.Ref.LocationName, m.Name),
			Required:  slices.Contains(raw.Required, m.Name),
		})
	}
	return nil
}

func (p *parser) element(shape *Shape, raw rawShape) error {
	if raw.Member == nil {
		return fmt.Errorf("%s: list shape %s has no member; add one", p.file, shape.Name)
	}
	element, err := p.shape(raw.Member.Shape, shape.Name)
	if err != nil {
		return err
	}
	if element.Kind == List {
		return fmt.Errorf("%s: list shape %s holds lists, which the query protocol cannot name; take out the action that uses it", p.file, shape.Name)
	}
	shape.Element = element
	return nil
}

// queryName applies the EC2 rule: queryName, else the location name with a capital, else the member's own name.
func queryName(member string, ref rawRef) string {
	if ref.QueryName != "" {
		return ref.QueryName
	}
	name := firstOf(ref.LocationName, member)
	return strings.ToUpper(name[:1]) + name[1:]
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// mark sets a flag on everything a shape reaches.
func mark(shape *Shape, flag func(*Shape) *bool) {
	if *flag(shape) {
		return
	}
	*flag(shape) = true
	for _, m := range shape.Members {
		mark(m.Shape, flag)
	}
	if shape.Element != nil {
		mark(shape.Element, flag)
	}
}
