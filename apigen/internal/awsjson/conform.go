package awsjson

import (
	"fmt"
	"math"

	"github.com/nimbrel/nimbrel/apigen/internal/gofile"
	"github.com/nimbrel/nimbrel/apigen/internal/smithy"
)

// conform writes Conform for the inputs and outputs, and a conform for each structure below them.
func (g *generator) conform() *gofile.File {
	f := gofile.New("gen_conform.go", g.pkg, runtimePath)
	for _, o := range g.model.Operations {
		for _, name := range []string{o.Name + "Input", o.Name + "Output"} {
			f.P("")
			f.P("// Conform makes required lists non-nil and reports the first broken constraint.")
			f.P("func (v *%s) Conform() error {", name)
			f.P("var c awsjson.Check")
			f.P("v.conform(&c, \"\")")
			f.P("return c.Err()")
			f.P("}")
		}
	}
	for _, shape := range g.model.Shapes {
		if shape.Kind != "structure" {
			continue
		}
		var lines []string
		for _, m := range shape.Members {
			lines = append(lines, checks(m)...)
		}
		f.P("")
		if len(lines) == 0 {
			f.P("func (v *%s) conform(*awsjson.Check, string) {}", gofile.Identifier(shape.Name))
			continue
		}
		f.P("func (v *%s) conform(c *awsjson.Check, at string) {", gofile.Identifier(shape.Name))
		for _, line := range lines {
			f.P("%s", line)
		}
		f.P("}")
	}
	return f
}

// checks are the statements that hold one member to the model.
func checks(m *smithy.Member) []string {
	field, at := "v."+gofile.Identifier(m.Name), fmt.Sprintf("at+%q", m.JSONName)
	switch m.Shape.Kind {
	case "structure":
		return structure(m, field)
	case "list":
		return list(m, field, at)
	case "enum":
		return optional(m, field+` != ""`, fmt.Sprintf("awsjson.OneOf(c, %s, %s, All%s)", at, field, gofile.Identifier(m.Shape.Name)))
	case "string", "blob":
		if m.Shape.Min == nil && m.Shape.Max == nil {
			return nil
		}
		return optional(m, "len("+field+") > 0", fmt.Sprintf("c.Length(%s, len(%s), %s, %s)", at, field, number(m.Shape.Min, 0), number(m.Shape.Max, 0)))
	case "integer", "long":
		if m.Shape.Min == nil && m.Shape.Max == nil {
			return nil
		}
		value := field
		if !m.Required {
			value = "*" + field
		}
		return optional(m, field+" != nil", fmt.Sprintf("c.Range(%s, int64(%s), %s, %s)", at, value, number(m.Shape.Min, math.MinInt64), number(m.Shape.Max, math.MaxInt64)))
	}
	return nil
}

// optional guards a check of a member that may be absent.
func optional(m *smithy.Member, present, check string) []string {
	if m.Required {
		return []string{check}
	}
	return []string{"if " + present + " {", check, "}"}
}

func structure(m *smithy.Member, field string) []string {
	return optional(m, field+" != nil", fmt.Sprintf("%s.conform(c, at+%q)", field, m.JSONName+"."))
}

func list(m *smithy.Member, field, at string) []string {
	lines := []string{fmt.Sprintf("c.Length(%s, len(%s), %s, %s)", at, field, minimum(m), number(m.Shape.Max, 0))}
	if m.Required {
		lines = append(lines, "if "+field+" == nil {", field+" = "+goType(m)+"{}", "}")
	}
	element := m.Shape.Element
	switch {
	case element.Kind == "structure":
		lines = append(lines, "for i := range "+field+" {", fmt.Sprintf("%s[i].conform(c, at+%q)", field, m.JSONName+"[]."), "}")
	case element.Kind == "enum":
		lines = append(lines, "for i := range "+field+" {", fmt.Sprintf("awsjson.OneOf(c, %s, %s[i], All%s)", at, field, gofile.Identifier(element.Name)), "}")
	case element.Kind == "string" && (element.Min != nil || element.Max != nil):
		lines = append(lines, "for i := range "+field+" {", fmt.Sprintf("c.Length(%s, len(%s[i]), %s, %s)", at, field, number(element.Min, 0), number(element.Max, 0)), "}")
	}
	return lines
}

// minimum is a list's least length; an optional list may always be absent.
func minimum(m *smithy.Member) string {
	if !m.Required {
		return "0"
	}
	return number(m.Shape.Min, 0)
}

func number(v *float64, otherwise int64) string {
	if v == nil {
		return fmt.Sprint(otherwise)
	}
	return fmt.Sprint(int64(*v))
}
