// Package server is the operators' API: the cloud as the people who run it see it, across accounts.
//
// It answers from the parts' contracts, the host link's view of its targets, the checker and the store, and joins
// streams to guests (consoles, and TCP to a port) to the host that runs them. Each call that changes something and each
// stream is one line of the audit log.
//
// Deliberately absent: authentication. Whoever can open the unix socket, or has a client certificate on the mutual TLS
// listener, is an operator; the listener belongs to the caller of New.
//
// Start reading at New and api.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/operator/stream"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/awsjson"
	"github.com/nimbrel/nimbrel/vpc"
)

// DefaultTokenTTL is for how long a join token can be used when the request does not say.
const DefaultTokenTTL = time.Hour

// Joiner makes join tokens for machines.
type Joiner interface {
	// CreateToken makes a token for one machine of a role ("host").
	CreateToken(ctx context.Context, role string, ttl time.Duration) (token string, expires time.Time, err error)
	// Fingerprint is the SHA-256 of the server's CA certificate, in hexadecimal.
	Fingerprint() string
	// Address is where machines dial.
	Address() string
}

// Health is how one component of the control plane is.
type Health struct {
	Name string
	// Probe returns what is wrong, or a figure worth seeing with a nil error.
	Probe func(ctx context.Context) (detail string, err error)
}

// Options are what the operators' server needs. All but the commented fields are required.
type Options struct {
	Account account.Service
	VPC     vpc.Service
	Image   image.Service
	Compute compute.Service
	DB      *store.DB // for rows and operations
	Joiner  Joiner

	// OpenStream asks a host ("host/" and its id) for a stream, as dispatch/server does.
	OpenStream func(ctx context.Context, target, name string, header []byte) (net.Conn, error)
	// Check runs every invariant once.
	Check func(ctx context.Context) (check.Report, error)
	// Targets is the host link's view of the hosts. Nil: hosts are up or suspect by compute's view.
	Targets func() []dispatch.TargetStatus
	// Operator owns the images that operators import for everyone.
	Operator ids.Account

	Version  string // of the binary
	Region   string
	Endpoint string    // URL of the EC2 API
	Started  time.Time // of the process
	Health   []Health  // optional
	Env      env.Env   // default: the machine's
	Log      *slog.Logger
}

func (o *Options) complete() error {
	switch {
	case o.Account == nil || o.VPC == nil || o.Image == nil || o.Compute == nil || o.DB == nil || o.Joiner == nil:
		return errors.New("operator server: Account, VPC, Image, Compute, DB and Joiner are needed")
	case o.OpenStream == nil || o.Check == nil || o.Log == nil:
		return errors.New("operator server: OpenStream, Check and Log are needed")
	}
	if _, err := ids.ParseAccount(string(o.Operator)); err != nil {
		return errors.New("operator server: Operator is a 12-digit account")
	}
	if o.Env.Clock == nil {
		o.Env = env.System()
	}
	return nil
}

// New returns the handler of the operators' endpoint: the API at / and streams at stream.Path.
func New(o Options) (http.Handler, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	a := &api{o}
	mux := http.NewServeMux()
	mux.Handle(stream.Path, stream.Handler(a.openStream, a.auditStream))
	mux.Handle("/", operatorgen.NewHandler(a, awsjson.Options{Log: o.Log}))
	return mux, nil
}

// api serves the operations.
type api struct{ Options }

var _ operatorgen.API = (*api)(nil)

// audit writes the line of a call that changed something, or tried to.
func (a *api) audit(ctx context.Context, operation, subject string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = err.Error()
	}
	a.Log.InfoContext(ctx, "audit", "action", operation, "subject", subject, "outcome", outcome)
}

func (a *api) GetStatus(ctx context.Context, _ *operatorgen.GetStatusInput) (*operatorgen.GetStatusOutput, error) {
	hosts, err := a.Compute.Hosts(ctx)
	if err != nil {
		return nil, explain(err)
	}
	out := &operatorgen.GetStatusOutput{
		Version: a.Version, Region: a.Region, Endpoint: a.Endpoint, UptimeMs: a.Env.Clock.Now().Sub(a.Started).Milliseconds(), Driver: driverOf(hosts),
	}
	out.Simulated = out.Driver == operatorgen.DriverFake
	for _, h := range a.Health {
		detail, err := h.Probe(ctx)
		if err != nil {
			detail = err.Error()
		}
		out.Components = append(out.Components, operatorgen.Component{Name: h.Name, Healthy: err == nil, Detail: detail})
	}
	return out, nil
}

// driverOf is what the hosts have in common. With no hosts it is what a real host would say.
func driverOf(hosts []compute.Host) operatorgen.Driver {
	simulated := 0
	for _, h := range hosts {
		if h.Simulated {
			simulated++
		}
	}
	switch {
	case simulated == 0:
		return operatorgen.DriverQemu
	case simulated == len(hosts):
		return operatorgen.DriverFake
	}
	return operatorgen.DriverMixed
}

func (a *api) RunCheck(ctx context.Context, _ *operatorgen.RunCheckInput) (*operatorgen.RunCheckOutput, error) {
	report, err := a.Check(ctx)
	if err != nil && len(report.Checked) == 0 {
		return nil, explain(err)
	}
	const maxFindings = 1000 // the model's bound
	out := &operatorgen.RunCheckOutput{Truncated: report.Count > min(len(report.Findings), maxFindings-1)}
	for _, f := range report.Findings {
		if len(out.Findings) < maxFindings-1 {
			out.Findings = append(out.Findings, operatorgen.Finding{Invariant: f.Invariant, Subject: f.Subject, Detail: f.Detail})
		}
	}
	if err != nil { // some could not be evaluated: that is a finding of its own, beside what the others found
		out.Findings = append(out.Findings, operatorgen.Finding{Invariant: "check.evaluated", Subject: "store", Detail: err.Error()})
	}
	for _, c := range report.Checked {
		out.Counts = append(out.Counts, operatorgen.CheckCount{Invariant: c.Invariant, Checked: int64(c.Rows), Broken: int64(c.Broken)})
	}
	return out, nil
}

func (a *api) CreateJoinToken(ctx context.Context, in *operatorgen.CreateJoinTokenInput) (*operatorgen.CreateJoinTokenOutput, error) {
	ttl := DefaultTokenTTL
	if in.TtlSeconds != nil {
		ttl = time.Duration(*in.TtlSeconds) * time.Second
	}
	token, expires, err := a.Joiner.CreateToken(ctx, string(in.Role), ttl)
	a.audit(ctx, "CreateJoinToken", string(in.Role), err)
	if err != nil {
		return nil, explain(err)
	}
	return &operatorgen.CreateJoinTokenOutput{
		Token: token, CaFingerprint: a.Joiner.Fingerprint(), Address: a.Joiner.Address(), ExpiresAtMs: expires.UnixMilli(),
	}, nil
}
