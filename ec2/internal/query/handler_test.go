package query

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/auth"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
	"github.com/nimbrel/nimbrel/internal/env"
)

type oneKey struct{}

func (oneKey) Lookup(_ context.Context, id string) (auth.Credential, error) {
	if id != "AK" {
		return auth.Credential{}, auth.ErrNoKey
	}
	return auth.Credential{Account: "123456789012", Secret: "secret"}, nil
}

// api behaves as its input asks.
type api struct {
	ec2gen.Unsupported
	changes int
}

func (a *api) DescribeRegions(ctx context.Context, in *ec2gen.DescribeRegionsInput) (*ec2gen.DescribeRegionsOutput, error) {
	return &ec2gen.DescribeRegionsOutput{Regions: []ec2gen.Region{{RegionName: new("us-nimbrel-1"), Endpoint: new(string(CallFrom(ctx).Account))}}}, nil
}

func (a *api) CreateVpc(ctx context.Context, in *ec2gen.CreateVpcInput) (*ec2gen.CreateVpcOutput, error) {
	switch *in.CidrBlock {
	case "panic":
		panic("inner detail")
	case "fail":
		return nil, errors.New("inner detail")
	case "nil":
		return nil, nil
	}
	if CallFrom(ctx).DryRun {
		return nil, errs.DryRun
	}
	a.changes++
	return &ec2gen.CreateVpcOutput{Vpc: &ec2gen.Vpc{CidrBlock: in.CidrBlock}}, nil
}

// DeleteVpc forgets to look at DryRun.
func (a *api) DeleteVpc(context.Context, *ec2gen.DeleteVpcInput) (*ec2gen.DeleteVpcOutput, error) {
	return &ec2gen.DeleteVpcOutput{}, nil
}

type fixture struct {
	handler *Handler
	api     *api
	log     bytes.Buffer
	records []Record
	admit   func(Call, bool) error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{api: new(api)}
	verifier, err := auth.New(auth.Options{Keys: oneKey{}, Clock: env.Real{}, Region: "us-nimbrel-1", Services: map[string]auth.Placement{"ec2": auth.Regional, "sts": auth.Global}})
	if err != nil {
		t.Fatal(err)
	}
	f.handler, err = New(Options{
		API: f.api, Auth: verifier, Env: env.System(), Log: slog.New(slog.NewTextHandler(&f.log, nil)),
		Admit: func(_ context.Context, call Call, readOnly bool) (func(), error) {
			if f.admit == nil {
				return nil, nil
			}
			return func() {}, f.admit(call, readOnly)
		},
		Done: func(r Record) { f.records = append(f.records, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// post signs a form for a service and sends it.
func (f *fixture) post(t *testing.T, service, form string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8773/", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sign(t, r, service, form)
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	return w
}

func sign(t *testing.T, r *http.Request, service, body string) {
	t.Helper()
	s := sigv4.Signer{AccessKeyID: "AK", Secret: "secret", Region: "us-nimbrel-1", Service: service}
	if err := s.Sign(r, []byte(body), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// ec2Answer reads either envelope of EC2.
type ec2Answer struct {
	XMLName   xml.Name
	Code      string `xml:"Errors>Error>Code"`
	Message   string `xml:"Errors>Error>Message"`
	RequestID string `xml:"RequestID"`
}

const v = "&Version=2016-11-15"

func TestErrorsAndStatus(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		form   string
		status int
		code   string
	}{
		{"Action=DescribeRegions" + v, 200, ""},
		{"Action=DescribeRegions&Version=2014-06-15", 200, ""},
		{"Action=DescribeRegions&Version=2017-01-01", 400, errs.NoSuchVersion},
		{"Action=DescribeRegions&Version=latest", 400, errs.NoSuchVersion},
		{"Action=DescribeRegions", 400, errs.MissingParameter},
		{"Version=2016-11-15", 400, errs.MissingAction},
		{"Action=DescribeRegions&Action=DescribeVpcs" + v, 400, errs.InvalidParameterValue},
		{"Action=DescribeRegionz" + v, 400, errs.InvalidAction},
		{"Action=GetCallerIdentity" + v, 400, errs.InvalidAction},
		{"Action=CreateTransitGateway" + v, 400, errs.UnsupportedOperation},
		{"Action=DescribeVpcs" + v, 400, errs.UnsupportedOperation},
		{"Action=DescribeRegions&Colour=x" + v, 400, errs.UnknownParameter},
		{"Action=CreateVpc&CidrBlock=panic" + v, 500, errs.InternalError},
		{"Action=CreateVpc&CidrBlock=fail" + v, 500, errs.InternalError},
		{"Action=CreateVpc&CidrBlock=nil" + v, 500, errs.InternalError},
		{"Action=CreateVpc&CidrBlock=a&DryRun=true" + v, 412, errs.DryRunOperation},
		{"Action=CreateVpc&CidrBlock=a&DryRun=yes" + v, 400, errs.InvalidParameterValue},
		{"Action=DeleteVpc&DryRun=true" + v, 400, errs.MissingParameter},
		{"Action=DescribeRegions&DryRun=true" + v, 412, errs.DryRunOperation},
		{"Action=DeleteVpc&VpcId=vpc-1&DryRun=true" + v, 500, errs.InternalError},
		{"Action=%zz", 404, errs.MalformedQueryString},
		{strings.Repeat("x", MaxBodyBytes+1), 413, errs.RequestEntityTooLarge},
	} {
		w := f.post(t, "ec2", c.form)
		var answer ec2Answer
		if err := xml.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%.60s: %v in %s", c.form, err, w.Body)
		}
		if w.Code != c.status || answer.Code != c.code || strings.Contains(w.Body.String(), "inner detail") {
			t.Errorf("%.60s: got %d %s", c.form, w.Code, w.Body)
		}
		if c.code != "" && (answer.XMLName.Local != "Response" || answer.RequestID != w.Header().Get("X-Amzn-Requestid")) {
			t.Errorf("%.60s: envelope %s", c.form, w.Body)
		}
	}
	if f.api.changes != 0 {
		t.Errorf("%d dry runs had an effect", f.api.changes)
	}
	if got := strings.Count(f.log.String(), "inner detail"); got < 2 {
		t.Errorf("the log must have what the client has not: %s", f.log.String())
	}
	if !strings.Contains(f.log.String(), "ignored DryRun") {
		t.Errorf("a handler that ignores DryRun must be reported: %s", f.log.String())
	}
}

func TestAnswer(t *testing.T) {
	f := newFixture(t)
	w := f.post(t, "ec2", "Action=DescribeRegions"+v)
	id := w.Header().Get("X-Amzn-Requestid")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("request id %q is not a UUID", id)
	}
	for _, part := range []string{"<requestId>" + id + "</requestId>", "<regionEndpoint>123456789012</regionEndpoint>"} {
		if !strings.Contains(w.Body.String(), part) {
			t.Errorf("the answer lacks %s: %s", part, w.Body)
		}
	}
	r := f.records[0]
	if r.Call.RequestID != id || r.Call.Account != "123456789012" || r.Call.Action != "DescribeRegions" || r.Code != "" || r.Status != 200 || r.Service != "ec2" {
		t.Errorf("record %+v", r)
	}
}

func TestGetAndPresigned(t *testing.T) {
	f := newFixture(t)
	signed := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8773/?Action=DescribeRegions"+v, nil)
	sign(t, signed, "ec2", "")
	presigned := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8773/?Action=DescribeRegions"+v, nil)
	s := sigv4.Signer{AccessKeyID: "AK", Secret: "secret", Region: "us-nimbrel-1", Service: "ec2"}
	if err := s.Presign(presigned, time.Now(), time.Minute); err != nil {
		t.Fatal(err)
	}
	split := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8773/?Action=DescribeRegions", strings.NewReader("Version=2016-11-15"))
	split.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sign(t, split, "ec2", "Version=2016-11-15")
	for name, r := range map[string]*http.Request{"signed": signed, "presigned": presigned, "query and form": split} {
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
	for name, r := range map[string]*http.Request{
		"path":   httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8773/latest?Action=DescribeRegions"+v, nil),
		"method": httptest.NewRequest(http.MethodPut, "http://127.0.0.1:8773/?Action=DescribeRegions"+v, nil),
	} {
		sign(t, r, "ec2", "")
		w := httptest.NewRecorder()
		if f.handler.ServeHTTP(w, r); w.Code != 400 {
			t.Errorf("wrong %s: got %d %s", name, w.Code, w.Body)
		}
	}
	plain := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8773/", strings.NewReader("Action=DescribeRegions"+v))
	sign(t, plain, "ec2", "Action=DescribeRegions"+v)
	w := httptest.NewRecorder()
	if f.handler.ServeHTTP(w, plain); w.Code != 404 || !strings.Contains(w.Body.String(), errs.MalformedQueryString) {
		t.Errorf("a body without its type: got %d %s", w.Code, w.Body)
	}
}

func TestUnsignedRunsNothing(t *testing.T) {
	f := newFixture(t)
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("Action=CreateVpc&CidrBlock=a"+v))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	if w.Code != 403 || !strings.Contains(w.Body.String(), errs.MissingAuthenticationToken) || f.api.changes != 0 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if f.records[0].Call.Account != "" || f.records[0].Code != errs.MissingAuthenticationToken {
		t.Errorf("record %+v", f.records[0])
	}
}

func TestAdmit(t *testing.T) {
	f := newFixture(t)
	f.admit = func(call Call, readOnly bool) error {
		if !readOnly {
			return errs.Throttled
		}
		return nil
	}
	if w := f.post(t, "ec2", "Action=DescribeRegions"+v); w.Code != 200 {
		t.Errorf("reading: got %d", w.Code)
	}
	if w := f.post(t, "ec2", "Action=CreateVpc&CidrBlock=a"+v); w.Code != 503 || !strings.Contains(w.Body.String(), errs.RequestLimitExceeded) || f.api.changes != 0 {
		t.Errorf("writing: got %d %s", w.Code, w.Body)
	}
}

func TestSTS(t *testing.T) {
	f := newFixture(t)
	w := f.post(t, "sts", "Action=GetCallerIdentity&Version=2011-06-15")
	var answer struct {
		RequestID string `xml:"ResponseMetadata>RequestId"`
		Result    struct {
			Arn     string
			UserID  string `xml:"UserId"`
			Account string
		} `xml:"GetCallerIdentityResult"`
	}
	if err := xml.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
		t.Fatalf("%v in %d %s", err, w.Code, w.Body)
	}
	if answer.Result.Account != "123456789012" || answer.Result.UserID != "123456789012" || answer.Result.Arn != "arn:aws:iam::123456789012:root" || answer.RequestID == "" {
		t.Errorf("got %+v", answer)
	}
	for form, code := range map[string]string{
		"Action=AssumeRole&Version=2011-06-15":            errs.InvalidAction,
		"Action=GetCallerIdentity&Version=2016-11-15":     errs.NoSuchVersion,
		"Action=GetCallerIdentity&Version=2011-06-15&A=b": errs.UnknownParameter,
		"Action=DescribeRegions" + v:                      errs.InvalidAction,
	} {
		w := f.post(t, "sts", form)
		var answer struct {
			XMLName xml.Name
			Type    string `xml:"Error>Type"`
			Code    string `xml:"Error>Code"`
		}
		if err := xml.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.XMLName.Local != "ErrorResponse" || answer.Code != code || answer.Type != "Sender" {
			t.Errorf("%s: %v in %s", form, err, w.Body)
		}
	}
}

func TestCallFromNeedsCall(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an action without a caller must panic")
		}
	}()
	CallFrom(t.Context())
}

// anyone lets the fuzzer past the signature.
type anyone struct{}

func (anyone) Verify(context.Context, *http.Request, []byte) (auth.Identity, error) {
	return auth.Identity{Account: "123456789012", Service: "ec2"}, nil
}

// FuzzHandler sends arbitrary requests: each gets XML, and never an internal error for what the client wrote.
func FuzzHandler(f *testing.F) {
	handler, err := New(Options{API: ec2gen.Unsupported{}, Auth: anyone{}, Env: env.System(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("POST", "Action=DescribeInstances", "Version=2016-11-15&Filter.1.Name=x", "application/x-www-form-urlencoded")
	f.Add("GET", "Action=%00&Version=2016-11-15", "", "")
	f.Add("POST", "", "a=\xff&=&&;", "text/plain; charset==")
	f.Fuzz(func(t *testing.T, method, query, body, contentType string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var answer ec2Answer
		if err := xml.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Code == "" || w.Code >= 500 {
			t.Errorf("got %d %s: %v", w.Code, w.Body, err)
		}
	})
}
