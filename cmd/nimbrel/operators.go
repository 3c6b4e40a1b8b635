package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	operatordoor "github.com/nimbrel/nimbrel/operator/server"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/admin"
	storetool "github.com/nimbrel/nimbrel/store/tool"
)

// operatorAccount owns the images that operators import for everyone. Accounts of tenants never begin with 0.
const operatorAccount ids.Account = "000000000001"

// operators is the operators' door.
func (c *controlPlane) operators(f *serverFlags, log *slog.Logger) (http.Handler, error) {
	door, err := operatordoor.New(operatordoor.Options{
		Account: c.accounts, VPC: c.networks, Image: c.images, Uploads: c.images, Compute: c.compute, DB: c.db,
		Joiner: joiner{plane: c, address: f.link}, OpenStream: c.link.OpenStream, Targets: c.link.Targets,
		Check:    func(ctx context.Context) (check.Report, error) { return check.Run(ctx, c.db, invariants()) },
		Operator: operatorAccount, Version: version, Region: f.region, Endpoint: "http://" + f.listen, Started: c.started,
		Health: []operatordoor.Health{{Name: "host link", Probe: func(context.Context) (string, error) { return "", c.ready() }}},
		Log:    log,
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(admin.Path, admin.Handler(c.engine, func(ctx context.Context, action, subject string, err error) {
		outcome := "ok"
		if err != nil {
			outcome = err.Error()
		}
		log.InfoContext(ctx, "audit", "action", action, "subject", subject, "outcome", outcome)
	}))
	mux.Handle("/", door)
	return mux, nil
}

// checkStore evaluates every part's invariants on a store that no server has open.
func checkStore(ctx context.Context, e store.Engine) (findings []storetool.Finding, err error) {
	report, err := check.Run(ctx, store.New(e, store.Options{Tenant: storeTenant}), invariants())
	for _, f := range report.Findings {
		findings = append(findings, storetool.Finding{Statement: f.Invariant, Subject: f.Subject, Detail: f.Detail})
	}
	return findings, err
}
