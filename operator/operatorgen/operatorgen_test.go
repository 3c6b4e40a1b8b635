package operatorgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/svc/awsjson"
)

type server struct {
	Unsupported
	hosts *ListHostsOutput
	in    *ListHostsInput
}

func (s *server) ListHosts(_ context.Context, in *ListHostsInput) (*ListHostsOutput, error) {
	s.in = in
	return s.hosts, nil
}

func (s *server) SetQuota(_ context.Context, in *SetQuotaInput) (*SetQuotaOutput, error) {
	return &SetQuotaOutput{Left: in.Value}, nil
}

func (s *server) StoreGet(_ context.Context, in *StoreGetInput) (*StoreGetOutput, error) {
	switch in.Key {
	case "panic":
		panic("secret detail")
	case "fail":
		return nil, errors.New("secret detail")
	case "gone":
		e := NewNotFound("no row %q", in.Key)
		e.OperationID = "op-1"
		return nil, e
	}
	return &StoreGetOutput{Row: &Row{Key: in.Key, Kind: "bytes", Value: json.RawMessage(`{"a":[1,null]}`)}, ReadVersion: 7}, nil
}

// serve runs the API on a unix socket, as the product does.
func serve(t *testing.T, api API, log io.Writer) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(NewHandler(api, awsjson.Options{Log: slog.New(slog.NewTextHandler(log, nil))}))
	s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return NewClient(awsjson.UnixClient(path), "http://localhost")
}

func TestRoundTrip(t *testing.T) {
	host := Host{HostId: "h-1", Zone: "z", State: HostStateUp, Driver: DriverFake, LastSeenAtMs: new(int64(5)), Vcpus: 4, MemoryMib: 1 << 40}
	api := &server{hosts: &ListHostsOutput{Hosts: []Host{host}, NextToken: "t"}}
	client := serve(t, api, io.Discard)
	out, err := client.ListHosts(t.Context(), &ListHostsInput{MaxResults: new(int32(10))})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(out, api.hosts) || *api.in.MaxResults != 10 {
		t.Errorf("got %+v for %+v, want %+v", out, api.in, api.hosts)
	}
	if quota, err := client.SetQuota(t.Context(), &SetQuotaInput{AccountId: "123456789012", Name: "vcpus", Value: 0}); err != nil || quota.Left != 0 {
		t.Errorf("a required number may be zero: got %v, %v", quota, err)
	}
	row, err := client.StoreGet(t.Context(), &StoreGetInput{Key: "k"})
	if err != nil || string(row.Row.Value) != `{"a":[1,null]}` {
		t.Errorf("got %+v, %v", row, err)
	}
	api.hosts = &ListHostsOutput{}
	if out, err = client.ListHosts(t.Context(), &ListHostsInput{}); err != nil || out.Hosts == nil {
		t.Errorf("a required list is never null: got %+v, %v", out, err)
	}
}

func TestErrors(t *testing.T) {
	var log bytes.Buffer
	api := &server{hosts: &ListHostsOutput{Hosts: []Host{{State: "asleep"}}}}
	client := serve(t, api, &log)
	ctx := t.Context()
	call := func(key string) error { _, err := client.StoreGet(ctx, &StoreGetInput{Key: key}); return err }
	_, unsupported := client.RunCheck(ctx, &RunCheckInput{})
	_, long := client.ListHosts(ctx, &ListHostsInput{MaxResults: new(int32(1001))})
	_, broken := client.ListHosts(ctx, &ListHostsInput{})
	for _, c := range []struct {
		name  string
		err   error
		code  string
		retry awsjson.RetryClass
	}{
		{"typed", call("gone"), CodeNotFound, awsjson.Never},
		{"untyped", call("fail"), CodeInternal, awsjson.Later},
		{"panic", call("panic"), CodeInternal, awsjson.Later},
		{"empty key", call(""), CodeInvalidInput, awsjson.Never},
		{"not offered", unsupported, CodeUnknownOperation, awsjson.Never},
		{"out of range", long, CodeInvalidInput, awsjson.Never},
		{"answer breaks the model", broken, CodeInternal, awsjson.Later},
	} {
		e := new(awsjson.Error)
		if !errors.As(c.err, &e) || e.Code != c.code || e.Retry != c.retry || strings.Contains(e.Message, "secret") {
			t.Errorf("%s: got %+v, want %s", c.name, c.err, c.code)
		}
	}
	if e := new(awsjson.Error); !errors.As(call("gone"), &e) || e.OperationID != "op-1" {
		t.Errorf("the operation id must cross the wire: %+v", e)
	}
	if got := strings.Count(log.String(), "secret detail"); got < 2 {
		t.Errorf("the log must hold what the client does not see: %s", log.String())
	}
}

func TestStrictRequests(t *testing.T) {
	handler := NewHandler(&server{hosts: &ListHostsOutput{}}, awsjson.Options{})
	for _, c := range []struct{ target, contentType, body, code string }{
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", `{"maxResults":5}`, ""},
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", ``, ""},
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", `{"colour":5}`, CodeInvalidInput},
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", `{"maxResults":"5"}`, CodeInvalidInput},
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", `{} {}`, CodeInvalidInput},
		{"NimbrelOperator.ListHosts", "application/x-amz-json-1.1", `[]`, CodeInvalidInput},
		{"NimbrelOperator.SetQuota", "application/x-amz-json-1.1", `{"accountId":"123456789012","name":"n"}`, CodeInvalidInput},
		{"NimbrelOperator.SetQuota", "application/x-amz-json-1.1", `{"accountId":"123456789012","name":"n","value":null}`, CodeInvalidInput},
		{"NimbrelOperator.ListHosts", "application/x-www-form-urlencoded", `{}`, CodeInvalidInput},
		{"NimbrelOperator.Nothing", "application/x-amz-json-1.1", `{}`, CodeUnknownOperation},
		{"Other.ListHosts", "application/x-amz-json-1.1", `{}`, CodeUnknownOperation},
		{"", "application/x-amz-json-1.1", `{}`, CodeUnknownOperation},
		{"NimbrelOperator.StoreGet", "application/json", `{"key":"` + strings.Repeat("k", awsjson.MaxBodyBytes) + `"}`, CodeTooLarge},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
		r.Header.Set("X-Amz-Target", c.target)
		r.Header.Set("Content-Type", c.contentType)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var e awsjson.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code != c.code || (w.Code == 200) != (c.code == "") {
			t.Errorf("%s %.40s: got %d %s, want code %q", c.target, c.body, w.Code, w.Body, c.code)
		}
	}
}

// FuzzServe sends arbitrary bodies to every operation: none may panic or answer an internal error for its input.
func FuzzServe(f *testing.F) {
	f.Add("SetQuota", `{"accountId":"123456789012","name":"n","value":1}`)
	f.Add("ListInstances", `{"state":"running","maxResults":1e9}`)
	f.Add("ImportImage", `{"path":"/a","name":"b","architecture":null}`)
	f.Fuzz(func(t *testing.T, name, body string) {
		operation, ok := Operations[name]
		if !ok {
			return
		}
		_, err := operation.Serve(t.Context(), Unsupported{}, []byte(body))
		if code := awsjson.CodeOf(err); code != CodeInvalidInput && code != CodeUnknownOperation {
			t.Errorf("%s %s: got %v", name, body, err)
		}
	})
}
