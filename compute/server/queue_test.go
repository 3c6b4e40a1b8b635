package server

import (
	"context"
	"testing"
	"time"
)

func TestQueue(t *testing.T) {
	q, ctx := newQueue(), context.Background()
	a, b := work{instance: "i-a"}, work{host: "h-b"}
	q.add(a)
	q.add(a)
	q.add(b)
	first, _ := q.take(ctx)
	second, _ := q.take(ctx)
	if first != a || second != b || len(q.ready) != 0 {
		t.Fatalf("took %+v and %+v, %d wait", first, second, len(q.ready))
	}
	q.add(a) // while it is being done: it must be done again, and not now
	if _, now := q.pop(); now {
		t.Fatal("one key is being done twice at a time")
	}
	q.done(a)
	if again, ok := q.pop(); !ok || again != a {
		t.Fatalf("what was added during the work is lost: %+v %t", again, ok)
	}
	q.done(a)
	q.done(b)
	if _, more := q.pop(); more || len(q.doing) != 0 || len(q.known) != 0 {
		t.Fatal("done work is kept")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, ok := q.take(ended); ok {
		t.Fatal("take after the end")
	}
}

func TestZoneID(t *testing.T) {
	for zone, want := range map[string]string{"us-nimbrel-1a": "usn1-az1", "us-nimbrel-1c": "usn1-az3", "elsewhere": "elsewhere"} {
		if got := ZoneID("us-nimbrel-1", zone); got != want {
			t.Errorf("zone %s has id %s, want %s", zone, got, want)
		}
	}
}

// TestQueuePausesOnce has work that fails while its last failure's pause still runs.
func TestQueuePausesOnce(t *testing.T) {
	q, w := newQueue(), work{instance: "i-a"}
	if !q.addAfter(w, time.Hour) || q.addAfter(w, time.Hour) {
		t.Error("want one pause for two failures")
	}
	other := work{host: "h-b"}
	if !q.addAfter(other, time.Millisecond) {
		t.Fatal("another key's pause counts")
	}
	if got, ok := q.take(t.Context()); !ok || got != other {
		t.Fatalf("took %v, %v", got, ok)
	}
	q.done(other)
	if !q.addAfter(other, time.Hour) {
		t.Error("a pause that ended begins no other")
	}
}
