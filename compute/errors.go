package compute

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nimbrel/nimbrel/internal/ids"
)

var (
	// ErrBehind: the in-memory view did not reach the store's version within ReadBehind. Retry (503).
	ErrBehind = errors.New("the read view is behind the store; retry")
	// ErrHostHeard: what is said of a host that is off contradicts what the server hears of it.
	ErrHostHeard = errors.New("the host is heard, or was a moment ago, so it is not off: wait until `nimbrel hosts` shows it as suspect for a minute, or leave out --off")
	// ErrHostUnreachable: the instance's host has no session, so its console cannot be read now. Retry.
	ErrHostUnreachable = errors.New("the instance's host is not connected; retry")
)

// NotFoundError names resources that do not exist in the account (InvalidInstanceID.NotFound, InvalidVolume.NotFound,
// by Kind).
type NotFoundError struct {
	Kind string // "instance", "volume" or "host"
	IDs  []string
}

func (e *NotFoundError) Error() string {
	if len(e.IDs) == 1 {
		return fmt.Sprintf("the %s ID '%s' does not exist", e.Kind, e.IDs[0])
	}
	return fmt.Sprintf("the %s IDs '%s' do not exist", e.Kind, strings.Join(e.IDs, ", "))
}

// StateError reports a verb that is not legal in the instance's state (IncorrectInstanceState).
type StateError struct {
	Instance ids.Instance
	State    State
	Verb     string // "started", "stopped", "rebooted", "modified"
}

func (e *StateError) Error() string {
	return fmt.Sprintf("the instance '%s' is not in a state from which it can be %s: it is %s", e.Instance, e.Verb, e.State)
}

// ProtectedError reports a terminate of an instance with termination protection (OperationNotPermitted).
type ProtectedError struct{ Instance ids.Instance }

func (e *ProtectedError) Error() string {
	return fmt.Sprintf("the instance '%s' may not be terminated: modify its 'disableApiTermination' attribute and try again", e.Instance)
}

// CapacityError reports that fewer than MinCount instances fit (InsufficientInstanceCapacity).
type CapacityError struct {
	Type   string
	Zone   string
	Reason string // what was looked at and what was short, for a person
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("no capacity for %s in zone %s: %s", e.Type, e.Zone, e.Reason)
}

// RequestError reports a request value that can never work (InvalidParameterValue and its like).
type RequestError struct {
	Parameter string // EC2's name: "MaxCount", "InstanceType", "UserData"
	Value     string
	Reason    string // says what to do
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("invalid value '%s' for %s: %s", e.Value, e.Parameter, e.Reason)
}
