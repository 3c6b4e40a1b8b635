package query

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
)

// TestUnfinishedBodyEnds holds that a client that never finishes its body, signed or not, does not keep its connection.
func TestUnfinishedBodyEnds(t *testing.T) {
	f := newFixture(t)
	f.handler.options.BodyPatience = 50 * time.Millisecond
	server := httptest.NewServer(f.handler)
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nAction="); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c) // ends when the server closes the connection
	if err != nil || !strings.Contains(string(got), errs.RequestTimeout) {
		t.Fatalf("read %q, %v; want %s and the end of the connection", got, err, errs.RequestTimeout)
	}
}

// TestActionOutlivesBodyPatience holds that the bound on the body's arrival does not end the action that follows.
func TestActionOutlivesBodyPatience(t *testing.T) {
	f := newFixture(t)
	const patience = 100 * time.Millisecond
	f.handler.options.BodyPatience = patience
	f.handler.options.Admit = func(ctx context.Context, _ Call, _ bool) (func(), error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * patience):
			return nil, nil
		}
	}
	server := httptest.NewServer(f.handler)
	defer server.Close()
	const form = "Action=DescribeRegions&Version=2016-11-15"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sign(t, r, "ec2", form)
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		t.Fatalf("status %d: %s", answer.StatusCode, text)
	}
}

// TestNoBodyNoDeadline holds that a request without a body leaves no deadline behind that ends the action.
func TestNoBodyNoDeadline(t *testing.T) {
	f := newFixture(t)
	const patience = 50 * time.Millisecond
	f.handler.options.BodyPatience = patience
	var cause error
	f.handler.options.Admit = func(ctx context.Context, _ Call, _ bool) (func(), error) {
		select {
		case <-ctx.Done(): // what the server's own read of the connection makes of a deadline
			cause = context.Cause(ctx)
		case <-time.After(4 * patience):
		}
		return nil, nil
	}
	server := httptest.NewServer(f.handler)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/?Action=DescribeRegions&Version=2016-11-15", nil)
	if err != nil {
		t.Fatal(err)
	}
	sign(t, r, "ec2", "")
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || cause != nil {
		t.Errorf("status %d, the action was ended by %v", answer.StatusCode, cause)
	}
}

// TestBodiesAreBounded holds that strangers' bodies have a bound together, that it is given back, and that small bodies and
// known clients need none of it.
func TestBodiesAreBounded(t *testing.T) {
	const large = MaxBodyBytes / 2
	rooms := &bodyRoom{max: 2 << 20}
	ask := func() (*body, error) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("a", large)))
		b := rooms.begin(r)
		return b, b.read(httptest.NewRecorder(), r, time.Minute)
	}
	var kept []*body
	for {
		b, err := ask()
		if err != nil {
			b.end()
			if retry := (*RetryError)(nil); !errors.As(err, &retry) || retry.Err.Status != http.StatusServiceUnavailable {
				t.Fatalf("refused with %v", err)
			}
			break
		}
		if string(b.bytes) != strings.Repeat("a", large) {
			t.Fatal("another body")
		}
		kept = append(kept, b)
	}
	if len(kept) < 2 || len(kept) > 4 {
		t.Errorf("%d bodies of half a MiB fit in 2 MiB", len(kept))
	}
	small := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("a", freeBodyBytes-1)))
	b := rooms.begin(small)
	if err := b.read(httptest.NewRecorder(), small, time.Minute); err != nil || b.taken != 0 {
		t.Errorf("a small body: %v, it takes %d", err, b.taken)
	}
	for _, b := range kept {
		b.end()
	}
	if rooms.strangers.Load() != 0 || rooms.known.Load() != 0 {
		t.Errorf("%d bytes are still taken", rooms.strangers.Load())
	}
}

// TestRefusedBodyGivesBack holds that a handler keeps no room after its answers, whatever they are.
func TestRefusedBodyGivesBack(t *testing.T) {
	f := newFixture(t)
	for _, form := range []string{strings.Repeat("a", MaxBodyBytes), strings.Repeat("a", MaxBodyBytes+1), "Action=DescribeRegions&Version=2016-11-15&RegionName.1=" + strings.Repeat("a", 1<<17)} {
		f.post(t, "ec2", form)
	}
	if n := f.handler.bodies.strangers.Load() + f.handler.bodies.known.Load(); n != 0 {
		t.Errorf("%d bytes are still taken", n)
	}
}

// TestTooManyParameters holds that the bound is named, and that a form's own X-Amz- parameter is not passed over in silence.
func TestTooManyParameters(t *testing.T) {
	f := newFixture(t)
	form := url.Values{"Action": {"DescribeRegions"}, "Version": {"2016-11-15"}}
	for i := range 10_001 {
		form.Set("RegionName."+strconv.Itoa(i+1), "a")
	}
	if text := f.post(t, "ec2", form.Encode()).Body.String(); !strings.Contains(text, "at most 10000 are allowed") {
		t.Errorf("got %s", text)
	}
	if text := f.post(t, "ec2", "Action=DescribeRegions&Version=2016-11-15&X-Amz-Foo=1").Body.String(); !strings.Contains(text, errs.UnknownParameter) {
		t.Errorf("got %s", text)
	}
}
