package obs

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestHandler(t *testing.T) {
	failure := errors.New("store is opening")
	h := Handler(NewRegistry(), func() error { return failure })
	if code, text := get(t, h, "/readyz"); code != 503 || !strings.Contains(text, "store is opening") {
		t.Errorf("not ready: %d %q", code, text)
	}
	failure = nil
	for path, want := range map[string]string{"/readyz": "ok", "/healthz": "ok", "/metrics": "go_goroutines", "/debug/pprof/": "goroutine"} {
		if code, text := get(t, h, path); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, Handler(NewRegistry(), func() error { return nil })) }()
	response, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	if _, err := NewLogger(io.Discard, "loud"); err == nil || !strings.Contains(err.Error(), "want debug") {
		t.Errorf("bad level: %v", err)
	}
	var text strings.Builder
	log, err := NewLogger(&text, "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", KeyHost, "h-1")
	if strings.Contains(text.String(), "quiet") || !strings.Contains(text.String(), `"host":"h-1"`) {
		t.Errorf("log %q", text.String())
	}
}
