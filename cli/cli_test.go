package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// fakeAPI answers from fields; calls that a test does not expect crash it.
type fakeAPI struct {
	operatorgen.API
	hosts    []operatorgen.Host
	findings []operatorgen.Finding
}

func (f fakeAPI) ListHosts(_ context.Context, in *operatorgen.ListHostsInput) (*operatorgen.ListHostsOutput, error) {
	// One host a page, so that the client has to turn pages.
	i := 0
	if in.NextToken != "" {
		i = int(in.NextToken[0] - '0')
	}
	out := &operatorgen.ListHostsOutput{Hosts: f.hosts[i : i+1]}
	if i+1 < len(f.hosts) {
		out.NextToken = string(rune('0' + i + 1))
	}
	return out, nil
}

func (f fakeAPI) RunCheck(context.Context, *operatorgen.RunCheckInput) (*operatorgen.RunCheckOutput, error) {
	return &operatorgen.RunCheckOutput{Findings: f.findings, Counts: []operatorgen.CheckCount{{Invariant: "quota", Checked: 3}}}, nil
}

func (f fakeAPI) GetStatus(context.Context, *operatorgen.GetStatusInput) (*operatorgen.GetStatusOutput, error) {
	return &operatorgen.GetStatusOutput{Version: "v", Region: "us-nimbrel-1", Endpoint: "http://127.0.0.1:8773", Driver: operatorgen.DriverFake, Simulated: true, Components: []operatorgen.Component{}}, nil
}

func serve(t *testing.T, api operatorgen.API) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: awsjson.NewHandler("NimbrelOperator", api, operatorgen.Operations, awsjson.Options{})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

// run runs a command line and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "nimbrel", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands()...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestHostsTurnsPages(t *testing.T) {
	host := func(id string) operatorgen.Host {
		return operatorgen.Host{HostId: id, Zone: "z", State: operatorgen.HostStateUp, Driver: operatorgen.DriverFake, Vcpus: 8, VcpusFree: 7}
	}
	socket := serve(t, fakeAPI{hosts: []operatorgen.Host{host("h-1"), host("h-2"), host("h-3")}})
	text, err := run(t, "hosts", "--socket", socket)
	if err != nil || strings.Count(text, "\n") != 4 || !strings.Contains(text, "h-3") || !strings.Contains(text, "7/8") {
		t.Errorf("table: %v\n%s", err, text)
	}
	text, err = run(t, "hosts", "--socket", socket, "--json")
	var hosts []operatorgen.Host
	if err != nil || json.Unmarshal([]byte(text), &hosts) != nil || len(hosts) != 3 {
		t.Errorf("JSON: %v\n%s", err, text)
	}
}

func TestCheckFails(t *testing.T) {
	text, err := run(t, "check", "--socket", serve(t, fakeAPI{}))
	if err != nil || text != "check quota ok (3 rows)\n" {
		t.Errorf("clean: %v\n%s", err, text)
	}
	text, err = run(t, "check", "--socket", serve(t, fakeAPI{findings: []operatorgen.Finding{{Invariant: "address", Subject: "subnet-1", Detail: "lost"}}}))
	if !errors.Is(err, ErrFindings) || !strings.Contains(text, "check address FAIL subnet-1: lost") {
		t.Errorf("broken: %v\n%s", err, text)
	}
}

func TestNoServerNamesTheFix(t *testing.T) {
	_, err := run(t, "hosts", "--socket", "/nonexistent/socket")
	if err == nil || !strings.Contains(err.Error(), "nimbrel dev up") {
		t.Errorf("error %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	socket := serve(t, fakeAPI{})
	if _, err := run(t, "env", "--socket", socket, "--dir", dir); err == nil || !strings.Contains(err.Error(), "account create") {
		t.Errorf("no credentials: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "credentials"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := run(t, "env", "--socket", socket, "--dir", dir)
	for _, want := range []string{"export AWS_ENDPOINT_URL='http://127.0.0.1:8773'\n", "export AWS_PAGER=''\n", "export AWS_REGION='us-nimbrel-1'\n"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no line %q: %v\n%s", want, err, text)
		}
	}
}

func TestOldAWS(t *testing.T) {
	for version, want := range map[string]bool{
		"aws-cli/2.9.19 Python/3.11.2":  true,
		"aws-cli/2.13.0 Python/3.11.2":  false,
		"aws-cli/1.27.1 Python/3.11.2":  true,
		"aws-cli/1.45.11 Python/3.11.2": false,
		"something else":                false,
	} {
		if got := tooOld(version); got != want {
			t.Errorf("tooOld(%q) = %v", version, got)
		}
	}
}

func TestQuote(t *testing.T) {
	if got := quote(`it's`); got != `'it'\''s'` {
		t.Errorf("quote = %s", got)
	}
}
