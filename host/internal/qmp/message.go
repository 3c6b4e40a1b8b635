package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxMessageBytes bounds one line from QEMU. The longest answers used here are a few kilobytes.
const maxMessageBytes = 1 << 20

// Event is something that QEMU said unasked.
type Event struct {
	Name string          // "SHUTDOWN", "RESET", "GUEST_PANICKED", …
	Data json.RawMessage // the event's arguments, or nil
	At   time.Time       // by QEMU's clock
}

// message is one line from QEMU: a greeting, an answer or an event.
type message struct {
	greeting bool
	event    *Event
	answer   *answer
}

type answer struct {
	id      uint64
	result  json.RawMessage
	refused *refusal
}

type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

var errMalformed = errors.New("malformed message")

// parse reads one line. Fields that it does not know are ignored, as the protocol demands of clients.
func parse(line []byte) (message, error) {
	var raw struct {
		Greeting  json.RawMessage `json:"QMP"`
		Event     string          `json:"event"`
		Data      json.RawMessage `json:"data"`
		Timestamp struct {
			Seconds      int64 `json:"seconds"`
			Microseconds int64 `json:"microseconds"`
		} `json:"timestamp"`
		ID     *uint64         `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *refusal        `json:"error"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &raw); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	switch {
	case raw.Event != "":
		at := time.Unix(raw.Timestamp.Seconds, raw.Timestamp.Microseconds*1000)
		return message{event: &Event{Name: raw.Event, Data: raw.Data, At: at}}, nil
	case raw.Return != nil || raw.Error != nil:
		if raw.ID == nil { // an answer to bytes that were no command: this client sends none
			return message{}, fmt.Errorf("%w: answer without id", errMalformed)
		}
		return message{answer: &answer{id: *raw.ID, result: raw.Return, refused: raw.Error}}, nil
	case raw.Greeting != nil:
		return message{greeting: true}, nil
	}
	return message{}, fmt.Errorf("%w: neither greeting, event nor answer", errMalformed)
}
