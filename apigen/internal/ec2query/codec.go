package ec2query

import (
	"fmt"
	"math"
	"strings"

	"github.com/nimbrel/nimbrel/apigen/internal/ec2model"
	"github.com/nimbrel/nimbrel/apigen/internal/gofile"
)

func (g *generator) decoders() *gofile.File {
	f := gofile.New("gen_decode.go", g.pkg, wirePath)
	for _, shape := range g.structures(func(s *ec2model.Shape) bool { return s.InInput }) {
		f.P("")
		f.P("func decode%s(n *wire.Node, v *%s) {", g.names[shape], g.names[shape])
		if required := requiredNames(shape); len(required) > 0 {
			f.P("n.Require(%s)", strings.Join(required, ", "))
		}
		for _, m := range shape.Members {
			f.P("v.%s = %s", gofile.Identifier(m.Name), g.decode(m))
		}
		f.P("}")
	}
	return f
}

func requiredNames(shape *ec2model.Shape) []string {
	var names []string
	for _, m := range shape.Members {
		if m.Required {
			names = append(names, fmt.Sprintf("%q", m.QueryName))
		}
	}
	return names
}

// decode is the expression that reads one member.
func (g *generator) decode(m *ec2model.Member) string {
	shape, name := m.Shape, fmt.Sprintf("%q", m.QueryName)
	switch {
	case shape.Kind == ec2model.Structure:
		return fmt.Sprintf("wire.Struct(n, %s, decode%s)", name, g.names[shape])
	case shape.Kind == ec2model.List:
		return g.decodeList(shape, name)
	case shape.Enum != nil:
		return fmt.Sprintf("wire.Enum(n, %s, %sValues)", name, lower(g.names[shape]))
	case shape.Kind == ec2model.Integer && (shape.Min != nil || shape.Max != nil):
		return fmt.Sprintf("n.Int32In(%s, %d, %d)", name, bound(shape.Min, math.MinInt32), bound(shape.Max, math.MaxInt32))
	}
	return fmt.Sprintf("n.%s(%s)", method(shape), name)
}

func (g *generator) decodeList(shape *ec2model.Shape, name string) string {
	max := "wire.MaxListItems"
	if shape.Max != nil {
		max = fmt.Sprint(bound(shape.Max, 0))
	}
	element := shape.Element
	switch {
	case element.Kind == ec2model.Structure:
		return fmt.Sprintf("wire.Structs(n, %s, %s, decode%s)", name, max, g.names[element])
	case element.Enum != nil:
		return fmt.Sprintf("wire.Enums(n, %s, %s, %sValues)", name, max, lower(g.names[element]))
	default: // texts: checkLists has seen to it
		return fmt.Sprintf("n.Strings(%s, %s)", name, max)
	}
}

func bound(v *float64, otherwise int) int {
	if v == nil {
		return otherwise
	}
	return int(*v)
}

// method is the name that readers and writers of a scalar share.
func method(shape *ec2model.Shape) string {
	return map[ec2model.Kind]string{
		ec2model.String: "String", ec2model.Boolean: "Bool", ec2model.Integer: "Int32", ec2model.Long: "Int64",
		ec2model.Double: "Float64", ec2model.Timestamp: "Time", ec2model.Blob: "Blob",
	}[shape.Kind]
}

func (g *generator) encoders() *gofile.File {
	f := gofile.New("gen_encode.go", g.pkg, wirePath)
	for _, shape := range g.structures(func(s *ec2model.Shape) bool { return s.InOutput }) {
		f.P("")
		f.P("func encode%s(x *wire.XML, v *%s) {", g.names[shape], g.names[shape])
		for _, m := range shape.Members {
			f.P("%s", g.encode(shape, m))
		}
		f.P("}")
	}
	return f
}

// streamed are the lists that an answer's maker gives one element at a time, while they are written, by the structures
// that hold them. A page of them is megabytes of structures that would all be there at once.
var streamed = map[string]string{"DescribeInstancesResult": "Reservations"}

func isStreamed(of *ec2model.Shape, m *ec2model.Member) bool {
	name, found := streamed[of.Name]
	return found && name == m.Name
}

// encode is the statement that writes one member of a structure.
func (g *generator) encode(of *ec2model.Shape, m *ec2model.Member) string {
	shape, name, field := m.Shape, fmt.Sprintf("%q", m.XMLName), "v."+gofile.Identifier(m.Name)
	switch {
	case isStreamed(of, m):
		return fmt.Sprintf(`wire.AppendEach(x, %s, "item", %s, encode%s)`, name, field, g.names[shape.Element])
	case shape.Kind == ec2model.Structure:
		return fmt.Sprintf("wire.AppendStruct(x, %s, %s, encode%s)", name, field, g.names[shape])
	case shape.Kind == ec2model.List:
		return g.encodeList(shape, name, field)
	case shape.Enum != nil:
		return fmt.Sprintf("wire.TextEnum(x, %s, %s)", name, field)
	}
	return fmt.Sprintf("x.%s(%s, %s)", method(shape), name, field)
}

// encodeList writes a list. Its elements are always called "item" in an answer, also where the model leaves that out.
func (g *generator) encodeList(shape *ec2model.Shape, name, field string) string {
	switch shape.Element.Kind {
	case ec2model.Structure:
		return fmt.Sprintf(`wire.AppendStructs(x, %s, "item", %s, encode%s)`, name, field, g.names[shape.Element])
	case ec2model.Integer, ec2model.Long:
		return fmt.Sprintf(`wire.AppendInts(x, %s, "item", %s)`, name, field)
	default: // texts: checkLists has seen to it
		return fmt.Sprintf(`wire.AppendTexts(x, %s, "item", %s)`, name, field)
	}
}

// checkLists refuses lists of what the run-time half has no reader or writer for, because no chosen action needed one yet.
func (g *generator) checkLists() error {
	for _, shape := range g.model.Shapes {
		if shape.Kind != ec2model.List {
			continue
		}
		kind := shape.Element.Kind
		readable := kind == ec2model.Structure || kind == ec2model.String
		writable := readable || kind == ec2model.Integer || kind == ec2model.Long
		if (shape.InInput && !readable) || (shape.InOutput && !writable) {
			return fmt.Errorf("%s: list shape %s holds %s, which wire cannot read or write; add that to ec2/internal/wire and to ec2query", g.model.File, shape.Name, kind)
		}
	}
	return nil
}

// parameters lists every parameter that an action's model has, so that each can be declared honoured or refused.
func (g *generator) parameters() *gofile.File {
	f := gofile.New("gen_parameters.go", g.pkg)
	for _, a := range g.model.Actions {
		f.P("")
		f.P("var parameters%s = []string{", a.Name)
		for _, path := range paths("", a.Input, nil) {
			f.P("%q,", path)
		}
		f.P("}")
	}
	return f
}

// paths spells the parameters below a structure; N stands for a list index. A structure inside itself is not entered.
func paths(prefix string, shape *ec2model.Shape, above []*ec2model.Shape) []string {
	for _, a := range above {
		if a == shape {
			return nil
		}
	}
	above = append(above, shape)
	var list []string
	for _, m := range shape.Members {
		path, target := prefix+m.QueryName, m.Shape
		if target.Kind == ec2model.List {
			path, target = path+".N", target.Element
		}
		if target.Kind == ec2model.Structure {
			list = append(list, paths(path+".", target, above)...)
		} else {
			list = append(list, path)
		}
	}
	return list
}

// known lists the service's action names, so that one which is not offered is told from one which does not exist.
func (g *generator) known() *gofile.File {
	f := gofile.New("gen_known.go", g.pkg)
	f.P("")
	f.P("const known = `")
	for _, name := range g.model.Known {
		f.P("%s", name)
	}
	f.P("`")
	return f
}
