package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
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
	last      reply         // to ask, which is called once at a time
	used      time.Duration // of processors, by the process while ask waited for answers
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
	s := signed{body: form.Encode(), header: http.Header{}}
	r := s.request()
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	err := c.signer.Sign(r, []byte(s.body), time.Now())
	return s, err
}

func (s signed) request() *http.Request {
	body := strings.NewReader(s.body)
	return &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/"}, Host: "127.0.0.1:8773", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: s.header, Body: io.NopCloser(body), ContentLength: body.Size(),
	}
}

// reply takes an answer, as a connection would: copied once, into memory that is there.
type reply struct {
	header http.Header
	code   int
	body   []byte
	unread bool // only the code counts
}

func (w *reply) Header() http.Header             { return w.header }
func (w *reply) WriteHeader(code int)            { w.code = code }
func (w *reply) FlushError() error               { return nil }
func (w *reply) SetReadDeadline(time.Time) error { return nil }
func (w *reply) Write(p []byte) (int, error) {
	if !w.unread {
		w.body = append(w.body, p...)
	}
	return len(p), nil
}

// send gives a request to a handler. What w had is gone.
func (w *reply) send(h http.Handler, s signed) {
	if w.header == nil {
		w.header = http.Header{}
	}
	clear(w.header)
	w.body = w.body[:0]
	h.ServeHTTP(w, s.request())
}

// replies are for those whose answers only count.
var replies = sync.Pool{New: func() any { return &reply{unread: true} }}

// count sends a request and returns its answer's code.
func (s signed) count(h http.Handler) int {
	w := replies.Get().(*reply)
	defer replies.Put(w)
	w.send(h, s)
	return w.code
}

// answer is what is looked at of a Describe's answer. It is cut out: decoding a large one takes longer than making it.
type answer struct {
	Instances []string
	Addresses []string
	Next      string
}

func read(body []byte) answer {
	a := answer{Instances: elements(body, "instanceId"), Addresses: elements(body, "privateIpAddress")}
	if next := elements(body, "nextToken"); len(next) > 0 {
		a.Next = next[0]
	}
	return a
}

func elements(body []byte, name string) (texts []string) {
	begin := []byte("<" + name + ">")
	for {
		_, rest, found := bytes.Cut(body, begin)
		if !found {
			return texts
		}
		end := bytes.IndexByte(rest, '<')
		texts, body = append(texts, string(rest[:end])), rest[end:]
	}
}

// ask times one request, which must succeed.
func (c *client) ask(action string, pairs ...string) (answer, time.Duration, error) {
	s, err := c.sign(action, pairs...)
	if err != nil {
		return answer{}, 0, err
	}
	before, begin := processorTime(), time.Now()
	c.last.send(c.handler, s)
	took := time.Since(begin)
	c.used += processorTime() - before
	if c.last.code != http.StatusOK {
		return answer{}, 0, fmt.Errorf("%s: %d %s", action, c.last.code, c.last.body)
	}
	return read(c.last.body), took, nil
}

// pages walks through all pages, at least three times 100 of them.
func (c *client) pages(r *bench.Run, o options) error {
	var took []time.Duration
	c.used = 0
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
	name := "describe_page_1000_of_" + o.size()
	r.Print(bench.Figure{Name: name + "_p50_ms", Value: bench.Milliseconds(bench.Median(took)), Unit: "ms"})
	r.Print(bench.Figure{Name: name + "_cpu_ms", Value: bench.Milliseconds(c.used) / float64(len(took)), Unit: "ms/page"})
	p99 := bench.Figure{Name: name + "_p99_ms", Value: bench.Milliseconds(bench.Quantile(took, 0.99)), Unit: "ms", Detail: fmt.Sprintf("pages=%d", len(took))}
	r.AtMost(p99, pageGoalMs, nil)
	return nil
}

// lookups asks by what has an index.
func (c *client) lookups(r *bench.Run, o options) error {
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
		r.Print(bench.Figure{Name: "describe_by_" + name + "_of_" + o.size() + "_p99_ms", Value: bench.Milliseconds(bench.Quantile(took, 0.99)), Unit: "ms"})
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
	out := client{handler: c.handler, limited: c.limited, admission: c.admission, signer: c.signer}
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
