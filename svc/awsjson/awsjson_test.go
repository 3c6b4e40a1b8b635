package awsjson

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// number is the structure of a service with one operation that gives its input back.
type number struct {
	N int64 `json:"n"`
}

func (v *number) Conform() error {
	var c Check
	c.Range("n", v.N, 0, 10)
	return c.Err()
}

type echo struct{}

var operations = map[string]Operation[echo]{
	"Echo": {ReadOnly: true, Serve: func(_ context.Context, _ echo, body []byte) ([]byte, error) {
		in := new(number)
		if err := Decode(body, in, "n"); err != nil {
			return nil, err
		}
		return Encode(in)
	}},
}

func TestCall(t *testing.T) {
	var done []string
	server := httptest.NewServer(NewHandler("S", echo{}, operations, Options{Done: func(name string, status int, _ time.Duration) {
		done = append(done, name+" "+http.StatusText(status))
	}}))
	defer server.Close()
	client := NewClient("S", server.Client(), server.URL+"/")
	var out number
	if err := client.Call(t.Context(), "Echo", &number{N: 7}, &out); err != nil || out.N != 7 {
		t.Errorf("got %+v, %v", out, err)
	}
	if err := client.Call(t.Context(), "Echo", &number{N: 11}, &out); CodeOf(err) != CodeInvalidInput || !strings.Contains(err.Error(), "from 0 to 10") {
		t.Errorf("got %v", err)
	}
	if err := client.Call(t.Context(), "Other", &number{}, &out); CodeOf(err) != CodeUnknownOperation {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(done, ", "); got != "Echo OK, Echo Bad Request, Other Not Found" {
		t.Errorf("Done was told %s", got)
	}
	if names := Names(operations); len(names) != 1 || names[0] != "Echo" {
		t.Errorf("names are %v", names)
	}
}

// TestStrangeServer meets answers that no server of ours gives.
func TestStrangeServer(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{502, "<html>bad gateway</html>", "502 Bad Gateway without an error of the service"},
		{500, `{"message":"x"}`, "500 Internal Server Error without an error"},
		{200, `{"n":`, "decode answer of Echo"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		err := NewClient("S", server.Client(), server.URL).Call(t.Context(), "Echo", &number{}, new(number))
		if err == nil || !strings.Contains(err.Error(), c.want) || CodeOf(err) != "" {
			t.Errorf("%d %s: got %v", c.status, c.body, err)
		}
		server.Close()
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if err := NewClient("S", http.DefaultClient, gone.URL).Call(t.Context(), "Echo", &number{}, new(number)); err == nil || CodeOf(err) != "" {
		t.Errorf("a server that is gone: got %v", err)
	}
}

func TestHiddenErrors(t *testing.T) {
	var log bytes.Buffer
	table := map[string]Operation[echo]{"Fail": {Serve: func(context.Context, echo, []byte) ([]byte, error) { return nil, errors.New("inner detail") }}}
	handler := NewHandler("S", echo{}, table, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("X-Amz-Target", "S.Fail")
	r.Header.Set("Content-Type", "application/x-amz-json-1.1; charset=utf-8")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	id := w.Header().Get("X-Amzn-Requestid")
	if w.Code != 500 || strings.Contains(w.Body.String(), "inner detail") || id == "" || !strings.Contains(w.Body.String(), id) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "inner detail") || !strings.Contains(log.String(), "request="+id) {
		t.Errorf("the log has %s", log.String())
	}
}
