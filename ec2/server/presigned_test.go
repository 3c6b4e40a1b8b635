package server_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// TestPresigned sends actions whose signature is in the query: as a client made it, too late, for longer than allowed, and
// with one parameter changed after it was signed.
func TestPresigned(t *testing.T) {
	d := openDoor(t, 1)
	now := time.Now()
	for _, c := range []struct {
		name    string
		at      time.Time
		expires time.Duration
		change  func(string) string
		code    string
	}{
		{"as signed", now, time.Minute, nil, ""},
		{"an hour old, valid for two", now.Add(-time.Hour), 2 * time.Hour, nil, ""},
		{"expired", now.Add(-time.Hour), time.Minute, nil, errs.RequestExpired},
		{"valid for too long", now, 8 * 24 * time.Hour, nil, errs.IncompleteSignature},
		{"another action", now, time.Minute, func(q string) string { return strings.Replace(q, "CreateVpc", "DeleteVpc", 1) }, errs.SignatureDoesNotMatch},
		{"another parameter", now, time.Minute, func(q string) string { return strings.Replace(q, "10.7.0.0", "10.6.0.0", 1) }, errs.SignatureDoesNotMatch},
	} {
		query := url.Values{"Action": {"CreateVpc"}, "Version": {"2016-11-15"}, "CidrBlock": {"10.7.0.0/16"}}
		r, err := http.NewRequestWithContext(d.ctx, http.MethodGet, d.url+"/?"+query.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		signer := sigv4.Signer{AccessKeyID: d.key, Secret: d.secret, Region: computetest.Region, Service: "ec2"}
		if err := signer.Presign(r, c.at, c.expires); err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			r.URL.RawQuery = c.change(r.URL.RawQuery)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		want := "<Code>" + c.code + "</Code>"
		if c.code == "" {
			want = "<vpcId>vpc-"
		}
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s, want %s", c.name, response.StatusCode, body, want)
		}
	}
	if n := len(d.ok("DescribeVpcs", "Filter.1.Name", "cidr", "Filter.1.Value.1", "10.7.0.0/16").all("vpcId")); n == 0 {
		t.Error("nothing was made")
	}
}
