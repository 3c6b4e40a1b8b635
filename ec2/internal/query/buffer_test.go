package query

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/internal/env"
)

// echo answers with a page as large as its token says, of nothing but that, or refuses.
type echo struct{ ec2gen.Unsupported }

func (echo) DescribeInstances(_ context.Context, in *ec2gen.DescribeInstancesInput) (*ec2gen.DescribeInstancesOutput, error) {
	var n int
	if _, err := fmt.Sscan(*in.NextToken, &n); err != nil || n%7 == 0 {
		return nil, errs.Invalid("NextToken", *in.NextToken, "It is one of those.")
	}
	return &ec2gen.DescribeInstancesOutput{NextToken: new(strings.Repeat(*in.NextToken+" ", n))}, nil
}

// TestAnswersDoNotMix sends large and small requests, at once, whose memory is used again: each gets its own answer.
func TestAnswersDoNotMix(t *testing.T) {
	handler, err := New(Options{API: echo{}, Auth: anyone{}, Env: env.System(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 40 {
				n := (worker*40+i)*97%30_000 + 1
				form := url.Values{"Action": {"DescribeInstances"}, "Version": {Version}, "NextToken": {fmt.Sprint(n)}}
				answer, err := http.PostForm(server.URL, form)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				want := "<nextToken>" + strings.Repeat(fmt.Sprint(n)+" ", n) + "</nextToken>"
				if n%7 == 0 {
					want = fmt.Sprintf("Value (%d)", n)
				}
				if err != nil || !strings.Contains(string(body), want) {
					t.Errorf("%d bytes are not the answer to %d: %v", len(body), n, err)
				}
			}
		})
	}
	group.Wait()
}
