package metadata

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// service counts tokens and accepts only the newest one.
type service struct{ tokens int }

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	current := strings.Repeat("t", s.tokens)
	switch {
	case r.Method == http.MethodPut && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "21600":
		s.tokens++
		io.WriteString(w, current+"t")
	case s.tokens == 0 || r.Header.Get("X-aws-ec2-metadata-token") != current:
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/latest/meta-data/instance-id":
		io.WriteString(w, "i-1")
	case r.URL.Path == "/latest/long":
		io.WriteString(w, strings.Repeat("x", maxBody+1))
	case r.URL.Path == "/latest/broken":
		w.WriteHeader(http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestClient(t *testing.T) {
	s := &service{}
	server := httptest.NewServer(s)
	defer server.Close()
	c := NewClient(server.URL + "/")
	ctx := context.Background()
	for range 2 {
		if id, err := c.Text(ctx, "meta-data/instance-id"); err != nil || id != "i-1" {
			t.Fatalf("got %q, %v", id, err)
		}
	}
	if s.tokens != 1 {
		t.Errorf("%d tokens for two requests", s.tokens)
	}
	s.tokens++ // the service forgot ours, as after a restart
	if _, err := c.Text(ctx, "meta-data/instance-id"); err != nil || s.tokens != 3 {
		t.Errorf("a refused token: %v, %d tokens", err, s.tokens)
	}
	if _, err := c.Text(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("missing item: %v", err)
	}
	var status *StatusError
	if _, err := c.Text(ctx, "broken"); !errors.As(err, &status) || status.Status != 500 {
		t.Errorf("broken item: %v", err)
	}
	if _, err := c.Text(ctx, "long"); err == nil {
		t.Error("an endless body is taken")
	}
	if status, body, err := c.Get(ctx, "/meta-data/instance-id"); err != nil || status != 200 || string(body) != "i-1" {
		t.Errorf("path without version: %d %q %v", status, body, err)
	}
}

func TestParseUserData(t *testing.T) {
	for text, want := range map[string]UserData{
		"":                              {},
		"#cloud-config\nx: 1\n":         {},
		"#!/bin/sh\necho\n":             {Script: "#!/bin/sh\necho\n"},
		"#!/bin/sh\r\necho\r\n":         {Script: "#!/bin/sh\necho\n"},
		"# nimbrel: echo=off\n":         {EchoOff: true},
		"#!/bin/sh\n#nimbrel: echo=off": {Script: "#!/bin/sh\n#nimbrel: echo=off", EchoOff: true},
		"echo '# nimbrel: echo=off'":    {},
		" #!/bin/sh\n":                  {},
	} {
		if got := ParseUserData(text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParseUserData(f *testing.F) {
	f.Add("#!/bin/sh\r\n# nimbrel: echo=off")
	f.Fuzz(func(t *testing.T, text string) {
		if u := ParseUserData(text); u.Script != "" && !strings.HasPrefix(u.Script, "#!") {
			t.Errorf("%q makes the script %q", text, u.Script)
		}
	})
}
