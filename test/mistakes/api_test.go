package mistakes

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/ec2/sigv4"
)

// apiMistake is a client that is set up wrongly, and what its user must be told.
type apiMistake struct {
	name   string
	edit   func(*sigv4.Signer)
	skew   time.Duration // by which the client's clock is off
	bare   bool          // not signed at all
	status int
	code   string
	want   []string // parts of the message; {…} are replaced
	// cli: the aws CLI can be made to do it. It has no clock of its own, and refuses by itself to go without credentials.
	cli bool
}

var apiTable = []apiMistake{
	{name: "access key of another cloud", edit: func(s *sigv4.Signer) { s.AccessKeyID = "AKIAIOSFODNN7EXAMPLE" }, status: 401, code: "AuthFailure", cli: true,
		want: []string{"not able to validate the provided access credentials", "This cloud knows its own access keys only", "nimbrel env"}},
	{name: "secret of another key", edit: func(s *sigv4.Signer) { s.Secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }, status: 403, code: "SignatureDoesNotMatch", cli: true,
		want: []string{"Check your AWS Secret Access Key", "{key}", "nimbrel env"}},
	{name: "session token of a long-term key", edit: func(s *sigv4.Signer) { s.SessionToken = "token" }, status: 401, code: "AuthFailure", cli: true,
		want: []string{"not able to validate", "nimbrel env"}},
	{name: "wrong region", edit: func(s *sigv4.Signer) { s.Region = "eu-central-1" }, status: 403, code: "SignatureDoesNotMatch", cli: true,
		want: []string{"valid region", "'eu-central-1'", "AWS_DEFAULT_REGION", "--region to us-nimbrel-1"}},
	{name: "another service", edit: func(s *sigv4.Signer) { s.Service = "s3" }, status: 403, code: "SignatureDoesNotMatch",
		want: []string{"a service of this endpoint", "'s3'"}},
	{name: "clock behind", skew: -20 * time.Minute, status: 400, code: "RequestExpired",
		want: []string{"Current date is ", " are 20m", "set the one that is wrong"}},
	{name: "clock ahead", skew: 26*time.Hour + 30*time.Minute, status: 400, code: "RequestExpired", want: []string{" are 26h", "set the one that is wrong"}},
	{name: "no credentials sent", bare: true, status: 403, code: "MissingAuthenticationToken", want: []string{"missing Authentication Token", "nimbrel env"}},
}

// TestAPIMistakes makes each mistake of a client's settings, with a request signed here and, where it can, with the aws CLI.
func TestAPIMistakes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program that is run is Linux's")
	}
	cloud := startCloud(t)
	made := cloud.must(t, "account create second --socket {socket} --json")
	right := sigv4.Signer{AccessKeyID: between(t, made, `"accessKeyId": "`, `"`), Secret: between(t, made, `"secretAccessKey": "`, `"`), Region: "us-nimbrel-1", Service: "ec2"}
	endpoint := "http://" + cloud.values["{taken}"]
	if status, said := ask(t, endpoint, apiMistake{}, right); status != http.StatusOK {
		t.Fatalf("no mistake is answered %d: %s", status, said)
	}
	for _, m := range apiTable {
		t.Run(m.name, func(t *testing.T) {
			signer := right
			if m.edit != nil {
				m.edit(&signer)
			}
			status, said := ask(t, endpoint, m, signer)
			var answer struct {
				Code    string `xml:"Errors>Error>Code"`
				Message string `xml:"Errors>Error>Message"`
			}
			if err := xml.Unmarshal(said, &answer); err != nil || status != m.status || answer.Code != m.code {
				t.Errorf("answered %d %s, want %d %s: %v: %s", status, answer.Code, m.status, m.code, err, said)
			}
			m.told(t, answer.Message, right)
			if m.cli {
				said := byCLI(t, endpoint, signer)
				m.told(t, said, right)
				if !strings.Contains(said, "("+m.code+")") {
					t.Errorf("the aws CLI does not tell %s: %s", m.code, said)
				}
			}
		})
	}
}

func (m apiMistake) told(t *testing.T, said string, right sigv4.Signer) {
	t.Helper()
	for _, want := range m.want {
		if want = strings.ReplaceAll(want, "{key}", right.AccessKeyID); !strings.Contains(said, want) {
			t.Errorf("no %q in: %s", want, said)
		}
	}
	if strings.Contains(said, right.Secret) {
		t.Errorf("the secret is told: %s", said)
	}
}

// ask sends one request, by a client whose clock may be off.
func ask(t *testing.T, endpoint string, m apiMistake, signer sigv4.Signer) (status int, answer []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	body := []byte("Action=DescribeVpcs&Version=2016-11-15")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if !m.bare {
		if err := signer.Sign(r, body, time.Now().Add(m.skew)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if answer, err = io.ReadAll(got.Body); err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, answer
}

// byCLI has the aws CLI make the request, and returns what it prints. Where there is none, the request signed here stands
// for it.
func byCLI(t *testing.T, endpoint string, signer sigv4.Signer) string {
	t.Helper()
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("the aws CLI is not installed; the request signed here has been looked at")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "ec2", "describe-vpcs", "--endpoint-url", endpoint)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+signer.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+signer.Secret, "AWS_DEFAULT_REGION="+signer.Region,
		"AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1")
	if signer.SessionToken != "" {
		cmd.Env = append(cmd.Env, "AWS_SESSION_TOKEN="+signer.SessionToken)
	}
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Fatalf("the aws CLI succeeds, or goes on: %v: %s", ctx.Err(), out)
	}
	return string(out)
}
