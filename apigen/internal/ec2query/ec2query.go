// Package ec2query writes the Go codec of the EC2 query protocol for a parsed model.
//
// The generated code is plain: one function a structure and direction, one line a member, no reflection. What every
// codec needs at run time is in ec2/internal/wire and is not generated.
package ec2query

import (
	"fmt"
	"path"
	"strings"

	"github.com/nimbrel/nimbrel/apigen/internal/ec2model"
	"github.com/nimbrel/nimbrel/apigen/internal/gofile"
)

const (
	errsPath = "github.com/nimbrel/nimbrel/ec2/errs"
	wirePath = "github.com/nimbrel/nimbrel/ec2/internal/wire"
)

// generator holds the names that the model's shapes get in Go.
type generator struct {
	model *ec2model.Model
	pkg   string
	names map[*ec2model.Shape]string
	used  map[string]string // Go name to what holds it
}

// Generate writes the package at importPath.
func Generate(model *ec2model.Model, importPath string) (map[string][]byte, error) {
	g := &generator{
		model: model,
		pkg:   path.Base(importPath),
		names: make(map[*ec2model.Shape]string),
		used:  map[string]string{"API": "the interface", "Action": "the dispatch type", "Actions": "the dispatch table", "Unsupported": "the embed", "Known": "the name check"},
	}
	if err := g.nameShapes(); err != nil {
		return nil, err
	}
	if err := g.checkLists(); err != nil {
		return nil, err
	}
	enums, err := g.enums()
	if err != nil {
		return nil, err
	}
	files := map[string]*gofile.File{
		"gen_actions.go":    g.actions(),
		"gen_serve.go":      g.serve(),
		"gen_types.go":      g.types(),
		"gen_enums.go":      enums,
		"gen_decode.go":     g.decoders(),
		"gen_encode.go":     g.encoders(),
		"gen_parameters.go": g.parameters(),
		"gen_known.go":      g.known(),
	}
	output := make(map[string][]byte, len(files))
	for name, file := range files {
		if output[name], err = file.Format(); err != nil {
			return nil, err
		}
	}
	return output, nil
}

// nameShapes gives each structure and enumeration its Go name. The input and output of an action are called after the
// action, unless the shape has a name of its own: then the action's name becomes an alias.
func (g *generator) nameShapes() error {
	for _, action := range g.model.Actions {
		if action.Input.Name == action.Name+"Request" {
			g.names[action.Input] = action.Name + "Input"
		}
		if o := action.Output; o != nil && (o.Name == action.Name+"Result" || o.Name == action.Name+"Response") {
			g.names[o] = action.Name + "Output"
		}
	}
	for _, shape := range g.model.Shapes {
		if shape.Kind != ec2model.Structure && shape.Enum == nil {
			continue
		}
		if g.names[shape] == "" {
			g.names[shape] = gofile.Identifier(shape.Name)
		}
		if err := g.claim(g.names[shape], "shape "+shape.Name); err != nil {
			return err
		}
	}
	return nil
}

func (g *generator) claim(name, holder string) error {
	if other, taken := g.used[name]; taken {
		return fmt.Errorf("%s: %s needs the Go name %s, which %s has; give one of them another name in ec2query", g.model.File, holder, name, other)
	}
	g.used[name] = holder
	return nil
}

func (g *generator) inputName(a *ec2model.Action) string  { return a.Name + "Input" }
func (g *generator) outputName(a *ec2model.Action) string { return a.Name + "Output" }

// goType is the type of a field: optional scalars and structures are pointers, lists are slices of values.
func (g *generator) goType(shape *ec2model.Shape) string {
	switch shape.Kind {
	case ec2model.List:
		return "[]" + g.elementType(shape.Element)
	case ec2model.Blob:
		return "[]byte"
	default:
		return "*" + g.elementType(shape)
	}
}

func (g *generator) elementType(shape *ec2model.Shape) string {
	if name := g.names[shape]; name != "" {
		return name
	}
	return map[ec2model.Kind]string{
		ec2model.String: "string", ec2model.Boolean: "bool", ec2model.Integer: "int32", ec2model.Long: "int64",
		ec2model.Double: "float64", ec2model.Timestamp: "time.Time", ec2model.Blob: "[]byte",
	}[shape.Kind]
}

// structures returns the structures that one direction reaches.
func (g *generator) structures(reached func(*ec2model.Shape) bool) []*ec2model.Shape {
	var list []*ec2model.Shape
	for _, shape := range g.model.Shapes {
		if shape.Kind == ec2model.Structure && reached(shape) {
			list = append(list, shape)
		}
	}
	return list
}

// lower makes an unexported identifier of an exported one.
func lower(name string) string { return strings.ToLower(name[:1]) + name[1:] }
