package query

import (
	"context"

	"github.com/nimbrel/nimbrel/internal/assert"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Call is what a handler may know of the request besides its input.
type Call struct {
	RequestID   string
	Action      string
	Account     ids.Account
	AccessKeyID string
	DryRun      bool // check everything, change nothing, return errs.DryRun
}

type callKey struct{}

// WithCall returns a context that carries the call. Tests of handlers use it in place of a Handler.
func WithCall(ctx context.Context, call Call) context.Context {
	return context.WithValue(ctx, callKey{}, call)
}

// CallFrom returns the call of a handler's context. It panics outside of one, because an action without a caller is a
// defect and must not run as nobody.
func CallFrom(ctx context.Context) Call {
	call, ok := ctx.Value(callKey{}).(Call)
	assert.That(ok, "the context of an action carries a call; make one with WithCall")
	return call
}
