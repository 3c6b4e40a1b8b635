package query

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
