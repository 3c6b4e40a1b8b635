package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

// api is one account's view of the EC2 API.
type api struct{ *devcloud.API }

// patience is how long one request may take.
const patience = 30 * time.Second

// call sends a request until the server decides, as AWS's clients do: an answer that was lost, and one that says to come
// back, are no decision. It gives up when ctx ends.
func (a *api) call(ctx context.Context, out any, action string, pairs ...string) error {
	for {
		_, err := a.Call(ctx, out, action, pairs...)
		if err == nil {
			return nil
		}
		switch devcloud.Code(err) {
		case "", "RequestLimitExceeded", "ServiceUnavailable", "Unavailable":
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// describe lists instances by id; all of the account's when none is given.
func (a *api) describe(ctx context.Context, ids ...string) ([]devcloud.Instance, error) {
	var pairs []string
	for n, id := range ids {
		pairs = append(pairs, fmt.Sprintf("InstanceId.%d", n+1), id)
	}
	var all []devcloud.Instance
	for next := ""; ; {
		page := pairs
		if next != "" {
			page = append(page[:len(page):len(page)], "NextToken", next)
		}
		var out devcloud.Described
		if err := a.call(ctx, &out, "DescribeInstances", page...); err != nil {
			return nil, err
		}
		all = append(all, out.Instances...)
		if next = out.Next; next == "" {
			return all, nil
		}
	}
}
