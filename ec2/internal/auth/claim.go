package auth

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// Bounds of what a claim may hold.
const (
	maxSignedHeaders  = 64
	maxPresignedValid = 7 * 24 * time.Hour
)

// claim is what a request says of its own signature, before anything of it is believed.
type claim struct {
	accessKeyID   string
	scope         sigv4.Scope
	signedHeaders []string // lower-case, sorted, unique
	signature     string
	sessionToken  string
	at            time.Time
	presigned     bool
	expires       time.Duration // of a presigned URL
}

// ClaimOf returns the access key and the service that a request claims, without believing it: for the form of an error that
// comes before verification, and to refuse cheaply what would be refused after it. They are empty when there is no
// readable claim.
func ClaimOf(r *http.Request) (accessKeyID, service string) {
	credential := ""
	if header := r.Header.Get("Authorization"); header != "" {
		fields, err := parseAuthorization(header)
		if err != nil {
			return "", ""
		}
		credential = fields.credential
	} else if strings.Contains(r.URL.RawQuery, "X-Amz-Credential") {
		credential = r.URL.Query().Get("X-Amz-Credential")
	}
	accessKeyID, scope, _ := sigv4.ParseCredential(credential)
	return accessKeyID, scope.Service
}

func parseClaim(r *http.Request, query url.Values) (claim, error) {
	headers, presigned := r.Header.Values("Authorization"), query.Has("X-Amz-Signature") || query.Has("X-Amz-Algorithm")
	switch {
	case presigned && len(headers) > 0:
		return claim{}, incomplete("The request has a signature both in its header and in its query.")
	case presigned:
		return parsePresigned(query)
	case len(headers) == 1:
		return parseSigned(r, headers[0])
	case len(headers) > 1:
		return claim{}, incomplete("The request has more than one Authorization header.")
	}
	return claim{}, errs.New(errs.MissingAuthenticationToken, "Request is missing Authentication Token."+ownKeys)
}

func incomplete(format string, args ...any) error {
	return errs.New(errs.IncompleteSignature, format, args...)
}

func parseSigned(r *http.Request, header string) (claim, error) {
	fields, err := parseAuthorization(header)
	if err != nil {
		return claim{}, err
	}
	at, err := dateOf(r)
	if err != nil {
		return claim{}, err
	}
	return newClaim(fields, claim{at: at, sessionToken: r.Header.Get("X-Amz-Security-Token")})
}

// dateOf reads X-Amz-Date, or else Date, which some clients sign instead.
func dateOf(r *http.Request) (time.Time, error) {
	if text := r.Header.Get("X-Amz-Date"); text != "" {
		at, err := time.Parse(sigv4.TimeLayout, text)
		if err != nil {
			return at, incomplete("X-Amz-Date must look like %s.", sigv4.TimeLayout)
		}
		return at, nil
	}
	at, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		return at, incomplete("The request must have an X-Amz-Date or a Date header.")
	}
	return at.UTC(), nil
}

func parsePresigned(query url.Values) (claim, error) {
	for name, values := range query {
		if strings.HasPrefix(name, "X-Amz-") && len(values) > 1 {
			return claim{}, incomplete("The parameter %.64s is given more than once.", name)
		}
	}
	if query.Get("X-Amz-Algorithm") != sigv4.Algorithm {
		return claim{}, incomplete("X-Amz-Algorithm must be %s.", sigv4.Algorithm)
	}
	at, err := time.Parse(sigv4.TimeLayout, query.Get("X-Amz-Date"))
	if err != nil {
		return claim{}, incomplete("X-Amz-Date must look like %s.", sigv4.TimeLayout)
	}
	seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	if err != nil || seconds < 1 || seconds > int(maxPresignedValid/time.Second) {
		return claim{}, incomplete("X-Amz-Expires must be from 1 to %d seconds.", int(maxPresignedValid/time.Second))
	}
	fields := authorization{query.Get("X-Amz-Credential"), query.Get("X-Amz-SignedHeaders"), query.Get("X-Amz-Signature")}
	return newClaim(fields, claim{at: at, presigned: true, expires: time.Duration(seconds) * time.Second, sessionToken: query.Get("X-Amz-Security-Token")})
}

// newClaim completes c with the three fields that both forms share.
func newClaim(fields authorization, c claim) (claim, error) {
	var ok bool
	if c.accessKeyID, c.scope, ok = sigv4.ParseCredential(fields.credential); !ok || len(c.accessKeyID) > 128 {
		return claim{}, incomplete("Credential must be key/date/region/service/aws4_request.")
	}
	c.signedHeaders = strings.Split(fields.signedHeaders, ";")
	if len(c.signedHeaders) > maxSignedHeaders || !canonicalNames(c.signedHeaders) {
		return claim{}, incomplete("SignedHeaders must be at most %d lower-case names, sorted, separated by semicolons.", maxSignedHeaders)
	}
	if c.signature = fields.signature; len(c.signature) != 64 {
		return claim{}, incomplete("Signature must be 64 hexadecimal digits.")
	}
	return c, nil
}

func canonicalNames(names []string) bool {
	for i, name := range names {
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " \t\r\n:") || (i > 0 && names[i-1] >= name) {
			return false
		}
	}
	return true
}

// checkTime compares with our clock. Clients correct theirs on RequestExpired, so the message tells our time.
func (c claim) checkTime(now time.Time) error {
	latest := c.at.Add(MaxSkew)
	if c.presigned {
		latest = c.at.Add(c.expires)
	}
	if !now.After(latest) && !now.Before(c.at.Add(-MaxSkew)) {
		return nil
	}
	text := fmt.Sprintf("Request has expired. Timestamp date is %s. Current date is %s.", c.at.Format(sigv4.TimeLayout), now.UTC().Format(sigv4.TimeLayout))
	if !c.presigned || now.Before(c.at) { // a presigned one may be merely old
		text += fmt.Sprintf(ownClock, now.Sub(c.at).Abs().Round(time.Second))
	}
	return errs.New(errs.RequestExpired, "%s", text)
}

// authorization is an Authorization header taken apart.
type authorization struct{ credential, signedHeaders, signature string }

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…": each field once, in any order,
// with or without a space after the comma.
func parseAuthorization(header string) (authorization, error) {
	algorithm, rest, _ := strings.Cut(header, " ")
	if algorithm != sigv4.Algorithm {
		return authorization{}, incomplete("Authorization must begin with %s.", sigv4.Algorithm)
	}
	if strings.Count(rest, ",") != 2 {
		return authorization{}, incomplete("Authorization needs exactly %v.", []string{"Credential", "SignedHeaders", "Signature"})
	}
	var a authorization
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if field := a.field(name); field != nil && *field == "" && value != "" {
			*field = value
			continue
		}
		return authorization{}, incomplete("Authorization needs each of %v once.", []string{"Credential", "Signature", "SignedHeaders"})
	}
	return a, nil
}

func (a *authorization) field(name string) *string {
	switch name {
	case "Credential":
		return &a.credential
	case "SignedHeaders":
		return &a.signedHeaders
	case "Signature":
		return &a.signature
	}
	return nil
}
