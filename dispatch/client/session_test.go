package client

import (
	"testing"

	"github.com/nimbrel/nimbrel/dispatch/session"
)

// TestTaken follows heartbeats and their answers: only an answer to a heartbeat around which nothing was refused tells that
// all is held, however late it comes.
func TestTaken(t *testing.T) {
	refuse, beat := &session.Ack{Nack: "disk full"}, &session.Heartbeat{}
	for _, test := range []struct {
		name string
		do   []session.Message // nil is an answer
		want []bool            // of each answer
	}{
		{"clean", []session.Message{beat, nil}, []bool{true}},
		{"never asked", []session.Message{nil}, []bool{false}},
		{"refused before", []session.Message{refuse, beat, nil, beat, nil}, []bool{false, true}},
		{"refused since", []session.Message{beat, refuse, nil, beat, nil, beat, nil}, []bool{false, false, true}},
		{"late answer to an older one", []session.Message{refuse, beat, beat, nil, nil}, []bool{false, true}},
		{"every answer late", []session.Message{refuse, beat, beat, nil, beat, nil, beat, nil}, []bool{false, true, true}},
		{"refused with two under way", []session.Message{beat, beat, refuse, nil, nil}, []bool{false, false}},
		{"another session", []session.Message{beat, &session.Hello{}, nil}, []bool{false}},
	} {
		var taken taken
		var got []bool
		for _, m := range test.do {
			if m == nil {
				got = append(got, taken.answered())
			} else {
				taken.note([]session.Message{m})
			}
		}
		if len(got) != len(test.want) {
			t.Fatalf("%s: %d answers", test.name, len(got))
		}
		for i := range got {
			if got[i] != test.want[i] {
				t.Errorf("%s: answer %d completes: %v, want %v", test.name, i+1, got[i], test.want[i])
			}
		}
	}
}
