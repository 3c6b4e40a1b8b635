package account

import (
	"errors"
	"fmt"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// ErrBehind reports that the in-memory view did not reach the version current at the call within a second. The call
// had no effect and can be repeated.
var ErrBehind = errors.New("the view of accounts lags behind the store; retry")

// Kind names a sort of thing in an error.
type Kind string

// The kinds of this part.
const (
	KindAccount   Kind = "account"
	KindAccessKey Kind = "access-key"
	KindKeyPair   Kind = "key-pair"
	KindResource  Kind = "resource" // of any part, in tag calls
)

// NotFoundError reports a thing that does not exist in the account.
type NotFoundError struct {
	Kind Kind
	ID   string // id or name as asked
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s %q does not exist", e.Kind, e.ID) }

// DuplicateError reports a name that is taken.
type DuplicateError struct {
	Kind Kind
	Name string
}

func (e *DuplicateError) Error() string { return fmt.Sprintf("%s %q already exists", e.Kind, e.Name) }

// InvalidError reports a value that cannot be accepted. Param is the caller's parameter ("KeyName", "KeyType",
// "PublicKeyMaterial", "Tag", "Name", "Limit").
type InvalidError struct {
	Param  string
	Value  string
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("value %q for %s is invalid: %s", e.Value, e.Param, e.Reason)
}

// QuotaError reports that a quota has less left than was wanted.
type QuotaError struct {
	Account ids.Account
	Quota   Quota
	Wanted  int64
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("account %s has not enough left of quota %s: %d wanted", e.Account, e.Quota, e.Wanted)
}

// LimitError reports a fixed bound that is reached.
type LimitError struct {
	Kind  Kind // of what there would be too many
	Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("at most %d of %s are allowed", e.Limit, e.Kind)
}

// TagLimitError reports that a resource would carry more than MaxTagsPerResource tags.
type TagLimitError struct{ Resource string }

func (e *TagLimitError) Error() string {
	if e.Resource == "" {
		return fmt.Sprintf("a resource has at most %d tags", MaxTagsPerResource)
	}
	return fmt.Sprintf("resource %s would have more than %d tags", e.Resource, MaxTagsPerResource)
}
