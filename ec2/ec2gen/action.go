package ec2gen

import (
	"context"
	"net/url"
	"strings"
	"sync"
)

// Action is one row of the dispatch table.
type Action struct {
	Name        string
	ReadOnly    bool // changes nothing
	DryRun      bool // takes DryRun
	ClientToken bool // takes ClientToken
	Paginated   bool // takes MaxResults and NextToken, answers NextToken
	Filtered    bool // takes Filter.N
	Taggable    bool // takes TagSpecification.N

	// Parameters are the names that the model has, in its order; N stands for a list index, from 1.
	Parameters []string

	// Serve decodes the parameters, calls the action's method and appends the answer to into. Action, Version and the
	// signature's parameters must not be among params. An error that is not an *errs.Error is an internal one.
	Serve func(ctx context.Context, api API, params url.Values, requestID string, into []byte) ([]byte, error)
}

// Known reports whether the service has an action of this name, offered here or not.
func Known(action string) bool { return knownNames()[action] }

var knownNames = sync.OnceValue(func() map[string]bool {
	names := make(map[string]bool)
	for name := range strings.FieldsSeq(known) {
		names[name] = true
	}
	return names
})
