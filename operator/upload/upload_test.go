package upload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

// record is a Service that keeps what it is asked and answers what it is told to.
type record struct {
	asked []string
	begun Begun
	err   error
}

func (r *record) Begin(_ context.Context, bytes uint64, sums []byte) (Begun, error) {
	r.asked = append(r.asked, fmt.Sprintf("begin %d %q", bytes, sums))
	return r.begun, r.err
}

func (r *record) Put(_ context.Context, id string, index uint32, data []byte) error {
	r.asked = append(r.asked, fmt.Sprintf("put %s %d %q", id, index, data))
	return r.err
}

func (r *record) Finish(_ context.Context, id string, f Finish, progress func(done, total uint64)) (Result, error) {
	r.asked = append(r.asked, fmt.Sprintf("finish %s %s %s %v", id, f.Name, f.Account, f.Public))
	progress(1, 3)
	return Result{ImageID: "ami-1", SizeBytes: 3}, r.err
}

func pair(t *testing.T, r *record) *Client {
	t.Helper()
	server := httptest.NewServer(Handler(r))
	t.Cleanup(server.Close)
	return &Client{HTTP: server.Client(), URL: server.URL}
}

func TestBothEnds(t *testing.T) {
	r := &record{begun: Begun{ID: "u1", Missing: []uint32{0, 7}}}
	c := pair(t, r)
	begun, err := c.Begin(t.Context(), 5, []byte{0, 0xff})
	if err != nil || !reflect.DeepEqual(begun, r.begun) {
		t.Errorf("begin: %+v, %v", begun, err)
	}
	if err := c.Put(t.Context(), "u1", 7, []byte("data")); err != nil {
		t.Error(err)
	}
	steps := 0
	result, err := c.Finish(t.Context(), "u1", Finish{Name: "n", Account: "a", Public: true}, func(done, total uint64) { steps += int(10*done + total) })
	if err != nil || result.ImageID != "ami-1" || result.SizeBytes != 3 || steps != 13 {
		t.Errorf("finish: %+v, %v, progress %d", result, err, steps)
	}
	want := []string{`begin 5 "\x00\xff"`, `put u1 7 "data"`, "finish u1 n a true"}
	if !reflect.DeepEqual(r.asked, want) {
		t.Errorf("asked %q", r.asked)
	}
}

// TestErrors holds that the text of an error arrives, and that the one to act on is told apart.
func TestErrors(t *testing.T) {
	for _, failure := range []error{errors.New("the disk is too large"), fmt.Errorf("%w: restarted", ErrBeginAgain)} {
		c := pair(t, &record{err: failure})
		_, begin := c.Begin(t.Context(), 1, nil)
		put := c.Put(t.Context(), "u", 1, nil)
		_, finish := c.Finish(t.Context(), "u", Finish{}, func(uint64, uint64) {})
		for _, err := range []error{begin, put, finish} {
			if err == nil || !strings.Contains(err.Error(), failure.Error()) || errors.Is(err, ErrBeginAgain) != errors.Is(failure, ErrBeginAgain) {
				t.Errorf("%v became %v", failure, err)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	r := &record{}
	c := pair(t, r)
	for path, body := range map[string][]byte{
		"PUT chunk/u/x":   []byte("data"),
		"PUT chunk/u/-1":  nil,
		"PUT chunk/u/0":   make([]byte, ChunkBytes+1),
		"POST begin":      []byte("{"),
		"POST finish/u":   bytes.Repeat([]byte("x"), finishBytesMax+1),
		"GET chunk/u/0":   nil,
		"POST chunk":      nil,
		"PUT chunk/../u/": nil,
	} {
		method, path, _ := strings.Cut(path, " ")
		request, err := http.NewRequest(method, c.URL+Path+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode < 400 || answer.StatusCode >= 500 {
			t.Errorf("%s %s: %s", method, path, answer.Status)
		}
	}
	if len(r.asked) != 0 {
		t.Errorf("asked %q", r.asked)
	}
}
