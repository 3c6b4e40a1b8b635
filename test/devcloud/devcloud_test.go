package devcloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const limit = time.Minute // end of patience, not an expectation

func TestUntil(t *testing.T) {
	asked := 0
	err := Until(t.Context(), time.Millisecond, limit, "asked thrice", func() (bool, error) {
		asked++
		return asked == 3, errors.New("not yet")
	})
	if err != nil || asked != 3 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	gone := errors.New("gone")
	err = Until(t.Context(), time.Millisecond, limit, "it is back", func() (bool, error) { return false, fmt.Errorf("look: %w", Final(gone)) })
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "it is back") {
		t.Errorf("a final error ends the wait with %v", err)
	}
	err = Until(t.Context(), time.Millisecond, 10*time.Millisecond, "ever", func() (bool, error) { return false, gone })
	if !errors.Is(err, gone) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the end of patience is %v, want the last reason with it", err)
	}
}

func TestOutput(t *testing.T) {
	out, err := Output(t.Context(), t.TempDir(), []string{"WORD=said"}, "sh", "-c", `echo "$WORD"`)
	if err != nil || string(out) != "said\n" {
		t.Errorf("output %q, %v", out, err)
	}
	_, err = Output(t.Context(), "", nil, "sh", "-c", "echo no host >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.HasSuffix(err.Error(), "no host") {
		t.Errorf("a failed command's error is %v", err)
	}
}

// TestOutputEndsTheGroup: the end of ctx reaches a command's children too.
func TestOutputEndsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	path := filepath.Join(t.TempDir(), "started")
	ended := make(chan error, 1)
	go func() {
		_, err := Output(ctx, "", nil, "sh", "-c", `sleep 600 & echo > "$0"; wait`, path)
		ended <- err
	}()
	err := Until(t.Context(), time.Millisecond, limit, "the command runs", func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	cancel()
	select {
	case err := <-ended: // the child holds the pipes: without its end this takes endGrace
		if err == nil || time.Since(begin) >= endGrace {
			t.Errorf("ended after %v with %v", time.Since(begin), err)
		}
	case <-time.After(limit):
		t.Error("the command did not end")
	}
}

func TestCall(t *testing.T) {
	var form url.Values
	answers := map[string]string{
		"DescribeInstances": `<r><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState><name>running</name></instanceState></item></instancesSet></item></reservationSet></r>`,
		"StopInstances":     `<Response><Errors><Error><Code>IncorrectInstanceState</Code><Message>not so</Message></Error></Errors></Response>`,
		"StartInstances":    `<html>proxy</html>`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, _ = url.ParseQuery(string(body))
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AK/") {
			w.WriteHeader(http.StatusForbidden)
		} else if form.Get("Action") != "DescribeInstances" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, answers[form.Get("Action")])
	}))
	defer server.Close()
	api := NewAPI(server.URL, "us-nimbrel-1", "AK", "secret", limit)
	var out Described
	took, err := api.Call(t.Context(), &out, "DescribeInstances", "InstanceId.1", "i-1")
	if err != nil || took <= 0 || len(out.Instances) != 1 || out.Instances[0].State != "running" || form.Get("InstanceId.1") != "i-1" {
		t.Errorf("describe: %+v after %v, %v; the server read %v", out, took, err, form)
	}
	if _, err := api.Call(t.Context(), &out, "StopInstances"); Code(err) != "IncorrectInstanceState" {
		t.Errorf("a refusal is %v", err)
	}
	if _, err := api.Call(t.Context(), &out, "StartInstances"); err == nil || Code(err) != "" {
		t.Errorf("an answer that is none of EC2's is %v, code %q", err, Code(err))
	}
	if err := api.Await(t.Context(), "i-1", "running", time.Millisecond, limit); err != nil {
		t.Error(err)
	}
}

func TestGuestProcess(t *testing.T) {
	c := &Cloud{State: t.TempDir()}
	folder := filepath.Join(c.State, "hosts", "host-1", "guests", "i-1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if all := c.GuestFolders(); len(all) != 1 || all[0] != folder {
		t.Errorf("guests' folders %v", all)
	}
	if pid, err := GuestProcess(folder); pid != 0 || err != nil {
		t.Errorf("without a record: %d, %v", pid, err)
	}
	for text, want := range map[string]int{`{"pid":7}`: 7, `{`: 0} {
		if err := os.WriteFile(filepath.Join(folder, "process.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid, err := GuestProcess(folder); pid != want || (err == nil) != (want != 0) {
			t.Errorf("record %s: %d, %v", text, pid, err)
		}
	}
}
