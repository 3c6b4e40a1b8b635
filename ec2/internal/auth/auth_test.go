package auth

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type fixed time.Time

func (f fixed) Now() time.Time { return time.Time(f) }

type keys map[string]Credential

func (k keys) Lookup(_ context.Context, id string) (Credential, error) {
	if id == "AKBROKEN" {
		return Credential{}, errors.New("store is away")
	}
	credential, ok := k[id]
	if !ok {
		return Credential{}, ErrNoKey
	}
	return credential, nil
}

var known = keys{"AKLONG": {Account: "123456789012", Secret: "s3cret"}, "AKTEMP": {Account: "123456789012", Secret: "temp", SessionToken: "token"}}

func verifier(t interface{ Fatal(...any) }) *Verifier {
	v, err := New(Options{Keys: known, Clock: fixed(now), Region: "us-nimbrel-1", Services: map[string]Placement{"ec2": Regional, "sts": Global}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signer() sigv4.Signer {
	return sigv4.Signer{AccessKeyID: "AKLONG", Secret: "s3cret", Region: "us-nimbrel-1", Service: "ec2"}
}

const form = "Action=DescribeInstances&Version=2016-11-15"

// received makes a request as the server sees it.
func received(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8773/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	return r
}

func code(err error) string {
	if e := (*errs.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestVerify(t *testing.T) {
	type change = func(*sigv4.Signer, *http.Request)
	signedAt := func(at time.Time) func(s sigv4.Signer, r *http.Request) error {
		return func(s sigv4.Signer, r *http.Request) error { return s.Sign(r, []byte(form), at) }
	}
	plain := signedAt(now)
	header := func(name, value string) change {
		return func(_ *sigv4.Signer, r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		name   string
		before change
		sign   func(sigv4.Signer, *http.Request) error
		after  change
		want   string // code; empty when accepted
	}{
		{"plain", nil, plain, nil, ""},
		{"14 minutes slow", nil, signedAt(now.Add(-14 * time.Minute)), nil, ""},
		{"14 minutes fast", nil, signedAt(now.Add(14 * time.Minute)), nil, ""},
		{"16 minutes slow", nil, signedAt(now.Add(-16 * time.Minute)), nil, errs.RequestExpired},
		{"16 minutes fast", nil, signedAt(now.Add(16 * time.Minute)), nil, errs.RequestExpired},
		{"unsigned", nil, func(sigv4.Signer, *http.Request) error { return nil }, nil, errs.MissingAuthenticationToken},
		{"unknown key", func(s *sigv4.Signer, _ *http.Request) { s.AccessKeyID = "AKNONE" }, plain, nil, errs.AuthFailure},
		{"unknown key at sts", func(s *sigv4.Signer, _ *http.Request) { s.AccessKeyID, s.Service = "AKNONE", "sts" }, plain, nil, errs.InvalidClientTokenId},
		{"wrong secret", func(s *sigv4.Signer, _ *http.Request) { s.Secret = "S3cret" }, plain, nil, errs.SignatureDoesNotMatch},
		{"temporary key", func(s *sigv4.Signer, _ *http.Request) {
			s.AccessKeyID, s.Secret, s.SessionToken = "AKTEMP", "temp", "token"
		}, plain, nil, ""},
		{"wrong token", func(s *sigv4.Signer, _ *http.Request) {
			s.AccessKeyID, s.Secret, s.SessionToken = "AKTEMP", "temp", "tokem"
		}, plain, nil, errs.AuthFailure},
		{"no token", func(s *sigv4.Signer, _ *http.Request) { s.AccessKeyID, s.Secret = "AKTEMP", "temp" }, plain, nil, errs.AuthFailure},
		{"token with a long-term key", func(s *sigv4.Signer, _ *http.Request) { s.SessionToken = "token" }, plain, nil, errs.AuthFailure},
		{"other region", func(s *sigv4.Signer, _ *http.Request) { s.Region = "us-east-1" }, plain, nil, errs.SignatureDoesNotMatch},
		{"global service in us-east-1", func(s *sigv4.Signer, _ *http.Request) { s.Region, s.Service = "us-east-1", "sts" }, plain, nil, ""},
		{"global service elsewhere", func(s *sigv4.Signer, _ *http.Request) { s.Region, s.Service = "eu-west-1", "sts" }, plain, nil, errs.SignatureDoesNotMatch},
		{"other service", func(s *sigv4.Signer, _ *http.Request) { s.Service = "s3" }, plain, nil, errs.SignatureDoesNotMatch},
		{"true body hash", header("X-Amz-Content-Sha256", sigv4.BodyHash([]byte(form))), plain, nil, ""},
		{"false body hash", header("X-Amz-Content-Sha256", sigv4.BodyHash([]byte("x"))), plain, nil, errs.SignatureDoesNotMatch},
		{"unsigned payload", header("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), plain, nil, errs.SignatureDoesNotMatch},
		{"added X-Amz header", nil, plain, header("X-Amz-Target", "x"), errs.SignatureDoesNotMatch},
		{"added other header", nil, plain, header("X-Forwarded-For", "x"), ""},
		{"removed header", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.Header.Del("Content-Type") }, errs.SignatureDoesNotMatch},
		{"spaces in a header", header("X-Amz-Note", "a  b"), plain, header("X-Amz-Note", " a b "), ""},
		{"other host", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.Host = "127.0.0.1" }, errs.SignatureDoesNotMatch},
		{"other method", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.Method = "PUT" }, errs.SignatureDoesNotMatch},
		{"other path", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.URL.Path = "/a" }, errs.SignatureDoesNotMatch},
		{"other query", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.URL.RawQuery = "DryRun=true" }, errs.SignatureDoesNotMatch},
		{"bad query", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.URL.RawQuery = "a=%zz" }, errs.MalformedQueryString},
		{"two signatures", nil, plain, func(_ *sigv4.Signer, r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=AWS4-HMAC-SHA256" }, errs.IncompleteSignature},
		{"date of another day", nil, plain, header("X-Amz-Date", "20260101T235959Z"), errs.SignatureDoesNotMatch},
		{"date garbled", nil, plain, header("X-Amz-Date", "2026-01-02"), errs.IncompleteSignature},
		{"basic auth", nil, plain, header("Authorization", "Basic abc"), errs.IncompleteSignature},
	} {
		s, r := signer(), received(form)
		if c.before != nil {
			c.before(&s, r)
		}
		if err := c.sign(s, r); err != nil {
			t.Fatal(err)
		}
		if c.after != nil {
			c.after(&s, r)
		}
		identity, err := verifier(t).Verify(t.Context(), r, []byte(form))
		if code(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: got %v, want code %q", c.name, err, c.want)
		}
		if err == nil && (identity.Account != "123456789012" || identity.Service != s.Service || identity.AccessKeyID != s.AccessKeyID) {
			t.Errorf("%s: identity is %+v", c.name, identity)
		}
	}
}

func TestVerifyNeedsHostAndDate(t *testing.T) {
	r := received(form)
	r.Header.Set("X-Amz-Date", now.Format(sigv4.TimeLayout))
	scope := sigv4.Scope{Date: "20260102", Region: "us-nimbrel-1", Service: "ec2"}
	names := []string{"content-type", "x-amz-date"}
	signature := sigv4.Derive("s3cret", scope).Signature(now, scope, sigv4.Canonical(r, nil, names, sigv4.BodyHash([]byte(form))))
	r.Header.Set("Authorization", sigv4.Algorithm+" Credential=AKLONG/"+scope.String()+",SignedHeaders="+strings.Join(names, ";")+",Signature="+signature)
	if _, err := verifier(t).Verify(t.Context(), r, []byte(form)); code(err) != errs.SignatureDoesNotMatch || !strings.Contains(err.Error(), "Host") {
		t.Errorf("host not signed: got %v", err)
	}
	r.Header.Del("X-Amz-Date")
	if _, err := verifier(t).Verify(t.Context(), r, []byte(form)); code(err) != errs.IncompleteSignature {
		t.Errorf("no date: got %v", err)
	}
}

func TestKeysFailureIsInternal(t *testing.T) {
	s, r := signer(), received(form)
	s.AccessKeyID = "AKBROKEN"
	if err := s.Sign(r, []byte(form), now); err != nil {
		t.Fatal(err)
	}
	if _, err := verifier(t).Verify(t.Context(), r, []byte(form)); err == nil || code(err) != "" {
		t.Errorf("got %v, want an internal error", err)
	}
}

func TestPresigned(t *testing.T) {
	for _, c := range []struct {
		name    string
		at      time.Time
		expires time.Duration
		change  func(*http.Request)
		want    string
	}{
		{"fresh", now, time.Minute, nil, ""},
		{"of yesterday", now.Add(-6 * time.Hour), 7 * time.Hour, nil, ""}, // its scope keeps the day it was signed
		{"an hour old", now.Add(-time.Hour), 2 * time.Hour, nil, ""},
		{"expired", now.Add(-time.Hour), 59 * time.Minute, nil, errs.RequestExpired},
		{"too early", now.Add(time.Hour), time.Minute, nil, errs.RequestExpired},
		{"beyond seven days", now, 8 * 24 * time.Hour, nil, errs.IncompleteSignature},
		{"no time", now, 0, nil, errs.IncompleteSignature},
		{"more parameters", now, time.Minute, func(r *http.Request) { r.URL.RawQuery += "&DryRun=true" }, errs.SignatureDoesNotMatch},
		{"longer", now, time.Minute, func(r *http.Request) {
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "Expires=60", "Expires=61", 1)
		}, errs.SignatureDoesNotMatch},
		{"twice", now, time.Minute, func(r *http.Request) { r.URL.RawQuery += "&X-Amz-Expires=60" }, errs.IncompleteSignature},
		{"header", now, time.Minute, func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }, errs.SignatureDoesNotMatch},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8773/?"+form, nil)
		if err := signer().Presign(r, c.at, c.expires); err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			c.change(r)
		}
		_, err := verifier(t).Verify(t.Context(), r, nil)
		if code(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: got %v, want code %q", c.name, err, c.want)
		}
	}
}

// TestAnyFlipIsRefused signs a random request, then changes one bit of what the server reads.
func TestAnyFlipIsRefused(t *testing.T) {
	v := verifier(t)
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		r := received(string(body))
		r.URL.RawQuery = "a=" + sigv4.Encode(rapid.String().Draw(t, "query"))
		if err := signer().Sign(r, body, now); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), r, body); err != nil {
			t.Fatalf("a signed request was refused: %v", err)
		}
		fields := []string{"Authorization", "X-Amz-Date", "Content-Type", "host", "query"}
		if len(body) > 0 {
			fields = append(fields, "body")
		}
		field := rapid.SampledFrom(fields).Draw(t, "field")
		switch field {
		case "body":
			body = []byte(flip(t, string(body)))
		case "host":
			r.Host = flip(t, r.Host)
		case "query":
			r.URL.RawQuery = "b" + r.URL.RawQuery
		default:
			r.Header.Set(field, flip(t, r.Header.Get(field)))
		}
		if _, err := v.Verify(t.Context(), r, body); err == nil || code(err) == "" {
			t.Fatalf("%s was changed and the answer is %v", field, err)
		}
	})
}

// flip changes one bit, never a space into another kind of space, which canonical headers do not tell apart.
func flip(t *rapid.T, s string) string {
	b := []byte(s)
	i := rapid.IntRange(0, len(b)-1).Filter(func(i int) bool { return b[i] != ' ' }).Draw(t, "at")
	b[i] ^= 1 << rapid.IntRange(0, 3).Draw(t, "bit")
	if bytes.ContainsAny(b[i:i+1], " \t") {
		b[i] = '!'
	}
	return string(b)
}

func TestCacheIsBounded(t *testing.T) {
	var c keyCache
	scope := sigv4.Scope{Date: "20260102", Region: "r", Service: "ec2"}
	for i := range 2*maxDerived + 1 {
		id := string(rune('a' + i))
		if c.get(id, "s", scope) != sigv4.Derive("s", scope) || len(c.keys) > maxDerived {
			t.Fatalf("entry %d of %d is wrong", i, len(c.keys))
		}
	}
	if c.get("a", "t", scope) == c.get("a", "s", scope) {
		t.Error("a changed secret must not find the old key")
	}
}

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AK/20260102/r/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("a", 64))
	f.Add("AWS4-HMAC-SHA256 Credential=,SignedHeaders==,Signature")
	f.Add("AWS4-HMAC-SHA256 Credential=a,Credential=b,Signature=c")
	f.Fuzz(func(t *testing.T, header string) {
		r := received("")
		r.Header["Authorization"] = []string{header}
		r.Header.Set("X-Amz-Date", now.Format(sigv4.TimeLayout))
		_, err := verifier(t).Verify(t.Context(), r, nil)
		if code(err) == "" {
			t.Errorf("%q: got %v, want a refusal", header, err)
		}
		_, _ = ClaimOf(r)
		if c, err := parseSigned(r, header); err == nil && (len(c.signature) != 64 || c.accessKeyID == "" || !canonicalNames(c.signedHeaders)) {
			t.Errorf("%q: accepted as %+v", header, c)
		}
	})
}

// FuzzPresigned verifies any query string: nothing but a refusal with a code of its own comes of it.
func FuzzPresigned(f *testing.F) {
	f.Add("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F20260102%2Fr%2Fec2%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + strings.Repeat("a", 64))
	f.Add("X-Amz-Signature=a&X-Amz-Signature=b")
	f.Add("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=-9223372036854775808")
	f.Add("a=%zz&;")
	f.Fuzz(func(t *testing.T, query string) {
		r := received("")
		r.Header.Del("Authorization")
		r.URL.RawQuery = query
		if _, err := verifier(t).Verify(t.Context(), r, nil); code(err) == "" {
			t.Errorf("%q: got %v, want a refusal", query, err)
		}
		_, _ = ClaimOf(r)
	})
}
