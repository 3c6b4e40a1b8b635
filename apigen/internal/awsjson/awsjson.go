// Package awsjson writes the Go types, server dispatch and client of an awsJson1.1 service.
//
// What every service needs at run time is in svc/awsjson and is not generated.
package awsjson

import (
	"fmt"
	"path"
	"strings"

	"github.com/nimbrel/nimbrel/apigen/internal/gofile"
	"github.com/nimbrel/nimbrel/apigen/internal/smithy"
)

const runtimePath = "github.com/nimbrel/nimbrel/svc/awsjson"

type generator struct {
	model *smithy.Model
	pkg   string
}

// Generate writes the package at importPath.
func Generate(model *smithy.Model, importPath string) (map[string][]byte, error) {
	g := &generator{model: model, pkg: path.Base(importPath)}
	if err := g.check(); err != nil {
		return nil, err
	}
	files := map[string]*gofile.File{
		"gen_types.go":   g.types(),
		"gen_conform.go": g.conform(),
		"gen_errors.go":  g.errors(),
		"gen_server.go":  g.server(),
		"gen_client.go":  g.client(),
	}
	output := make(map[string][]byte, len(files))
	for name, file := range files {
		text, err := file.Format()
		if err != nil {
			return nil, err
		}
		output[name] = text
	}
	return output, nil
}

// check refuses what this protocol's generator has no form for.
func (g *generator) check() error {
	taken := map[string]string{"API": "the interface", "Client": "the client", "NewClient": "its constructor", "NewHandler": "the server", "Operations": "the dispatch table", "Unsupported": "the embed"}
	claim := func(name, holder string) error {
		if other, ok := taken[name]; ok {
			return fmt.Errorf("%s: shape %s needs the Go name %s, which %s has; rename the shape", g.model.File, holder, name, other)
		}
		taken[name] = holder
		return nil
	}
	for _, shape := range g.model.Errors {
		if err := claim("New"+shape.Name, shape.Name); err != nil {
			return err
		}
	}
	for _, shape := range g.model.Shapes {
		if err := claim(gofile.Identifier(shape.Name), shape.Name); err != nil {
			return err
		}
		for _, m := range shape.Members {
			if m.Shape.Kind == "timestamp" || (m.Shape.Kind == "list" && m.Shape.Element.Kind == "timestamp") {
				return fmt.Errorf("%s: shape %s$%s: timestamps are not offered; use a long of milliseconds since 1970 called ...AtMs", g.model.File, shape.Name, m.Name)
			}
		}
		for _, value := range shape.Values {
			if err := claim(gofile.EnumIdentifier(shape.Name, value), shape.Name+" value "+value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *generator) types() *gofile.File {
	imports := []string(nil)
	if g.uses("document") {
		imports = []string{"encoding/json"}
	}
	f := gofile.New("gen_types.go", g.pkg, imports...)
	for _, shape := range g.model.Shapes {
		f.P("")
		name := gofile.Identifier(shape.Name)
		if shape.Doc != "" {
			f.Comment(name + ": " + shape.Doc)
		}
		if shape.Kind == "enum" {
			enum(f, name, shape)
			continue
		}
		f.P("type %s struct {", name)
		for _, m := range shape.Members {
			comment := ""
			if m.Doc != "" {
				comment = " // " + m.Doc
			}
			f.P("%s %s `json:\"%s\"`%s", gofile.Identifier(m.Name), goType(m), jsonTag(m), comment)
		}
		f.P("}")
	}
	return f
}

func enum(f *gofile.File, name string, shape *smithy.Shape) {
	f.P("type %s string", name)
	f.P("")
	f.P("const (")
	for _, value := range shape.Values {
		f.P("%s %s = %q", gofile.EnumIdentifier(name, value), name, value)
	}
	f.P(")")
	f.P("")
	f.P("// All%s are the values in the model's order.", name)
	f.P("var All%s = []%s{", name, name)
	for _, value := range shape.Values {
		f.P("%s,", gofile.EnumIdentifier(name, value))
	}
	f.P("}")
}

// goType is the type of a field. An optional number, boolean or structure is a pointer; an optional text is empty when absent.
func goType(m *smithy.Member) string {
	base := elementType(m.Shape)
	switch m.Shape.Kind {
	case "list":
		return "[]" + elementType(m.Shape.Element)
	case "string", "enum", "blob", "document":
		return base
	}
	if m.Required {
		return base
	}
	return "*" + base
}

func elementType(shape *smithy.Shape) string {
	switch shape.Kind {
	case "structure", "enum":
		return gofile.Identifier(shape.Name)
	}
	return map[string]string{
		"string": "string", "boolean": "bool", "integer": "int32", "long": "int64", "double": "float64", "blob": "[]byte", "document": "json.RawMessage",
	}[shape.Kind]
}

func jsonTag(m *smithy.Member) string {
	if m.Required {
		return m.JSONName
	}
	return m.JSONName + ",omitempty"
}

func (g *generator) uses(kind string) bool {
	for _, shape := range g.model.Shapes {
		for _, m := range shape.Members {
			if m.Shape.Kind == kind || (m.Shape.Kind == "list" && m.Shape.Element.Kind == kind) {
				return true
			}
		}
	}
	return false
}

func (g *generator) errors() *gofile.File {
	f := gofile.New("gen_errors.go", g.pkg, runtimePath)
	f.P("")
	f.P("// The codes of the service's errors.")
	f.P("const (")
	for _, shape := range g.model.Errors {
		f.P("Code%s = %q // %s", shape.Name, shape.Name, shape.Doc)
	}
	f.P(")")
	retry := map[string]string{"never": "Never", "later": "Later", "unknown": "Ask"}
	for _, shape := range g.model.Errors {
		f.P("")
		f.Comment(fmt.Sprintf("New%s: %s", shape.Name, shape.Doc))
		f.P("func New%s(format string, args ...any) *awsjson.Error {", shape.Name)
		f.P("return awsjson.Errorf(Code%s, %d, awsjson.%s, format, args...)", shape.Name, shape.Status, retry[shape.Retry])
		f.P("}")
	}
	return f
}

func (g *generator) server() *gofile.File {
	f := gofile.New("gen_server.go", g.pkg, "context", "net/http", "", runtimePath)
	f.P("")
	f.Comment("API: " + g.model.Doc + " An error that is not an *awsjson.Error is an internal one.")
	f.P("type API interface {")
	for i, o := range g.model.Operations {
		if i > 0 {
			f.P("")
		}
		f.Comment(o.Name + ": " + o.Doc)
		f.P("%s(ctx context.Context, in *%sInput) (*%sOutput, error)", o.Name, o.Name, o.Name)
	}
	f.P("}")
	f.P("")
	f.P("// Operations is the dispatch table.")
	f.P("var Operations = map[string]awsjson.Operation[API]{")
	for _, o := range g.model.Operations {
		readOnly := ""
		if o.ReadOnly {
			readOnly = "ReadOnly: true, "
		}
		f.P("%q: {%sServe: serve%s},", o.Name, readOnly, o.Name)
	}
	f.P("}")
	f.P("")
	f.P("// NewHandler serves the API.")
	f.P("func NewHandler(api API, options awsjson.Options) http.Handler {")
	f.P("return awsjson.NewHandler(%q, api, Operations, options)", g.model.Service)
	f.P("}")
	f.P("")
	f.P("// Unsupported answers UnknownOperation to each call. Embed it where only some are served.")
	f.P("type Unsupported struct{}")
	f.P("")
	f.P("var _ API = Unsupported{}")
	for _, o := range g.model.Operations {
		f.P("")
		f.P("func (Unsupported) %s(context.Context, *%sInput) (*%sOutput, error) {", o.Name, o.Name, o.Name)
		f.P("return nil, NewUnknownOperation(\"%s is not offered by this server\")", o.Name)
		f.P("}")
	}
	for _, o := range g.model.Operations {
		g.serve(f, o)
	}
	return f
}

func (g *generator) serve(f *gofile.File, o *smithy.Operation) {
	var required strings.Builder
	for _, m := range o.Input.Members {
		if m.Required {
			fmt.Fprintf(&required, ", %q", m.JSONName)
		}
	}
	f.P("")
	f.P("func serve%s(ctx context.Context, api API, body []byte) ([]byte, error) {", o.Name)
	f.P("in := new(%sInput)", o.Name)
	f.P("if err := awsjson.Decode(body, in%s); err != nil {", required.String())
	f.P("return nil, err")
	f.P("}")
	f.P("out, err := api.%s(ctx, in)", o.Name)
	f.P("if err != nil {")
	f.P("return nil, err")
	f.P("}")
	f.P("return awsjson.Encode(out)")
	f.P("}")
}

func (g *generator) client() *gofile.File {
	f := gofile.New("gen_client.go", g.pkg, "context", "net/http", "", runtimePath)
	f.P("")
	f.P("// Client calls the service. It is safe for concurrent use. A failure that the server reported is an *awsjson.Error.")
	f.P("type Client struct{ client *awsjson.Client }")
	f.P("")
	f.P("var _ API = (*Client)(nil)")
	f.P("")
	f.P("// NewClient makes a client that posts to baseURL through httpClient, which owns dialing, TLS and timeouts.")
	f.P("func NewClient(httpClient *http.Client, baseURL string) *Client {")
	f.P("return &Client{client: awsjson.NewClient(%q, httpClient, baseURL)}", g.model.Service)
	f.P("}")
	for _, o := range g.model.Operations {
		f.P("")
		f.Comment(o.Name + ": " + o.Doc)
		f.P("func (c *Client) %s(ctx context.Context, in *%sInput) (*%sOutput, error) {", o.Name, o.Name, o.Name)
		f.P("out := new(%sOutput)", o.Name)
		f.P("if err := c.client.Call(ctx, %q, in, out); err != nil {", o.Name)
		f.P("return nil, err")
		f.P("}")
		f.P("return out, nil")
		f.P("}")
	}
	return f
}
