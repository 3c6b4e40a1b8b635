// Package sigv4 is AWS Signature Version 4 for requests that carry a short body: the canonical form that both sides must
// agree on, and a signer for clients and tests. The verifier is in ec2/internal/auth.
//
// Deliberately absent: what only S3 has (unsigned and streaming payloads, single encoding of the path), and sigv4a.
// Start reading at Signer and Canonical.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fixed texts of the protocol.
const (
	Algorithm  = "AWS4-HMAC-SHA256"
	TimeLayout = "20060102T150405Z" // of X-Amz-Date, UTC
	DateLayout = "20060102"         // of a scope
	terminator = "aws4_request"
)

// Scope limits a signing key to a day, a region and a service.
type Scope struct {
	Date    string // DateLayout
	Region  string
	Service string
}

// String is the scope as it stands in a credential, after the access key id.
func (s Scope) String() string {
	return s.Date + "/" + s.Region + "/" + s.Service + "/" + terminator
}

// ParseCredential splits "key id/date/region/service/aws4_request".
func ParseCredential(text string) (accessKeyID string, scope Scope, ok bool) {
	var parts [5]string
	n := 0
	for part := range strings.SplitSeq(text, "/") {
		if n == len(parts) || part == "" {
			return "", Scope{}, false
		}
		parts[n] = part
		n++
	}
	if parts[4] != terminator {
		return "", Scope{}, false
	}
	return parts[0], Scope{Date: parts[1], Region: parts[2], Service: parts[3]}, true
}

// Key is a derived signing key. It verifies and makes signatures within its scope only.
type Key [sha256.Size]byte

// Derive makes the signing key of a secret for a scope.
func Derive(secret string, scope Scope) Key {
	key := mac([]byte("AWS4"+secret), scope.Date)
	key = mac(key, scope.Region)
	key = mac(key, scope.Service)
	return Key(mac(key, terminator))
}

// Signature signs a canonical request, as lower-case hexadecimal.
func (k Key) Signature(at time.Time, scope Scope, canonical string) string {
	digest := sha256.Sum256([]byte(canonical))
	text := Algorithm + "\n" + at.UTC().Format(TimeLayout) + "\n" + scope.String() + "\n" + hex.EncodeToString(digest[:])
	return hex.EncodeToString(mac(k[:], text))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// BodyHash is the SHA-256 of a body in lower-case hexadecimal.
func BodyHash(body []byte) string {
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:])
}

// Canonical is the text that is signed: method, path, query without X-Amz-Signature, the named headers, the body's hash.
// signedHeaders are lower-case and sorted. query is the decoded query string.
func Canonical(r *http.Request, query url.Values, signedHeaders []string, bodyHash string) string {
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte('\n')
	b.WriteString(canonicalPath(r.URL.EscapedPath()))
	b.WriteByte('\n')
	b.WriteString(canonicalQuery(query))
	b.WriteByte('\n')
	for _, name := range signedHeaders {
		b.WriteString(name)
		b.WriteByte(':')
		b.WriteString(HeaderValue(r, name))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(signedHeaders, ";"))
	b.WriteByte('\n')
	b.WriteString(bodyHash)
	return b.String()
}

// canonicalPath encodes the path as it travels once more: all services but S3 sign the path doubly encoded.
func canonicalPath(escaped string) string {
	if escaped == "" {
		return "/"
	}
	segments := strings.Split(escaped, "/")
	for i, segment := range segments {
		segments[i] = Encode(segment)
	}
	return strings.Join(segments, "/")
}

// canonicalQuery sorts by encoded name and then by encoded value, which differs from sorting the plain names.
func canonicalQuery(query url.Values) string {
	type pair struct{ name, value string }
	var pairs []pair
	for name, values := range query {
		if name == "X-Amz-Signature" {
			continue
		}
		for _, value := range values {
			pairs = append(pairs, pair{Encode(name), Encode(value)})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name + "=" + p.value)
	}
	return b.String()
}

// HeaderValue is a header in canonical form: values joined by commas, ends trimmed, runs of spaces collapsed. Host and
// Content-Length are taken from where net/http keeps them.
func HeaderValue(r *http.Request, name string) string {
	switch name {
	case "host":
		return collapse(host(r))
	case "content-length":
		if r.ContentLength >= 0 {
			return strconv.FormatInt(r.ContentLength, 10)
		}
	}
	values := r.Header.Values(name)
	canonical := make([]string, len(values))
	for i, value := range values {
		canonical[i] = collapse(value)
	}
	return strings.Join(canonical, ",")
}

func host(r *http.Request) string {
	if r.Host != "" {
		return r.Host
	}
	return r.URL.Host
}

func collapse(s string) string { return strings.Join(strings.FieldsFunc(s, isSpace), " ") }

func isSpace(r rune) bool { return r == ' ' || r == '\t' }

// Encode is RFC 3986 percent-encoding with upper-case digits: everything but letters, digits and -._~ is encoded.
func Encode(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; isUnreserved(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}
