package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	ec2door "github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/svc/obs"
)

// ec2 is the tenants' door.
func (c *controlPlane) ec2(f *serverFlags, requests *prometheus.HistogramVec, log *slog.Logger) (http.Handler, error) {
	return ec2door.New(ec2door.Options{
		Account: c.accounts, Tags: c.accounts.Tags(), VPC: c.networks, Image: c.images, Compute: c.compute,
		Region: f.region, Endpoint: f.listen, Log: log, Admission: c.admission,
		Done: func(r ec2door.Record) {
			requests.WithLabelValues(actionLabel(r.Call.Action), r.Code).Observe(r.Took.Seconds())
		},
	})
}

// ready says whether the control plane can do its work.
func (c *controlPlane) ready() error {
	select {
	case <-c.link.Ready():
		return nil
	default:
		return errors.New("the host link is reading its documents")
	}
}

// close ends the store; everything that used it has ended.
func (c *controlPlane) close(log *slog.Logger) {
	if err := c.engine.Close(); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("close store", obs.KeyError, err)
	}
}
