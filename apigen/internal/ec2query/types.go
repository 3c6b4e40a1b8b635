package ec2query

import (
	"slices"

	"github.com/nimbrel/nimbrel/apigen/internal/ec2model"
	"github.com/nimbrel/nimbrel/apigen/internal/gofile"
)

// types writes a Go structure for each structure of the model. The xml tags serve clients and tests that read an answer
// with encoding/xml; the encoders do not look at them.
func (g *generator) types() *gofile.File {
	all := func(*ec2model.Shape) bool { return true }
	imports := []string{"time"}
	if slices.ContainsFunc(g.structures(all), func(s *ec2model.Shape) bool { return streamed[s.Name] != "" }) {
		imports = []string{"iter", "time"}
	}
	f := gofile.New("gen_types.go", g.pkg, imports...)
	for _, shape := range g.structures(all) {
		f.P("")
		f.P("type %s struct {", g.names[shape])
		for _, m := range shape.Members {
			tag := ""
			if shape.InOutput {
				tag = " `xml:\"" + xmlPath(m) + "\"`"
			}
			kind := g.goType(m.Shape)
			if isStreamed(shape, m) {
				kind = "iter.Seq[*" + g.elementType(m.Shape.Element) + "]"
			}
			f.P("%s %s%s", gofile.Identifier(m.Name), kind, tag)
		}
		f.P("}")
	}
	return f
}

func xmlPath(m *ec2model.Member) string {
	if m.Shape.Kind == ec2model.List {
		return m.XMLName + ">item"
	}
	return m.XMLName
}

// enums writes the enumerations, their values, and for those that a request can hold the list that decoders check.
func (g *generator) enums() (*gofile.File, error) {
	f := gofile.New("gen_enums.go", g.pkg)
	for _, shape := range g.model.Shapes {
		if shape.Enum == nil {
			continue
		}
		name := g.names[shape]
		f.P("")
		f.P("type %s string", name)
		f.P("")
		f.P("const (")
		var constants []string
		for _, value := range shape.Enum {
			constant := gofile.EnumIdentifier(name, value)
			if err := g.claim(constant, "value "+value+" of "+shape.Name); err != nil {
				return nil, err
			}
			constants = append(constants, constant)
			f.P("%s %s = %q", constant, name, value)
		}
		f.P(")")
		if shape.InInput {
			f.P("")
			f.P("var %sValues = []%s{", lower(name), name)
			for _, constant := range constants {
				f.P("%s,", constant)
			}
			f.P("}")
		}
	}
	return f, nil
}

// actions writes the interface, the embed that answers UnsupportedOperation, and the aliases.
func (g *generator) actions() *gofile.File {
	f := gofile.New("gen_actions.go", g.pkg, "context", "", errsPath)
	f.P("")
	f.P("// API is one method for each action. The context carries the caller. An error that is not an *errs.Error is an internal")
	f.P("// one. The input is the method's to keep; the output is read once the method has returned.")
	f.P("type API interface {")
	for _, a := range g.model.Actions {
		f.P("%s(ctx context.Context, in *%s) (*%s, error)", a.Name, g.inputName(a), g.outputName(a))
	}
	f.P("}")
	f.P("")
	f.P("// Unsupported answers UnsupportedOperation to each action. Embed it and override what is served.")
	f.P("type Unsupported struct{}")
	f.P("")
	f.P("var _ API = Unsupported{}")
	for _, a := range g.model.Actions {
		f.P("")
		f.P("func (Unsupported) %s(context.Context, *%s) (*%s, error) {", a.Name, g.inputName(a), g.outputName(a))
		f.P("return nil, errs.Unsupported(%q)", a.Name)
		f.P("}")
	}
	for _, a := range g.model.Actions {
		if name := g.names[a.Input]; name != g.inputName(a) {
			g.alias(f, g.inputName(a), name)
		}
		switch {
		case a.Output == nil:
			f.P("")
			f.P("// %s is empty: the answer is <return>true</return>.", g.outputName(a))
			f.P("type %s struct{}", g.outputName(a))
		case g.names[a.Output] != g.outputName(a):
			g.alias(f, g.outputName(a), g.names[a.Output])
		}
	}
	return f
}

func (g *generator) alias(f *gofile.File, name, target string) {
	f.P("")
	f.P("type %s = %s", name, target)
}

// serve writes the dispatch table and one visible function an action, so that a stack trace names the action.
func (g *generator) serve() *gofile.File {
	f := gofile.New("gen_serve.go", g.pkg, "context", "net/url", "", wirePath)
	f.P("")
	f.P("// Actions is the dispatch table.")
	f.P("var Actions = map[string]Action{")
	for _, a := range g.model.Actions {
		f.P("%q: {", a.Name)
		f.P("Name: %q,", a.Name)
		for _, flag := range flags(a) {
			f.P("%s: true,", flag)
		}
		f.P("Parameters: parameters%s,", a.Name)
		f.P("Serve: serve%s,", a.Name)
		f.P("},")
	}
	f.P("}")
	for _, a := range g.model.Actions {
		result, encode := "out", "encode"+g.names[a.Output]
		if a.Output == nil {
			result, encode = "_", "nil"
		}
		f.P("")
		f.P("func serve%s(ctx context.Context, api API, params url.Values, requestID string, into []byte) ([]byte, error) {", a.Name)
		f.P("in := new(%s)", g.inputName(a))
		f.P("if err := wire.Decode(params, in, decode%s); err != nil {", g.names[a.Input])
		f.P("return nil, err")
		f.P("}")
		f.P("%s, err := api.%s(ctx, in)", result, a.Name)
		f.P("if err != nil {")
		f.P("return nil, err")
		f.P("}")
		if a.Output == nil {
			f.P("return wire.Append[struct{}](into, %q, requestID, nil, nil), nil", a.Name)
		} else {
			f.P("return wire.Append(into, %q, requestID, %s, %s), nil", a.Name, result, encode)
		}
		f.P("}")
	}
	return f
}

// flags derives what the protocol layer wants to know of an action from its shapes.
func flags(a *ec2model.Action) []string {
	has := func(shape *ec2model.Shape, member string) bool {
		return shape != nil && slices.ContainsFunc(shape.Members, func(m *ec2model.Member) bool { return m.Name == member })
	}
	var list []string
	for _, flag := range []struct {
		name string
		on   bool
	}{
		{"ReadOnly", isReadOnly(a.Name)},
		{"DryRun", has(a.Input, "DryRun")},
		{"ClientToken", has(a.Input, "ClientToken")},
		{"Paginated", has(a.Input, "NextToken") && has(a.Output, "NextToken")},
		{"Filtered", has(a.Input, "Filters")},
		{"Taggable", has(a.Input, "TagSpecifications")},
	} {
		if flag.on {
			list = append(list, flag.name)
		}
	}
	return list
}

func isReadOnly(action string) bool {
	for _, verb := range []string{"Describe", "Get", "List", "Search"} {
		if len(action) > len(verb) && action[:len(verb)] == verb {
			return true
		}
	}
	return false
}
