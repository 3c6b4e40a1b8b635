// Package server is the EC2 door's work: one method for each served action, over the parts' contracts.
//
// Every method keeps one order of checks: required parameters and values, ids that are malformed, ids that do not exist,
// DryRun, and only then an effect. Describe actions are one story (see describe); mutating ones are a few lines each.
//
// Invariants: the answer holds what the request changed; every parameter of a served action is honoured, accepted with a
// reason, or refused (ec2/internal/honesty says which, and the query layer enforces it); errors of the parts are returned as
// they are, and ec2/internal/convert gives them their codes.
//
// Deliberately absent: state, authorization beyond "the key's account", and actions of later tiers (UnsupportedOperation).
// Start reading at New and api.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/auth"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/honesty"
	"github.com/nimbrel/nimbrel/ec2/internal/query"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// DefaultMaxRequests is the default of Options.MaxRequests.
const DefaultMaxRequests = 256

// Record is what Options.Done is told of a finished request.
type Record = query.Record

// Options are what the door needs. The parts, the region and the log are required.
type Options struct {
	Account account.Service
	Tags    account.Tagger
	VPC     vpc.Service
	Image   image.Service
	Compute compute.Service

	Region string // as clients name it: "us-nimbrel-1"
	// Endpoint is what DescribeRegions shows as the region's host and port. Default: ec2.<region>.
	Endpoint string

	Env env.Env // default: the machine's
	Log *slog.Logger

	// MaxRequests bounds the requests that run at once; more are answered RequestLimitExceeded. Default:
	// DefaultMaxRequests.
	MaxRequests int
	// Admission bounds what runs of each account. Default: one without bounds on rates, of this handler alone.
	Admission *Admission
	// Done, when set, is told of every request after its answer was made.
	Done func(Record)
}

func (o *Options) complete() error {
	if o.Account == nil || o.Tags == nil || o.VPC == nil || o.Image == nil || o.Compute == nil {
		return errors.New("ec2 server: Account, Tags, VPC, Image and Compute are needed")
	}
	if o.Region == "" || o.Log == nil || o.MaxRequests < 0 {
		return errors.New("ec2 server: Region and Log are needed, and MaxRequests is at least 0")
	}
	if o.Endpoint == "" {
		o.Endpoint = "ec2." + o.Region
	}
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	if o.MaxRequests == 0 {
		o.MaxRequests = DefaultMaxRequests
	}
	if o.Admission == nil {
		o.Admission = NewAdmission(AdmissionOptions{})
	}
	return nil
}

// New returns the handler of the EC2 and STS port.
func New(o Options) (http.Handler, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	verifier, err := auth.New(auth.Options{
		Keys: keys{o.Account}, Clock: o.Env.Clock, Region: o.Region,
		Services: map[string]auth.Placement{"ec2": auth.Regional, "sts": auth.Global},
	})
	if err != nil {
		return nil, err
	}
	g := &gate{Admission: o.Admission, now: o.Env.Clock.Now, max: int64(o.MaxRequests)}
	return query.New(query.Options{
		API: &api{Options: o}, Auth: verifier, Env: o.Env, Log: o.Log, Done: o.Done,
		Check: honesty.Check, Errors: convert.Error, Shed: g.shed, Admit: g.admit,
	})
}

// api serves the actions. What it has no method for answers UnsupportedOperation.
type api struct {
	ec2gen.Unsupported
	Options
}

// keys finds access keys in the accounts.
type keys struct{ accounts account.Service }

func (k keys) Lookup(ctx context.Context, accessKeyID string) (auth.Credential, error) {
	owner, secret, err := k.accounts.Lookup(ctx, accessKeyID)
	if notFound := (*account.NotFoundError)(nil); errors.As(err, &notFound) {
		return auth.Credential{}, fmt.Errorf("%w: %w", auth.ErrNoKey, err)
	}
	return auth.Credential{Account: owner, Secret: secret}, err
}

// caller is the account that a request acts for.
func caller(ctx context.Context) ids.Account { return query.CallFrom(ctx).Account }

// dryRun is asked once everything was checked and nothing was changed.
func dryRun(ctx context.Context) error {
	if query.CallFrom(ctx).DryRun {
		return errs.DryRun
	}
	return nil
}
