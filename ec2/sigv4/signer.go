package sigv4

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signer signs requests with one access key for one region and service. It is safe for concurrent use.
type Signer struct {
	AccessKeyID  string
	Secret       string
	SessionToken string // empty for long-term keys
	Region       string
	Service      string // "ec2", "sts"
}

// Sign sets X-Amz-Date and Authorization (and the session token's header) on r, whose body is body. It signs the host,
// the content type and every X-Amz header; headers changed afterwards break the signature.
func (s Signer) Sign(r *http.Request, body []byte, at time.Time) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("sign request: %w", err)
	}
	r.Header.Set("X-Amz-Date", at.UTC().Format(TimeLayout))
	if s.SessionToken != "" {
		r.Header.Set("X-Amz-Security-Token", s.SessionToken)
	}
	names := signable(r.Header)
	scope := s.scope(at)
	signature := Derive(s.Secret, scope).Signature(at, scope, Canonical(r, query, names, BodyHash(body)))
	r.Header.Set("Authorization", Algorithm+" Credential="+s.AccessKeyID+"/"+scope.String()+
		", SignedHeaders="+strings.Join(names, ";")+", Signature="+signature)
	return nil
}

// Presign puts the signature into the URL of a request without a body. Anyone who has the URL can send it until expires
// (1 second to 7 days) has passed since at.
func (s Signer) Presign(r *http.Request, at time.Time, expires time.Duration) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("presign request: %w", err)
	}
	scope := s.scope(at)
	query.Set("X-Amz-Algorithm", Algorithm)
	query.Set("X-Amz-Credential", s.AccessKeyID+"/"+scope.String())
	query.Set("X-Amz-Date", at.UTC().Format(TimeLayout))
	query.Set("X-Amz-Expires", strconv.Itoa(int(expires/time.Second)))
	query.Set("X-Amz-SignedHeaders", "host")
	if s.SessionToken != "" {
		query.Set("X-Amz-Security-Token", s.SessionToken)
	}
	signature := Derive(s.Secret, scope).Signature(at, scope, Canonical(r, query, []string{"host"}, BodyHash(nil)))
	query.Set("X-Amz-Signature", signature)
	r.URL.RawQuery = query.Encode()
	return nil
}

func (s Signer) scope(at time.Time) Scope {
	return Scope{Date: at.UTC().Format(DateLayout), Region: s.Region, Service: s.Service}
}

// signable picks the headers that a proxy leaves alone.
func signable(header http.Header) []string {
	names := []string{"host"}
	for name := range header {
		if name = strings.ToLower(name); name == "content-type" || strings.HasPrefix(name, "x-amz-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
