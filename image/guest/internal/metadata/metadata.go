// Package metadata is the guest's client of the EC2 instance metadata service, version 2 (with a session token).
//
// Deliberately absent: version 1, credentials, and caching: the guest asks once per boot.
package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	// DefaultURL is where EC2 serves it.
	DefaultURL = "http://169.254.169.254"

	// maxBody bounds a response: user data is at most 16 KiB, in EC2 and here.
	maxBody = 1 << 20
	// tokenSeconds is the longest life that EC2 grants a token.
	tokenSeconds   = "21600"
	requestTimeout = 5 * time.Second
)

// ErrNotFound says that the service has no such item, which is an answer and not a fault.
var ErrNotFound = errors.New("no such metadata")

// StatusError is any other answer than 200 and 404.
type StatusError struct {
	Path   string
	Status int
}

func (e *StatusError) Error() string { return fmt.Sprintf("metadata %s: status %d", e.Path, e.Status) }

// Client talks to one service. It gets a token with the first request, and a new one when that is refused. It is not
// safe for concurrent use.
type Client struct {
	url   string
	token string
	http  http.Client
}

// NewClient returns a client of the service at url, without a path. The metadata service is never behind a proxy.
func NewClient(url string) *Client {
	return &Client{url: strings.TrimSuffix(url, "/"), http: http.Client{
		Timeout:   requestTimeout,
		Transport: &http.Transport{DisableKeepAlives: true},
	}}
}

// Get returns the status and body at a path such as "latest/meta-data/instance-id". A path without a version gets
// "latest/" before it.
func (c *Client) Get(ctx context.Context, path string) (status int, body []byte, err error) {
	path = strings.TrimPrefix(path, "/")
	if first, _, _ := strings.Cut(path, "/"); first == "meta-data" || first == "user-data" || first == "dynamic" {
		path = "latest/" + path
	}
	for range 2 {
		if c.token == "" {
			if err := c.renew(ctx); err != nil {
				return 0, nil, err
			}
		}
		status, body, err = c.do(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", c.token)
		if status != http.StatusUnauthorized {
			break
		}
		c.token = ""
	}
	return status, body, err
}

// Text returns the body at a path of "latest/", ErrNotFound, or a StatusError.
func (c *Client) Text(ctx context.Context, path string) (string, error) {
	status, body, err := c.Get(ctx, "latest/"+path)
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", ErrNotFound
	case status != http.StatusOK:
		return "", &StatusError{Path: path, Status: status}
	}
	return string(body), nil
}

func (c *Client) renew(ctx context.Context) error {
	status, body, err := c.do(ctx, http.MethodPut, "latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", tokenSeconds)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return &StatusError{Path: "api/token", Status: status}
	}
	c.token = strings.TrimSpace(string(body))
	return nil
}

func (c *Client) do(ctx context.Context, method, path, header, value string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+"/"+path, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("get metadata %s: %w", path, err)
	}
	request.Header.Set(header, value)
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("get metadata %s: %w", path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return 0, nil, fmt.Errorf("get metadata %s: %w", path, err)
	}
	if len(body) > maxBody {
		return 0, nil, fmt.Errorf("get metadata %s: body is longer than %d bytes", path, maxBody)
	}
	return response.StatusCode, body, nil
}
