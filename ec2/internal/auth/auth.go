// Package auth verifies AWS Signature Version 4 on a request: in the Authorization header, or in the query of a presigned
// URL.
//
// Invariants: an identity is returned only for a request whose method, path, query, host, every X-Amz header and whole body
// the holder of the secret signed, for this region and a service of this endpoint, within 15 minutes of the clock (or
// before a presigned URL expires); secrets and signatures are compared in constant time; nothing a stranger sends makes
// memory grow.
//
// Deliberately absent: what an account may do, signature version 2, and replay protection within the 15 minutes (as in
// EC2: client tokens are for that). Start reading at Verifier.Verify.
package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// MaxSkew is how far a client's clock may be from ours, either way.
const MaxSkew = 15 * time.Minute

// ErrNoKey is what Keys answers for a key that does not exist or is not active.
var ErrNoKey = errors.New("no such access key")

// Credential is what an access key stands for.
type Credential struct {
	Account      ids.Account
	Secret       string
	SessionToken string // of a temporary key; empty for a long-term one
}

// Keys finds access keys. It is asked on each request, so a revoked key stops at once.
type Keys interface {
	// Lookup returns ErrNoKey, possibly wrapped, for a key that cannot be used. Any other error is an internal one.
	Lookup(ctx context.Context, accessKeyID string) (Credential, error)
}

// Identity is who signed a request, and for which service.
type Identity struct {
	Account     ids.Account
	AccessKeyID string
	Service     string
}

// Options configure a Verifier.
type Options struct {
	Keys     Keys
	Clock    env.Clock
	Region   string
	Services map[string]Placement // the services of this endpoint by scope name
}

// Placement says which regions a service's scope may name.
type Placement int

const (
	Regional Placement = iota // the endpoint's region only
	Global                    // us-east-1 too: clients sign for global services so, wherever they are
)

// globalRegion is what clients of global services sign for.
const globalRegion = "us-east-1"

// Verifier checks signatures. It is safe for concurrent use.
type Verifier struct {
	options Options
	derived keyCache
}

// New makes a Verifier.
func New(options Options) (*Verifier, error) {
	if options.Keys == nil || options.Clock == nil || options.Region == "" || len(options.Services) == 0 {
		return nil, errors.New("auth: keys, clock, region and services are needed")
	}
	return &Verifier{options: options}, nil
}

// What a person is to do about an error follows EC2's own words, in the same message: clients tell errors apart by their
// codes, people read on.
const (
	ownKeys   = " This cloud knows its own access keys only, while they are active: `nimbrel env` on the server prints the settings with one."
	ownSecret = " It belongs to the access key %.128s: `nimbrel env` on the server prints the settings with both."
	ownRegion = " Set AWS_REGION, AWS_DEFAULT_REGION or --region to %s."
	ownClock  = " The clocks of client and server are %s apart: set the one that is wrong."
)

// Verify returns who signed r. body is the whole body. The error is an *errs.Error unless Keys failed.
func (v *Verifier) Verify(ctx context.Context, r *http.Request, body []byte) (Identity, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Identity{}, errs.New(errs.MalformedQueryString, "The query string cannot be read.")
	}
	claim, err := parseClaim(r, query)
	if err != nil {
		return Identity{}, err
	}
	if err := v.checkScope(claim); err != nil {
		return Identity{}, err
	}
	if err := claim.checkTime(v.options.Clock.Now()); err != nil {
		return Identity{}, err
	}
	if err := checkHeaders(r, claim.signedHeaders); err != nil {
		return Identity{}, err
	}
	credential, err := v.credential(ctx, claim)
	if err != nil {
		return Identity{}, err // before the body is hashed: strangers cost a look-up
	}
	bodyHash := sigv4.BodyHash(body)
	if claimed := r.Header.Get("X-Amz-Content-Sha256"); claimed != "" && claimed != bodyHash {
		return Identity{}, errs.New(errs.SignatureDoesNotMatch, "The X-Amz-Content-Sha256 header does not match the body.")
	}
	key := v.derived.get(claim.accessKeyID, credential.Secret, claim.scope)
	want := key.Signature(claim.at, claim.scope, sigv4.Canonical(r, query, claim.signedHeaders, bodyHash))
	if !equal(want, claim.signature) {
		return Identity{}, errs.New(errs.SignatureDoesNotMatch, "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."+ownSecret, claim.accessKeyID)
	}
	return Identity{Account: credential.Account, AccessKeyID: claim.accessKeyID, Service: claim.scope.Service}, nil
}

func (v *Verifier) checkScope(c claim) error {
	placement, ok := v.options.Services[c.scope.Service]
	if !ok {
		return errs.New(errs.SignatureDoesNotMatch, "Credential should be scoped to a service of this endpoint, not '%.64s'.", c.scope.Service)
	}
	if c.scope.Region != v.options.Region && (placement != Global || c.scope.Region != globalRegion) {
		return errs.New(errs.SignatureDoesNotMatch, "Credential should be scoped to a valid region: this is %s, not '%.64s'."+ownRegion, v.options.Region, c.scope.Region, v.options.Region)
	}
	if c.scope.Date != c.at.Format(sigv4.DateLayout) {
		return errs.New(errs.SignatureDoesNotMatch, "Date in Credential scope does not match the date of the request.")
	}
	return nil
}

// credential looks the key up. EC2 and the other services name an unusable key differently.
func (v *Verifier) credential(ctx context.Context, c claim) (Credential, error) {
	credential, err := v.options.Keys.Lookup(ctx, c.accessKeyID)
	if err != nil && !errors.Is(err, ErrNoKey) {
		return Credential{}, fmt.Errorf("look up access key %.128s: %w", c.accessKeyID, err)
	}
	if err == nil && credential.Secret != "" && equal(credential.SessionToken, c.sessionToken) {
		return credential, nil
	}
	if c.scope.Service == "ec2" {
		return Credential{}, errs.New(errs.AuthFailure, "AWS was not able to validate the provided access credentials."+ownKeys)
	}
	return Credential{}, errs.New(errs.InvalidClientTokenId, "The security token included in the request is invalid."+ownKeys)
}

// checkHeaders holds the set of signed headers to the rule that nothing which steers the request is left out.
func checkHeaders(r *http.Request, signed []string) error {
	if !slices.Contains(signed, "host") {
		return errs.New(errs.SignatureDoesNotMatch, "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(signed, name) {
			return errs.New(errs.SignatureDoesNotMatch, "The header '%.64s' is present and was not signed.", name)
		}
	}
	for _, name := range signed {
		_, present := r.Header[http.CanonicalHeaderKey(name)]
		if !present && name != "host" && name != "content-length" {
			return errs.New(errs.SignatureDoesNotMatch, "The header '%.64s' was signed and is not present.", name)
		}
	}
	return nil
}

// equal compares secrets without telling by its duration where they differ.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
