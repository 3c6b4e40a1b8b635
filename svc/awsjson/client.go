package awsjson

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Client calls the operations of one service. It is safe for concurrent use.
type Client struct {
	service string
	http    *http.Client
	url     string
}

// NewClient makes a client that posts to baseURL through httpClient, which owns dialing, TLS and timeouts.
func NewClient(service string, httpClient *http.Client, baseURL string) *Client {
	return &Client{service: service, http: httpClient, url: strings.TrimSuffix(baseURL, "/") + "/"}
}

// UnixClient returns an HTTP client whose every connection goes to the unix socket at path. Give NewClient the base URL
// http://localhost with it.
func UnixClient(path string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// Call sends in and reads the answer into out. A failure that the server reported is an *Error.
func (c *Client) Call(ctx context.Context, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", operation, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %w", operation, err)
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("X-Amz-Target", c.service+"."+operation)
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("call %s: %w", operation, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswerBytes+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", operation, err)
	}
	if len(answer) > MaxAnswerBytes {
		return fmt.Errorf("read answer of %s: larger than %d bytes; ask for fewer results", operation, MaxAnswerBytes)
	}
	if response.StatusCode != http.StatusOK {
		return failed(operation, response, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", operation, err)
	}
	return nil
}

// failed reads an error answer; something between client and server may have written one that is not ours.
func failed(operation string, response *http.Response, answer []byte) error {
	e := &Error{Status: response.StatusCode}
	if err := json.Unmarshal(answer, e); err != nil || e.Code == "" {
		return fmt.Errorf("call %s: the server answered %s without an error of the service", operation, response.Status)
	}
	return e
}
