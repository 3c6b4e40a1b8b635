package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/internal/ids"
	operatordoor "github.com/nimbrel/nimbrel/operator/server"
)

// operatorAccount owns the images that operators import for everyone. Accounts of tenants never begin with 0.
const operatorAccount ids.Account = "000000000001"

// operators is the operators' door.
func (c *controlPlane) operators(f *serverFlags, log *slog.Logger) (http.Handler, error) {
	return operatordoor.New(operatordoor.Options{
		Account: c.accounts, VPC: c.networks, Image: c.images, Uploads: c.images, Compute: c.compute, DB: c.db,
		Joiner: joiner{plane: c, address: f.link}, OpenStream: c.link.OpenStream, Targets: c.link.Targets,
		Check:    func(ctx context.Context) (check.Report, error) { return check.Run(ctx, c.db, invariants()) },
		Operator: operatorAccount, Version: version, Region: f.region, Endpoint: "http://" + f.listen, Started: c.started,
		Health: []operatordoor.Health{{Name: "host link", Probe: func(context.Context) (string, error) { return "", c.ready() }}},
		Log:    log,
	})
}
