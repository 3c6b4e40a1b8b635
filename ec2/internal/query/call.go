package query

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

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

	// Fingerprint tells requests apart that carry the same client token: a hash of the action and all parameters but
	// ClientToken and DryRun, whatever their order on the wire. It is zero for actions that take no client token.
	Fingerprint [sha256.Size]byte
}

// fingerprint hashes what the request asks for. Each part is quoted, so that no two forms run together to the same text.
func fingerprint(r request) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q", r.action)
	for _, name := range slices.Sorted(maps.Keys(r.params)) {
		if name != "ClientToken" && name != "DryRun" {
			fmt.Fprintf(h, " %q%q", name, r.params[name])
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
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
