package upload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Client is a Service at the other end of HTTP.
type Client struct {
	HTTP *http.Client
	URL  string // of the operators' endpoint, without a path
}

var _ Service = (*Client)(nil)

// do sends one request and hands a good answer to read.
func (c *Client) do(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, method, c.URL+Path+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := c.HTTP.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return read(answer.Body)
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, messageMax))
	return remote(strings.TrimSpace(string(text)), answer.StatusCode == http.StatusConflict)
}

func remote(text string, again bool) error {
	if again {
		return fmt.Errorf("%w: %s", ErrBeginAgain, text)
	}
	return errors.New(text)
}

// Begin implements Service.
func (c *Client) Begin(ctx context.Context, size uint64, sums []byte) (begun Begun, err error) {
	body, err := json.Marshal(begin{Bytes: size, Sums: sums})
	if err != nil {
		return begun, err
	}
	err = c.do(ctx, http.MethodPost, "begin", body, func(r io.Reader) error { return json.NewDecoder(r).Decode(&begun) })
	return begun, err
}

// Put implements Service.
func (c *Client) Put(ctx context.Context, id string, index uint32, data []byte) error {
	return c.do(ctx, http.MethodPut, "chunk/"+id+"/"+strconv.FormatUint(uint64(index), 10), data, func(r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

// Finish implements Service.
func (c *Client) Finish(ctx context.Context, id string, f Finish, progress func(done, total uint64)) (result Result, err error) {
	body, err := json.Marshal(f)
	if err != nil {
		return result, err
	}
	err = c.do(ctx, http.MethodPost, "finish/"+id, body, func(r io.Reader) error {
		for lines := json.NewDecoder(r); ; {
			var e event
			if err := lines.Decode(&e); err != nil {
				return fmt.Errorf("the server stopped while it converted the image; import it again: %w", err)
			}
			switch {
			case e.Error != "":
				return remote(e.Error, e.Again)
			case e.Result != nil:
				result = *e.Result
				return nil
			}
			progress(e.Done, e.Total)
		}
	})
	return result, err
}
