package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/xml"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store/storetest"
)

// door is the EC2 port of a world of real parts and fake hosts, and a client of it.
type door struct {
	*computetest.World
	t           *testing.T
	ctx         context.Context
	url         string
	key, secret string
	log         *logBuffer
}

// logBuffer collects log lines. An Error-level one fails the test that did not expect it.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// openDoor opens a world with n hosts. At its end all invariants hold and nothing was logged as an error.
func openDoor(t *testing.T, hosts int, edit ...func(*server.Options)) *door {
	t.Helper()
	engine := storetest.NewMemory()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	world, err := computetest.Open(ctx, computetest.Options{Engine: engine, Hosts: hosts, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	d := &door{World: world, t: t, ctx: ctx, log: new(logBuffer)}
	if key, secret, err := world.Accounts.CreateAccessKey(ctx, world.Account); err == nil {
		d.key, d.secret = key.ID, secret
	} else {
		t.Fatal(err)
	}
	d.url = d.serve(edit...)
	t.Cleanup(func() {
		report, err := world.Check(ctx)
		if err != nil || !report.Clean() {
			t.Errorf("check: %v, %v", err, report.Findings)
		}
		if text := d.log.String(); strings.Contains(text, "level=ERROR") {
			t.Errorf("log: %s", text)
		}
		cancel()
		world.Wait()
		engine.Close()
	})
	return d
}

func (d *door) serve(edit ...func(*server.Options)) string {
	d.t.Helper()
	o := server.Options{
		Account: d.Accounts, Tags: d.Accounts.Tags(), VPC: d.Networks, Image: d.Images, Compute: d.Compute(), Region: computetest.Region,
		Log: slog.New(slog.NewTextHandler(d.log, nil)),
	}
	for _, fn := range edit {
		fn(&o)
	}
	handler, err := server.New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	listener := httptest.NewServer(handler)
	d.t.Cleanup(listener.Close)
	return listener.URL
}

// as is the same door for another account.
func (d *door) as(name string) *door {
	d.t.Helper()
	_, key, secret, err := d.Accounts.Create(d.ctx, name)
	if err != nil {
		d.t.Fatal(err)
	}
	other := *d
	other.key, other.secret = key.ID, secret
	return &other
}

// answer is what came back.
type answer struct {
	t      *testing.T
	action string
	status int
	code   string // of the error
	text   string // of the error's message
	body   string

	retryAfter string
}

// call sends a signed request. pairs are names and values.
func (d *door) call(action string, pairs ...string) answer {
	d.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	body := form.Encode()
	r, err := http.NewRequestWithContext(d.ctx, http.MethodPost, d.url+"/", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	signer := sigv4.Signer{AccessKeyID: d.key, Secret: d.secret, Region: computetest.Region, Service: "ec2"}
	if err := signer.Sign(r, []byte(body), time.Now()); err != nil {
		d.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	a := answer{t: d.t, action: action, status: response.StatusCode, body: string(raw), retryAfter: response.Header.Get("Retry-After")}
	if response.StatusCode != http.StatusOK {
		var e struct {
			Code    string `xml:"Errors>Error>Code"`
			Message string `xml:"Errors>Error>Message"`
		}
		if err := xml.Unmarshal(raw, &e); err != nil {
			d.t.Fatalf("%s: %v in %s", action, err, raw)
		}
		a.code, a.text = e.Code, e.Message
	}
	return a
}

// ok is call for a request that must succeed.
func (d *door) ok(action string, pairs ...string) answer {
	d.t.Helper()
	a := d.call(action, pairs...)
	if a.status != http.StatusOK {
		d.t.Fatalf("%s %v: %s: %s", action, pairs, a.code, a.text)
	}
	return a
}

// refused is call for a request that must be answered with code.
func (d *door) refused(code, action string, pairs ...string) answer {
	d.t.Helper()
	a := d.call(action, pairs...)
	if a.code != code {
		d.t.Errorf("%s %v: got %d %q %s, want %s", action, pairs, a.status, a.code, a.text, code)
	}
	return a
}

// all returns the text of every element of a name, in document order.
func (a answer) all(name string) []string {
	var list []string
	for _, part := range strings.Split(a.body, "<"+name+">")[1:] {
		text, _, _ := strings.Cut(part, "</"+name+">")
		list = append(list, text)
	}
	return list
}

// one returns the text of the only such element.
func (a answer) one(name string) string {
	a.t.Helper()
	list := a.all(name)
	if len(list) != 1 {
		a.t.Fatalf("%s: %d elements %s in %s", a.action, len(list), name, a.body)
	}
	return list[0]
}

// first returns the text of the first such element.
func (a answer) first(name string) string {
	a.t.Helper()
	list := a.all(name)
	if len(list) == 0 {
		a.t.Fatalf("%s: no element %s in %s", a.action, name, a.body)
	}
	return list[0]
}

func (a answer) has(text string) {
	a.t.Helper()
	if !strings.Contains(a.body, text) {
		a.t.Errorf("%s: no %s in %s", a.action, text, a.body)
	}
}

// await asks until the answer holds text. Each Describe sees all that was committed before, so this follows the store.
func (d *door) await(text, action string, pairs ...string) answer {
	d.t.Helper()
	var last answer
	err := d.Await(d.ctx, func() bool {
		last = d.ok(action, pairs...)
		return strings.Contains(last.body, text)
	})
	if err != nil {
		d.t.Fatalf("%s: %v: no %s in %s", action, err, text, last.body)
	}
	return last
}

// missing is a well-formed id of nothing.
func missing[T ids.ID]() string { return string(ids.New[T](rand.Reader)) }
