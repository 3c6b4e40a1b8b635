package sigv4

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The example key and moment that the protocol's public documentation uses.
const exampleSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

var exampleTime = time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)

func TestDerive(t *testing.T) {
	key := Derive(exampleSecret, Scope{Date: "20150830", Region: "us-east-1", Service: "iam"})
	if got := hex.EncodeToString(key[:]); got != "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9" {
		t.Errorf("derived %s", got)
	}
}

// TestKnownSignatures holds the signer to signatures that other implementations publish.
func TestKnownSignatures(t *testing.T) {
	for _, c := range []struct{ name, service, url, contentType, want string }{
		{"plain", "service", "http://example.amazonaws.com/", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"query and content type", "iam", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", "application/x-www-form-urlencoded; charset=utf-8", "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"},
	} {
		r, err := http.NewRequest(http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.contentType != "" {
			r.Header.Set("Content-Type", c.contentType)
		}
		signer := Signer{AccessKeyID: "AKIDEXAMPLE", Secret: exampleSecret, Region: "us-east-1", Service: c.service}
		if err := signer.Sign(r, nil, exampleTime); err != nil {
			t.Fatal(err)
		}
		if got := r.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature="+c.want) {
			t.Errorf("%s: got %s, want signature %s", c.name, got, c.want)
		}
	}
}

func TestCanonical(t *testing.T) {
	r, err := http.NewRequest(http.MethodPost, "http://h:8773/a%20b//c?z=1&a=2&a=1&A%2B=+&a-=3&X-Amz-Signature=s", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["X-Amz-Two"] = []string{"  a   b ", "c\t d"}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	want := "POST\n/a%2520b//c\nA%2B=%20&a=1&a=2&a-=3&z=1\ncontent-length:0\nhost:h:8773\nx-amz-two:a b,c d\n\ncontent-length;host;x-amz-two\nHASH"
	if got := Canonical(r, query, []string{"content-length", "host", "x-amz-two"}, "HASH"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestParseCredential(t *testing.T) {
	if id, scope, ok := ParseCredential("AK/20260102/us-x-1/ec2/aws4_request"); !ok || id != "AK" || scope != (Scope{"20260102", "us-x-1", "ec2"}) {
		t.Errorf("got %s %v %v", id, scope, ok)
	}
	for _, bad := range []string{"", "AK", "AK/20260102/us-x-1/ec2/aws4", "AK//us-x-1/ec2/aws4_request", "A/B/20260102/us-x-1/ec2/aws4_request"} {
		if _, _, ok := ParseCredential(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
}
