package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/svc/ratelimit"
)

// unread is a client's end that keeps nothing but what it was answered in short.
type unread struct {
	header http.Header
	status int
	bytes  int
}

func (u *unread) Header() http.Header             { return u.header }
func (u *unread) WriteHeader(code int)            { u.status = code }
func (u *unread) FlushError() error               { return nil }
func (u *unread) SetReadDeadline(time.Time) error { return nil }
func (u *unread) Write(p []byte) (int, error) {
	u.bytes += len(p)
	return len(p), nil
}

// benchWorld is a world with n running instances and its handler.
func benchWorld(b *testing.B, n int, edit func(*server.Options)) (http.Handler, func() *http.Request) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	engine := storetest.NewMemory()
	w, err := computetest.Open(ctx, computetest.Options{Engine: engine, Hosts: 4, Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		w.Wait()
		engine.Close()
	})
	if err := w.Widen(ctx, 1_000_000); err != nil {
		b.Fatal(err)
	}
	for at := 0; at < n; at += compute.MaxPerRequest {
		r := w.Request(min(compute.MaxPerRequest, n-at))
		r.InstanceTags = map[string]string{"env": "bench", "batch": fmt.Sprint(at / 1000)}
		if _, err := w.Compute().RunInstances(ctx, w.Account, r); err != nil {
			b.Fatal(err)
		}
	}
	pending := compute.Page{Limit: 1, Where: []compute.Condition{{Property: compute.ByState, Values: []string{compute.Pending.String()}}}}
	if err := w.Await(ctx, func() bool {
		found, _, err := w.Compute().PageInstances(ctx, w.Account, pending)
		return err == nil && len(found) == 0
	}); err != nil {
		b.Fatal(err)
	}
	o := server.Options{
		Account: w.Accounts, Tags: w.Accounts.Tags(), VPC: w.Networks, Image: w.Images, Compute: w.Compute(), Region: computetest.Region,
		Log: slog.New(slog.DiscardHandler),
	}
	edit(&o)
	handler, err := server.New(o)
	if err != nil {
		b.Fatal(err)
	}
	key, secret, err := w.Accounts.CreateAccessKey(ctx, w.Account)
	if err != nil {
		b.Fatal(err)
	}
	body := url.Values{"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}, "MaxResults": {"1000"}}.Encode()
	request := func() *http.Request {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:8773/", strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	first := request()
	first.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	signer := sigv4.Signer{AccessKeyID: key.ID, Secret: secret, Region: computetest.Region, Service: "ec2"}
	if err := signer.Sign(first, []byte(body), time.Now()); err != nil {
		b.Fatal(err)
	}
	return handler, func() *http.Request {
		r := request()
		r.Header = first.Header
		return r
	}
}

// BenchmarkDescribePage is a signed request for a page of 1,000 instances, at the handler.
func BenchmarkDescribePage(b *testing.B) {
	handler, request := benchWorld(b, 3000, func(*server.Options) {})
	w := &unread{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		w.bytes = 0
		if handler.ServeHTTP(w, request()); w.status != http.StatusOK {
			b.Fatal(w.status)
		}
	}
	b.ReportMetric(float64(w.bytes), "bytes/page")
}

// BenchmarkRefused is a signed request of an account that has asked too often.
func BenchmarkRefused(b *testing.B) {
	handler, request := benchWorld(b, 1, func(o *server.Options) {
		o.Admission = server.NewAdmission(server.AdmissionOptions{Rates: map[server.Class]ratelimit.Rate{
			server.Reads: {PerSecond: 1e-9, Burst: 1},
		}})
	})
	w := &unread{header: http.Header{}}
	handler.ServeHTTP(w, request())
	b.ReportAllocs()
	for b.Loop() {
		if handler.ServeHTTP(w, request()); w.status != http.StatusServiceUnavailable {
			b.Fatal(w.status)
		}
	}
}
