package wire

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

// scalar returns the text of the child called name, and whether it is there.
func (n *Node) scalar(name string) (*Node, bool) {
	c := n.child(name)
	return c, c.leaf()
}

// leaf reports whether the node holds text. A node with children and no text is left to firstUnused, which names the
// parameter that does not belong.
func (n *Node) leaf() bool { return n != nil && n.set }

// String reads a text parameter.
func (n *Node) String(name string) *string {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	if !isText(c.value) {
		n.request.fail(errs.Invalid(c.path, "...", notText))
		return nil
	}
	return &c.value
}

const notText = "It is not text: it must be UTF-8 without control characters other than tab and line breaks."

// isText holds for what an answer can give back as it came: UTF-8 of characters that XML 1.0 can carry. What it cannot
// would be stored as one thing, a tag's key say, and shown as another.
func isText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '\r' && r != '\t' && r != '\n' && !isXML(r) })
}

// Bool reads a parameter that is true or false.
func (n *Node) Bool(name string) *bool {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	switch c.value {
	case "true":
		return new(true)
	case "false":
		return new(false)
	}
	n.request.fail(errs.Invalid(c.path, c.value, "It must be true or false."))
	return nil
}

// Int32 reads a whole number.
func (n *Node) Int32(name string) *int32 { return n.Int32In(name, math.MinInt32, math.MaxInt32) }

// Int32In reads a whole number between min and max, both allowed.
func (n *Node) Int32In(name string, min, max int32) *int32 {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	v, err := strconv.ParseInt(c.value, 10, 32)
	switch {
	case err != nil:
		n.request.fail(errs.Invalid(c.path, c.value, "It must be a whole number."))
	case v < int64(min) || v > int64(max):
		n.request.fail(errs.Invalid(c.path, c.value, fmt.Sprintf("It must be between %d and %d.", min, max)))
	default:
		return new(int32(v))
	}
	return nil
}

// Int64 reads a whole number of 64 bits.
func (n *Node) Int64(name string) *int64 {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	v, err := strconv.ParseInt(c.value, 10, 64)
	if err != nil {
		n.request.fail(errs.Invalid(c.path, c.value, "It must be a whole number."))
		return nil
	}
	return &v
}

// Float64 reads a finite number.
func (n *Node) Float64(name string) *float64 {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	v, err := strconv.ParseFloat(c.value, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		n.request.fail(errs.Invalid(c.path, c.value, "It must be a number."))
		return nil
	}
	return &v
}

// Time reads an ISO 8601 timestamp with a zone.
func (n *Node) Time(name string) *time.Time {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	v, err := time.Parse(time.RFC3339Nano, c.value)
	if err != nil {
		n.request.fail(errs.Invalid(c.path, c.value, "It must be a timestamp such as 2026-01-02T15:04:05.000Z."))
		return nil
	}
	return new(v.UTC())
}

// Blob reads bytes in standard base64. An empty value is present and empty.
func (n *Node) Blob(name string) []byte {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	v, err := base64.StdEncoding.DecodeString(c.value)
	if err != nil {
		n.request.fail(errs.Invalid(c.path, c.value, "It must be base64."))
		return nil
	}
	return v
}

// Enum reads one of the given values.
func Enum[T ~string](n *Node, name string, allowed []T) *T {
	c, ok := n.scalar(name)
	if !ok {
		return nil
	}
	return enum(c, allowed)
}

func enum[T ~string](c *Node, allowed []T) *T {
	for i := range allowed {
		if string(allowed[i]) == c.value {
			return new(allowed[i])
		}
	}
	why := fmt.Sprintf("It must be one of %v.", allowed)
	if len(allowed) > 12 {
		why = "It is not a value of the API."
	}
	c.request.fail(errs.Invalid(c.path, c.value, why))
	return nil
}

// Struct reads a nested structure; nil when no parameter begins with its name.
func Struct[T any](n *Node, name string, decode func(*Node, *T)) *T {
	c := n.child(name)
	if c == nil {
		return nil
	}
	v := new(T)
	c.structure(func() { decode(c, v) })
	return v
}

// structure refuses text where a structure belongs, else decodes it.
func (n *Node) structure(decode func()) {
	if n.set {
		n.request.fail(errs.Invalid(n.path, n.value, "It is a structure: write "+n.path+".Member."))
		return
	}
	decode()
}

// Structs reads a list of structures of at most max elements.
func Structs[T any](n *Node, name string, max int, decode func(*Node, *T)) []T {
	items := n.items(name, max)
	if items == nil {
		return nil
	}
	list := make([]T, len(items))
	for i, item := range items {
		item.structure(func() { decode(item, &list[i]) })
	}
	return list
}

// Strings reads a list of texts of at most max elements.
func (n *Node) Strings(name string, max int) []string {
	items := n.items(name, max)
	if items == nil {
		return nil
	}
	list := make([]string, len(items))
	for i, item := range items {
		if !item.leaf() || !isText(item.value) {
			n.request.fail(errs.Invalid(item.path, "...", notText))
			return nil
		}
		list[i] = item.value
	}
	return list
}

// Enums reads a list of at most max of the given values.
func Enums[T ~string](n *Node, name string, max int, allowed []T) []T {
	items := n.items(name, max)
	if items == nil {
		return nil
	}
	list := make([]T, len(items))
	for i, item := range items {
		v := enum(item, allowed)
		if v == nil {
			return nil
		}
		list[i] = *v
	}
	return list
}
