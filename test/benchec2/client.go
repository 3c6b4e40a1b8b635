package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/ratelimit"
	"github.com/nimbrel/nimbrel/test/bench"
)

// client is an account at the handler.
type client struct {
	handler   http.Handler
	limited   http.Handler // the same with the server's default limits
	admission *server.Admission
	signer    sigv4.Signer
}

func openClient(ctx context.Context, w *computetest.World, a ids.Account) (*client, error) {
	c := &client{admission: server.NewAdmission(server.AdmissionOptions{Rates: map[server.Class]ratelimit.Rate{
		server.Reads: {PerSecond: 100, Burst: 1000},
	}})}
	var err error
	o := server.Options{
		Account: w.Accounts, Tags: w.Accounts.Tags(), VPC: w.Networks, Image: w.Images, Compute: w.Compute(), Region: computetest.Region,
		Log: slog.New(slog.DiscardHandler),
	}
	if c.handler, err = server.New(o); err != nil {
		return nil, err
	}
	o.Admission = c.admission
	if c.limited, err = server.New(o); err != nil {
		return nil, err
	}
	key, secret, err := w.Accounts.CreateAccessKey(ctx, a)
	if err != nil {
		return nil, err
	}
	c.signer = sigv4.Signer{AccessKeyID: key.ID, Secret: secret, Region: computetest.Region, Service: "ec2"}
	return c, nil
}

// signed is a request that can be sent any number of times.
type signed struct {
	header http.Header
	body   string
}

func (c *client) sign(action string, pairs ...string) (signed, error) {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	s := signed{body: form.Encode()}
	r := s.request()
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	err := c.signer.Sign(r, []byte(s.body), time.Now())
	s.header = r.Header
	return s, err
}

func (s signed) request() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:8773/", strings.NewReader(s.body))
	if s.header != nil {
		r.Header = s.header
	}
	return r
}

// answer is what is looked at of a Describe's answer. It is cut out: decoding a large one takes longer than making it.
type answer struct {
	Instances []string
	Addresses []string
	Next      string
}

func read(body string) answer {
	a := answer{Instances: elements(body, "instanceId"), Addresses: elements(body, "privateIpAddress")}
	if next := elements(body, "nextToken"); len(next) > 0 {
		a.Next = next[0]
	}
	return a
}

func elements(body, name string) (texts []string) {
	for {
		_, rest, found := strings.Cut(body, "<"+name+">")
		if !found {
			return texts
		}
		text, rest, _ := strings.Cut(rest, "<")
		texts, body = append(texts, text), rest
	}
}

// ask times one request, which must succeed.
func (c *client) ask(action string, pairs ...string) (answer, time.Duration, error) {
	s, err := c.sign(action, pairs...)
	if err != nil {
		return answer{}, 0, err
	}
	r, w := s.request(), httptest.NewRecorder()
	begin := time.Now()
	c.handler.ServeHTTP(w, r)
	took := time.Since(begin)
	if w.Code != http.StatusOK {
		return answer{}, 0, fmt.Errorf("%s: %d %s", action, w.Code, w.Body)
	}
	return read(w.Body.String()), took, nil
}

// pages walks through all pages, at least three times 100 of them.
func (c *client) pages(r *bench.Run, o options) error {
	var took []time.Duration
	before := processorTime()
	for walk := 0; walk < 3 || len(took) < 300; walk++ {
		seen, token := 0, []string{"MaxResults", "1000"}
		for {
			a, t, err := c.ask("DescribeInstances", token...)
			if err != nil {
				return err
			}
			took, seen = append(took, t), seen+len(a.Instances)
			if a.Next == "" {
				break
			}
			token = []string{"MaxResults", "1000", "NextToken", a.Next}
		}
		if seen != o.instances {
			return fmt.Errorf("a walk showed %d instances of %d", seen, o.instances)
		}
	}
	processor := bench.Milliseconds(processorTime()-before) / float64(len(took))
	r.Print(bench.Figure{Name: "describe_page_1000_of_100k_p50_ms", Value: bench.Milliseconds(bench.Median(took)), Unit: "ms"})
	r.Print(bench.Figure{Name: "describe_page_1000_of_100k_cpu_ms", Value: processor, Unit: "ms/page"})
	r.AtMost(bench.Figure{
		Name: "describe_page_1000_of_100k_p99_ms", Value: bench.Milliseconds(bench.Quantile(took, 0.99)), Unit: "ms",
		Detail: fmt.Sprintf("pages=%d", len(took)),
	}, pageGoalMs, nil)
	return nil
}

// lookups asks by what has an index.
func (c *client) lookups(r *bench.Run) error {
	first, _, err := c.ask("DescribeInstances", "MaxResults", "5")
	if err != nil {
		return err
	}
	for _, q := range [][]string{{"instance-id", first.Instances[0]}, {"private-ip-address", first.Addresses[0]}, {"tag:batch", "0"}} {
		var took []time.Duration
		for range 100 {
			a, t, err := c.ask("DescribeInstances", "MaxResults", "1000", "Filter.1.Name", q[0], "Filter.1.Value.1", q[1])
			if err != nil {
				return err
			}
			if len(a.Instances) == 0 {
				return fmt.Errorf("nothing by %v", q)
			}
			took = append(took, t)
		}
		name := strings.NewReplacer("-", "_", ":", "_").Replace(q[0])
		r.Print(bench.Figure{Name: "describe_by_" + name + "_of_100k_p99_ms", Value: bench.Milliseconds(bench.Quantile(took, 0.99)), Unit: "ms"})
	}
	return nil
}

// neighbour is another account, with one instance, at the same limited handler.
func (c *client) neighbour(ctx context.Context, w *computetest.World) (*client, error) {
	a, key, secret, err := w.Accounts.Create(ctx, "neighbour")
	if err != nil {
		return nil, err
	}
	network, err := w.Networks.EnsureDefault(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	_, err = w.Compute().RunInstances(ctx, a.ID, compute.RunRequest{Image: w.Image, Type: "nb1.tiny", MinCount: 1, MaxCount: 1})
	if err != nil {
		return nil, fmt.Errorf("launch in %s: %w", network.ID, err)
	}
	out := *c
	out.signer.AccessKeyID, out.signer.Secret = key.ID, secret
	return &out, nil
}

// processorTime is what this process has used of processors. It tells a slow page from one that waited for its turn.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
