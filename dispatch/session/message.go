package session

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/nimbrel/nimbrel/dispatch"
)

// Message is one of the types below. On the wire it is its kind byte and a CBOR map with integer keys; unknown keys are
// ignored, an unknown kind is an error.
type Message interface{ kind() byte }

// Hello opens a session, and follows again on a Welcome that asks for it.
type Hello struct {
	Target      string              `cbor:"1,keyasint"`
	Cell        uint32              `cbor:"2,keyasint"`
	History     string              `cbor:"3,keyasint,omitempty"` // empty: never told one
	Epoch       uint64              `cbor:"4,keyasint,omitempty"` // 0: never told one
	BootID      string              `cbor:"5,keyasint,omitempty"` // of the machine
	Incarnation uint64              `cbor:"6,keyasint"`           // random, of the agent's process
	ProtocolMin int                 `cbor:"7,keyasint"`
	ProtocolMax int                 `cbor:"8,keyasint"`
	Desired     []dispatch.Position `cbor:"9,keyasint,omitempty"`
	Actual      []dispatch.Position `cbor:"10,keyasint,omitempty"`
	Info        []byte              `cbor:"11,keyasint,omitempty"`
}

// Verdict is the server's answer to a Hello.
type Verdict uint8

const (
	// Resume: the session is open. What the target lacks follows, section by section: nothing, a delta, or all of it.
	Resume Verdict = 1
	// StandDown: the target's epoch is old; it fences itself, takes the epoch told and says Hello again.
	StandDown Verdict = 2
	// OtherHistory: the server's past is not the target's. The target keeps what it has, takes the history told, says
	// Hello again and receives every section in full; what is not in there becomes an orphan.
	OtherHistory Verdict = 3
	// RetryLater: the server has no room, or must not serve this target now.
	RetryLater Verdict = 4
	// Refused: coming back changes nothing until a person acts; Reason says what.
	Refused Verdict = 5
)

// Welcome answers a Hello.
type Welcome struct {
	Verdict      Verdict             `cbor:"1,keyasint"`
	History      string              `cbor:"2,keyasint,omitempty"`
	Epoch        uint64              `cbor:"3,keyasint,omitempty"`
	Protocol     int                 `cbor:"4,keyasint,omitempty"`
	RetryAfterMs uint32              `cbor:"5,keyasint,omitempty"`
	Reason       string              `cbor:"6,keyasint,omitempty"`
	Code         uint32              `cbor:"7,keyasint,omitempty"` // which of package dispatch's errors: see refusal codes
	Actual       []dispatch.Position `cbor:"8,keyasint,omitempty"` // what the server holds of this incarnation's reports
}

// Refusal codes of a Welcome; append-only.
const (
	CodeIdentityInUse uint32 = 1
	CodeOtherCell     uint32 = 2
	CodeProtocol      uint32 = 3
)

// Subscribe lists every document that the target is to hold; it drops others once no item needs them.
type Subscribe struct {
	Docs []string `cbor:"1,keyasint"`
}

// Delta brings a section from one sequence to another. A large one travels in parts, applied as one.
type Delta struct {
	ID    dispatch.SectionID `cbor:"1,keyasint"`
	From  dispatch.Seq       `cbor:"2,keyasint"`           // the receiver holds at least this, or Full is set
	To    dispatch.Seq       `cbor:"3,keyasint"`           // what it holds afterwards
	Full  bool               `cbor:"4,keyasint,omitempty"` // Items are all of the section
	Part  uint32             `cbor:"5,keyasint,omitempty"` // counted from 0
	More  bool               `cbor:"6,keyasint,omitempty"` // another part follows
	Items []dispatch.Item    `cbor:"7,keyasint,omitempty"`
	Sum   dispatch.Checksum  `cbor:"8,keyasint"` // of the section at To
}

// Ack carries a target's marks for a section; each mark that is not zero holds from now on.
type Ack struct {
	ID       dispatch.SectionID `cbor:"1,keyasint"`
	Received dispatch.Seq       `cbor:"2,keyasint,omitempty"`
	Durable  dispatch.Seq       `cbor:"3,keyasint,omitempty"`
	Applied  dispatch.Seq       `cbor:"4,keyasint,omitempty"`
	Failures []dispatch.Failure `cbor:"5,keyasint,omitempty"` // all that stand at Applied
	Nack     string             `cbor:"6,keyasint,omitempty"` // why the delta was not taken; the last good version is kept
	Resync   bool               `cbor:"7,keyasint,omitempty"` // with Nack: only the full section helps
}

// ActualAck answers a Delta of the target's reports.
type ActualAck struct {
	ID     dispatch.SectionID `cbor:"1,keyasint"`
	Seq    dispatch.Seq       `cbor:"2,keyasint"`
	Resync bool               `cbor:"3,keyasint,omitempty"` // send the section in full
}

// Heartbeat tells what a target holds and reports. The server compares.
type Heartbeat struct {
	Desired []dispatch.Position `cbor:"1,keyasint,omitempty"`
	Actual  []dispatch.Position `cbor:"2,keyasint,omitempty"`
}

// HeartbeatAck tells the target that the server heard it.
type HeartbeatAck struct{}

func (*Hello) kind() byte        { return 1 }
func (*Welcome) kind() byte      { return 2 }
func (*Subscribe) kind() byte    { return 3 }
func (*Delta) kind() byte        { return 4 }
func (*Ack) kind() byte          { return 5 }
func (*ActualAck) kind() byte    { return 6 }
func (*Heartbeat) kind() byte    { return 7 }
func (*HeartbeatAck) kind() byte { return 8 }

func newMessage(kind byte) Message {
	switch kind {
	case 1:
		return new(Hello)
	case 2:
		return new(Welcome)
	case 3:
		return new(Subscribe)
	case 4:
		return new(Delta)
	case 5:
		return new(Ack)
	case 6:
		return new(ActualAck)
	case 7:
		return new(Heartbeat)
	case 8:
		return new(HeartbeatAck)
	}
	return nil
}

var decoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  16,
		MaxArrayElements: 1 << 16,
		MaxMapPairs:      64,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}()

// Encode appends a message's wire form. It fails beyond dispatch.MaxMessageBytes.
func Encode(b []byte, m Message) ([]byte, error) {
	body, err := cbor.Marshal(m)
	if err != nil {
		return b, fmt.Errorf("encode %T: %w", m, err)
	}
	if len(body) >= dispatch.MaxMessageBytes {
		return b, fmt.Errorf("encode %T: %d bytes, limit %d", m, len(body), dispatch.MaxMessageBytes)
	}
	return append(append(b, m.kind()), body...), nil
}

// Decode reads a message and checks the bounds of everything in it.
func Decode(b []byte) (Message, error) {
	if len(b) == 0 || len(b) > dispatch.MaxMessageBytes {
		return nil, fmt.Errorf("decode message: %d bytes, want 1 to %d", len(b), dispatch.MaxMessageBytes)
	}
	m := newMessage(b[0])
	if m == nil {
		return nil, fmt.Errorf("decode message: unknown kind %d", b[0])
	}
	if err := decoding.Unmarshal(b[1:], m); err != nil {
		return nil, fmt.Errorf("decode %T: %w", m, err)
	}
	if err := validate(m); err != nil {
		return nil, fmt.Errorf("check %T: %w", m, err)
	}
	return m, nil
}

func validate(m Message) error {
	switch m := m.(type) {
	case *Hello:
		return validateHello(m)
	case *Welcome:
		if err := bound("reason", len(m.Reason), dispatch.MaxFailureBytes); err != nil {
			return err
		}
		return validatePositions(m.Actual)
	case *Subscribe:
		return validateDocs(m.Docs)
	case *Delta:
		return validateDelta(m)
	case *Ack:
		return validateAck(m)
	case *ActualAck:
		return m.ID.Validate()
	case *Heartbeat:
		if err := validatePositions(m.Desired); err != nil {
			return err
		}
		return validatePositions(m.Actual)
	}
	return nil
}

func bound(what string, n, limit int) error {
	if n > limit {
		return fmt.Errorf("%s is %d, limit %d", what, n, limit)
	}
	return nil
}

func validateHello(h *Hello) error {
	if err := dispatch.ValidateName(h.Target); err != nil {
		return err
	}
	if err := bound("info", len(h.Info), dispatch.MaxInfoBytes); err != nil {
		return err
	}
	if err := bound("history and boot id", max(len(h.History), len(h.BootID)), dispatch.MaxNameBytes); err != nil {
		return err
	}
	if err := validatePositions(h.Desired); err != nil {
		return err
	}
	return validatePositions(h.Actual)
}

func validatePositions(ps []dispatch.Position) error {
	if err := bound("positions", len(ps), dispatch.MaxSections); err != nil {
		return err
	}
	for _, p := range ps {
		if err := p.ID.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func validateDocs(docs []string) error {
	if err := bound("documents", len(docs), dispatch.MaxSections); err != nil {
		return err
	}
	for _, d := range docs {
		if err := dispatch.ValidateName(d); err != nil {
			return err
		}
	}
	return nil
}

func validateDelta(d *Delta) error {
	if err := d.ID.Validate(); err != nil {
		return err
	}
	if d.From > d.To {
		return fmt.Errorf("delta of %v goes back from %d to %d", d.ID, d.From, d.To)
	}
	for i := range d.Items {
		it := &d.Items[i]
		if it.Rev > d.To || it.Rev == 0 {
			return fmt.Errorf("item %.64q has revision %d in a delta to %d", it.Key, it.Rev, d.To)
		}
		if err := ValidateItem(it); err != nil {
			return err
		}
	}
	return nil
}

// ValidateItem checks an item's bounds.
func ValidateItem(it *dispatch.Item) error {
	if it.Key == "" || len(it.Key) > dispatch.MaxKeyBytes {
		return fmt.Errorf("item key %.64q has %d bytes: want 1 to %d", it.Key, len(it.Key), dispatch.MaxKeyBytes)
	}
	if err := bound("payload of item "+it.Key, len(it.Payload), dispatch.MaxPayloadBytes); err != nil {
		return err
	}
	return bound("needs of item "+it.Key, len(it.Needs), dispatch.MaxTopics)
}

func validateAck(a *Ack) error {
	if err := a.ID.Validate(); err != nil {
		return err
	}
	if err := bound("nack text", len(a.Nack), dispatch.MaxFailureBytes); err != nil {
		return err
	}
	if err := bound("failures", len(a.Failures), dispatch.MaxFailures); err != nil {
		return err
	}
	for _, f := range a.Failures {
		if err := bound("failure text", len(f.Reason), dispatch.MaxFailureBytes); err != nil {
			return err
		}
	}
	return nil
}
