package dispatch

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Seq counts the committed changes of one section of one document. Zero is "nothing yet".
type Seq = uint64

// Rev is the Seq at which an item last changed.
type Rev = uint64

// SectionID names a section of a document.
type SectionID struct {
	Doc     string `cbor:"1,keyasint"`
	Section string `cbor:"2,keyasint"`
}

func (id SectionID) String() string { return id.Doc + "#" + id.Section }

// Validate reports a name that is empty or too long.
func (id SectionID) Validate() error {
	if err := ValidateName(id.Doc); err != nil {
		return fmt.Errorf("check document name: %w", err)
	}
	if err := ValidateName(id.Section); err != nil {
		return fmt.Errorf("check section name: %w", err)
	}
	return nil
}

// ValidateName checks a document, section or target name: 1 to MaxNameBytes printable ASCII bytes without spaces.
func ValidateName(name string) error {
	if name == "" || len(name) > MaxNameBytes {
		return fmt.Errorf("name %.64q has %d bytes: want 1 to %d", name, len(name), MaxNameBytes)
	}
	if strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return fmt.Errorf("name %.64q: want printable ASCII without spaces", name)
	}
	return nil
}

// ValidateStream checks what a stream is opened with: a name of 1 to MaxStreamName bytes as ValidateName wants them, and a
// header of at most MaxStreamHeader bytes.
func ValidateStream(name string, header []byte) error {
	if err := ValidateName(name); err != nil {
		return fmt.Errorf("check stream: %w", err)
	}
	if len(name) > MaxStreamName {
		return fmt.Errorf("check stream %.64q: name has %d bytes, at most %d", name, len(name), MaxStreamName)
	}
	if len(header) > MaxStreamHeader {
		return fmt.Errorf("check stream %q: header has %d bytes, at most %d", name, len(header), MaxStreamHeader)
	}
	return nil
}

// Item is one entry of a section as it travels and as it is kept on a target's disk.
type Item struct {
	Key     string `cbor:"1,keyasint"`
	Rev     Rev    `cbor:"2,keyasint"`
	Payload []byte `cbor:"3,keyasint,omitempty"` // the bytes as committed; not to be modified
	Deleted bool   `cbor:"4,keyasint,omitempty"` // a tombstone: Payload and Needs are empty
	Needs   []Need `cbor:"5,keyasint,omitempty"` // what the target must hold before the item is shown
}

// Need is the least version of a topic that an item may be applied with.
type Need struct {
	Doc      string       `cbor:"1,keyasint"`
	Sections []SectionSeq `cbor:"2,keyasint,omitempty"` // empty: the document had no section then
}

// SectionSeq is a section of a known document, and a sequence in it.
type SectionSeq struct {
	Section string `cbor:"1,keyasint"`
	Seq     Seq    `cbor:"2,keyasint"`
}

// Position tells what a receiver holds of a section.
type Position struct {
	ID  SectionID `cbor:"1,keyasint"`
	Seq Seq       `cbor:"2,keyasint"`
	Sum Checksum  `cbor:"3,keyasint"`
}

// Failure tells that an item is not applied: the target could not, and keeps the last good version, or it is still at it,
// and says so again (Retryable) or no more. An item that a section's acknowledgement covers and does not name is applied.
type Failure struct {
	Key       string `cbor:"1,keyasint"`
	Rev       Rev    `cbor:"2,keyasint"`
	Reason    string `cbor:"3,keyasint"` // for people; at most MaxFailureBytes
	Retryable bool   `cbor:"4,keyasint,omitempty"`
}

// Liveness is what the server believes about a target from its silence.
type Liveness uint8

const (
	Down    Liveness = iota // no session since this server started
	Up                      // heard within SuspectAfter
	Suspect                 // silent for SuspectAfter: takes no new placements
	Dead                    // silent for DeadAfter: may be declared dead by its owner
)

func (l Liveness) String() string {
	return [...]string{"down", "up", "suspect", "dead"}[l&3]
}

// TargetStatus is the server's view of one target.
type TargetStatus struct {
	Target        string
	Connected     bool // a session is open now
	Liveness      Liveness
	Since         time.Time // of the last change of Liveness
	LastHeartbeat time.Time // anything heard counts; zero when never heard
	Epoch         uint64
	BootID        string
	Info          []byte // as given in the target's hello; opaque
	Sections      []SectionStatus
}

// SectionStatus tells how far a target got with one section.
type SectionStatus struct {
	ID       SectionID
	Seq      Seq // the server's own
	Received Seq
	Durable  Seq
	Applied  Seq // every item with a revision up to here is applied, or has been reported as failed
}

// Observer hears from targets. Calls about one target come one at a time and in order; calls about different targets run
// at the same time. A call must not wait for another call of the same target.
type Observer interface {
	// TargetUp tells that a session is open, with the target's own description. It comes again after each reconnect.
	TargetUp(target string, info []byte)
	// TargetDown tells that a target has been silent for SuspectAfter; since is when it was last heard.
	TargetDown(target string, since time.Time)
	// Applied tells that a section of the target's own document is applied up to seq, but for the failures.
	Applied(target, section string, seq uint64, failures []Failure)
	// Actual carries what the target reports. When full is set, upserts are the whole section and deletes is empty.
	Actual(target, section string, full bool, upserts []Item, deletes []string)
}

// Errors that callers branch on.
var (
	ErrIdentityInUse  = errors.New("identity in use: another live session has this target's name; stop the other host or join again under another name")
	ErrNotConnected   = errors.New("target has no session with the server")
	ErrUnknownStream  = errors.New("the other end does not serve a stream of this name: is it older?")
	ErrOtherCell      = errors.New("target belongs to another cell")
	ErrProtocol       = errors.New("no common protocol version: upgrade the older end")
	ErrTokenInvalid   = errors.New("join token is unknown, expired or used: create a new one")
	ErrTargetExists   = errors.New("target name is taken by another key: choose another name, or create a token for this very name to replace the host")
	ErrNotAuthorised  = errors.New("certificate is not registered for this target")
	ErrTooManyTargets = errors.New("server has as many sessions as it allows")
)

// RetryError tells a target to come back later.
type RetryError struct {
	After  time.Duration
	Reason string
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("retry after %v: %s", e.After, e.Reason)
}
