package wire

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

// Bounds on a request, apart from its size in bytes.
const (
	MaxParameters = 10_000 // names in one request; net/url reads no more of one form
	MaxListItems  = 1_000  // elements of any one list, unless the model says less
	maxDepth      = 12     // dots in a name; the deepest name of the model has 6
)

// Node is one dotted prefix of the request's parameters. A nil Node is an absent one, and reading from it is allowed.
type Node struct {
	request  *request
	path     string // the name as the client sent it
	value    string
	set      bool // the client sent exactly this name
	used     bool // a decoder asked for it
	children map[string]*Node
}

// request is what all nodes of one request share.
type request struct{ err error }

func (r *request) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Decode reads params into in with the generated decoder. The caller has removed Action, Version and the parameters of
// the signature. The error is the first one found, nil only when every parameter was read.
func Decode[In any](params url.Values, in *In, decode func(*Node, *In)) error {
	root, err := parse(params)
	if err != nil {
		return err
	}
	root.used = true
	decode(root, in)
	if root.request.err != nil {
		return root.request.err
	}
	if unknown := root.firstUnused(); unknown != nil {
		return errs.New(errs.UnknownParameter, "The parameter %s is not recognized", clip(unknown.path))
	}
	return nil
}

// parse builds the tree. The names are sorted first so that the same bad request always gets the same error.
func parse(params url.Values) (*Node, error) {
	if len(params) > MaxParameters {
		return nil, errs.New(errs.InvalidParameterValue, "The request has %d parameters; at most %d are allowed.", len(params), MaxParameters)
	}
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	root := &Node{request: new(request)}
	for _, name := range names {
		values := params[name]
		if len(values) != 1 {
			return nil, errs.Invalid(clip(name), "...", "The parameter is given more than once.")
		}
		leaf, err := root.grow(name)
		if err != nil {
			return nil, err
		}
		leaf.value, leaf.set = values[0], true
	}
	return root, nil
}

// grow returns the node of a dotted name below n, which it makes as needed.
func (n *Node) grow(name string) (*Node, error) {
	if strings.Count(name, ".") > maxDepth {
		return nil, errs.New(errs.UnknownParameter, "The parameter %s is not recognized", clip(name))
	}
	at := n
	for end := 0; end < len(name) || name == ""; {
		part, _, _ := strings.Cut(name[end:], ".")
		end += len(part)
		child := at.children[part]
		if child == nil {
			child = &Node{request: n.request, path: name[:end]}
			if at.children == nil {
				at.children = make(map[string]*Node)
			}
			at.children[part] = child
		}
		at = child
		if end == len(name) {
			return at, nil
		}
		end++ // the dot
		if end == len(name) {
			return nil, errs.New(errs.UnknownParameter, "The parameter %s is not recognized", clip(name))
		}
	}
	return at, nil
}

// firstUnused returns the first parameter, in name order, that no decoder asked for.
func (n *Node) firstUnused() *Node {
	if n.set && !n.used {
		return n
	}
	keys := make([]string, 0, len(n.children))
	for key := range n.children {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if unused := n.children[key].firstUnused(); unused != nil {
			return unused
		}
	}
	return nil
}

// child returns the named child and marks it as read; nil when absent.
func (n *Node) child(name string) *Node {
	if n == nil {
		return nil
	}
	c := n.children[name]
	if c != nil {
		c.used = true
	}
	return c
}

// name spells the full name of a child for an error message.
func (n *Node) name(child string) string {
	if n == nil || n.path == "" {
		return child
	}
	return n.path + "." + child
}

// Require fails the request unless every named child is there.
func (n *Node) Require(names ...string) {
	for _, name := range names {
		c := n.children[name]
		if c == nil || (c.set && c.value == "" && c.children == nil) {
			n.request.fail(errs.Missing(n.name(name)))
			return
		}
	}
}

// items returns the elements of the list called name in order: nil when absent, empty when the client sent an empty list.
// Indexes count from 1 without gaps, so a list is never longer than the request.
func (n *Node) items(name string, max int) []*Node {
	list := n.child(name)
	if list == nil {
		return nil
	}
	if list.set && (list.value != "" || list.children != nil) {
		n.request.fail(errs.Invalid(list.path, list.value, "It is a list: write "+list.path+".1, "+list.path+".2 and so on."))
		return nil
	}
	if len(list.children) > max {
		n.request.fail(errs.Invalid(list.path, strconv.Itoa(len(list.children))+" elements", "At most "+strconv.Itoa(max)+" are allowed."))
		return nil
	}
	items := make([]*Node, len(list.children))
	for key, item := range list.children {
		index, err := strconv.Atoi(key)
		if err != nil || strconv.Itoa(index) != key || index < 1 || index > len(items) {
			n.request.fail(errs.Invalid(list.path, clip(key), "List indexes are whole numbers that count from 1 without gaps."))
			return nil
		}
		item.used = true
		items[index-1] = item
	}
	return items
}

// clip bounds what a message repeats of the client's text.
func clip(s string) string {
	if len(s) > 128 {
		return s[:128] + "..."
	}
	return s
}
