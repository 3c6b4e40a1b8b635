package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// api is one account's view of the EC2 API.
type api struct {
	endpoint string
	signer   sigv4.Signer
	client   http.Client
}

// refusal is an error answer: the server has decided.
type refusal struct {
	Status  int
	Code    string `xml:"Code"`
	Message string `xml:"Message"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%s (%d): %s", r.Code, r.Status, r.Message) }

// code is a refusal's code; "" for any other error.
func code(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// once sends one request. An error that is no refusal says nothing of what became of it.
func (a *api) once(ctx context.Context, out any, action string, pairs []string) error {
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	body := []byte(form.Encode())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if err := a.signer.Sign(r, body, time.Now()); err != nil {
		return err
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode == http.StatusOK {
		return xml.Unmarshal(raw, out)
	}
	var failure struct {
		Errors []refusal `xml:"Errors>Error"`
	}
	if err := xml.Unmarshal(raw, &failure); err != nil || len(failure.Errors) != 1 {
		return fmt.Errorf("%s: status %s: %s", action, answer.Status, raw)
	}
	failure.Errors[0].Status = answer.StatusCode
	return &failure.Errors[0]
}

// call sends a request until the server decides, as AWS's clients do: an answer that was lost, and one that says to come
// back, are no decision. It gives up when ctx ends.
func (a *api) call(ctx context.Context, out any, action string, pairs ...string) error {
	const patience, pause = 30 * time.Second, 200 * time.Millisecond
	for {
		limited, cancel := context.WithTimeout(ctx, patience)
		err := a.once(limited, out, action, pairs)
		cancel()
		if err == nil {
			return nil
		}
		switch code(err) {
		case "", "RequestLimitExceeded", "ServiceUnavailable", "Unavailable":
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// instance is what the API says of one.
type instance struct {
	ID      string `xml:"instanceId"`
	Address string `xml:"privateIpAddress"`
	Subnet  string `xml:"subnetId"`
	State   string `xml:"instanceState>name"`
}

type runAnswer struct {
	Instances []instance `xml:"instancesSet>item"`
}

type describeAnswer struct {
	Instances []instance `xml:"reservationSet>item>instancesSet>item"`
	Next      string     `xml:"nextToken"`
}

// describe lists instances by id; all of the account's when none is given.
func (a *api) describe(ctx context.Context, ids ...string) ([]instance, error) {
	var pairs []string
	for n, id := range ids {
		pairs = append(pairs, fmt.Sprintf("InstanceId.%d", n+1), id)
	}
	var all []instance
	for next := ""; ; {
		page := pairs
		if next != "" {
			page = append(page[:len(page):len(page)], "NextToken", next)
		}
		var out describeAnswer
		if err := a.call(ctx, &out, "DescribeInstances", page...); err != nil {
			return nil, err
		}
		all = append(all, out.Instances...)
		if next = out.Next; next == "" {
			return all, nil
		}
	}
}
