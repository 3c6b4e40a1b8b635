// Package page cuts a Describe answer into pages.
//
// A token names the last item of its page by the sort key, so the next page begins after that key whatever was created or
// deleted in between: nothing that existed throughout is skipped or shown twice. A token is bound to the action, the account
// and the other parameters by a hash: used elsewhere it is refused. It carries nothing that its holder may not see, so it
// needs no secret.
//
// Deliberately absent: state between pages. Start reading at Cut, or at Begin for items that are not in
// memory all at once.
package page

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Limits are an action's bounds of MaxResults.
type Limits struct {
	Min, Max int32
}

// Usual are the bounds of most actions.
var Usual = Limits{Min: 5, Max: 1000}

// Request is what a Describe request says of pages.
type Request struct {
	Action     string
	Account    ids.Account
	Limits     Limits
	MaxResults *int32
	NextToken  *string
	Filters    []ec2gen.Filter
	Selected   []string // whatever else chooses the items, such as flags; part of the token's binding
	IDs        []string // explicit ids, which do not go with MaxResults
	IDsName    string   // how this action calls them, for the message
}

const (
	version      = 1
	bindingBytes = 12
	maxTokenText = 2048
)

// Cut returns the page of items that the request asks for and the token of the next, nil on the last. key gives an item's
// sort key, which must be unique and never change. items need not be sorted and is not changed. Without MaxResults a page
// has Limits.Max items.
func Cut[T any](items []T, key func(T) string, r Request) (page []T, next *string, err error) {
	size, after, err := r.Begin()
	if err != nil {
		return nil, nil, err
	}
	sorted := slices.SortedFunc(slices.Values(items), func(a, b T) int { return strings.Compare(key(a), key(b)) })
	if r.NextToken != nil {
		start, found := slices.BinarySearchFunc(sorted, after, func(item T, after string) int { return strings.Compare(key(item), after) })
		if found {
			start++
		}
		sorted = sorted[start:]
	}
	if len(sorted) <= size {
		return sorted, nil, nil
	}
	page = sorted[:size:size]
	return page, r.Token(key(page[size-1])), nil
}

// Begin checks the request, for items that are read a page at a time: at most size items behind the key after, which is
// empty for the first page.
func (r Request) Begin() (size int, after string, err error) {
	if size, err = r.size(); err != nil {
		return 0, "", err
	}
	after, err = r.after()
	return size, after, err
}

// size checks MaxResults.
func (r Request) size() (int, error) {
	if r.MaxResults == nil {
		return int(r.Limits.Max), nil
	}
	if len(r.IDs) > 0 {
		return 0, errs.New(errs.InvalidParameterCombination, "The parameter %s cannot be used with the parameter MaxResults", r.IDsName)
	}
	if n := *r.MaxResults; n < r.Limits.Min || n > r.Limits.Max {
		return 0, errs.Invalid("MaxResults", fmt.Sprint(n), fmt.Sprintf("Expecting a value from %d to %d.", r.Limits.Min, r.Limits.Max))
	}
	return int(*r.MaxResults), nil
}

// after reads the token: the sort key to go on after.
func (r Request) after() (string, error) {
	if r.NextToken == nil {
		return "", nil
	}
	bad := errs.New(errs.InvalidNextToken, "The token is not valid for this request: give it with the same action and filters as the request that it came from.")
	if len(*r.NextToken) > maxTokenText {
		return "", bad
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(*r.NextToken)
	if err != nil || len(raw) < 1+bindingBytes || raw[0] != version {
		return "", bad
	}
	after := string(raw[1+bindingBytes:])
	if subtle.ConstantTimeCompare(raw[1:1+bindingBytes], r.binding(after)) != 1 {
		return "", bad
	}
	return after, nil
}

// Token is that of the page behind a key.
func (r Request) Token(after string) *string {
	raw := append([]byte{version}, r.binding(after)...)
	return new(base64.RawURLEncoding.EncodeToString(append(raw, after...)))
}

// binding hashes what the token belongs to, and its key. Each part is quoted, so that no two requests run together to the
// same text.
func (r Request) binding(after string) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %q %q %q %q", version, r.Action, r.Account, after, r.Selected, r.IDs)
	for _, f := range r.Filters {
		name := ""
		if f.Name != nil {
			name = *f.Name
		}
		fmt.Fprintf(h, " %q%q", name, f.Values)
	}
	return h.Sum(nil)[:bindingBytes]
}
