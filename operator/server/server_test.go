package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computetest"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/operator/server"
	"github.com/nimbrel/nimbrel/operator/stream"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// operatorAccount owns public images.
const operatorAccount = "100000000001"

// office is the operators' endpoint of a world of real parts and fake hosts.
type office struct {
	*computetest.World
	operatorgen.API
	t    *testing.T
	ctx  context.Context
	addr string
	log  *logBuffer
}

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

type joiner struct{ now time.Time }

func (j joiner) CreateToken(_ context.Context, role string, known ids.Host, ttl time.Duration) (string, time.Time, error) {
	return role + "-token" + string(known), j.now.Add(ttl), nil
}
func (joiner) Fingerprint() string { return "abcd" }
func (joiner) Address() string     { return "192.0.2.1:8774" }

// echo stands for a host: it says which stream was asked for, then repeats what it is sent.
func echo(_ context.Context, target, name string, header []byte) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		what := name
		if name == host.StreamDial {
			if r, err := host.Decode[host.DialRequest](header); err == nil {
				what += " " + string(r.Instance)
			}
		}
		if _, err := io.WriteString(there, target+" "+what+"\n"); err == nil {
			io.Copy(there, there) //nolint:errcheck // ends with the test
		}
	}()
	return here, nil
}

var started = time.Now().Add(-time.Minute)

func openOffice(t *testing.T, hosts int) *office {
	t.Helper()
	engine := storetest.NewMemory()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	world, err := computetest.Open(ctx, computetest.Options{Engine: engine, Hosts: hosts, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	o := &office{World: world, t: t, ctx: ctx, log: new(logBuffer)}
	handler, err := server.New(server.Options{
		Account: world.Accounts, VPC: world.Networks, Image: world.Images, Compute: world.Compute(), DB: world.DB, Joiner: joiner{started},
		OpenStream: echo, Check: func(ctx context.Context) (check.Report, error) { return world.Check(ctx) }, Operator: operatorAccount,
		Version: "v1", Region: computetest.Region, Endpoint: "http://127.0.0.1:8773", Started: started, Log: slog.New(slog.NewTextHandler(o.log, nil)),
		Health: []server.Health{
			{Name: "store", Probe: func(context.Context) (string, error) { return "fine", nil }},
			{Name: "link", Probe: func(context.Context) (string, error) { return "", errors.New("cut") }},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(handler)
	o.addr = listener.Listener.Addr().String()
	o.API = operatorgen.NewClient(listener.Client(), listener.URL)
	t.Cleanup(func() {
		listener.Close()
		if text := o.log.String(); strings.Contains(text, "level=ERROR") {
			t.Errorf("log: %s", text)
		}
		cancel()
		world.Wait()
		engine.Close()
	})
	return o
}

// must is the answer of a call that must succeed.
func must[T any](t *testing.T) func(out T, err error) T {
	return func(out T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if awsjson.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestLists(t *testing.T) {
	o := openOffice(t, 3)
	made := must[*operatorgen.CreateAccountOutput](t)(o.CreateAccount(o.ctx, &operatorgen.CreateAccountInput{Name: "second"}))
	if made.SecretAccessKey == "" || made.AccessKeyId == "" {
		t.Errorf("got %+v", made)
	}
	_, err := o.CreateAccount(o.ctx, &operatorgen.CreateAccountInput{Name: "second"})
	wantCode(t, err, operatorgen.CodeConflict)
	if text := err.Error(); !strings.Contains(text, `"second" already exists`) || strings.Contains(text, "guard") {
		t.Errorf("an operator reads %q", text)
	}

	launched, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Await(o.ctx, func() bool {
		out, err := o.ListInstances(o.ctx, &operatorgen.ListInstancesInput{State: operatorgen.InstanceStateRunning})
		return err == nil && len(out.Instances) == 3
	}); err != nil {
		t.Fatal(err)
	}
	hosts := must[*operatorgen.ListHostsOutput](t)(o.ListHosts(o.ctx, &operatorgen.ListHostsInput{MaxResults: new(int32(2))}))
	rest := must[*operatorgen.ListHostsOutput](t)(o.ListHosts(o.ctx, &operatorgen.ListHostsInput{MaxResults: new(int32(2)), NextToken: hosts.NextToken}))
	if len(hosts.Hosts) != 2 || len(rest.Hosts) != 1 || rest.NextToken != "" || hosts.Hosts[0].State != operatorgen.HostStateUp || hosts.Hosts[0].Driver != operatorgen.DriverFake {
		t.Errorf("hosts %+v and %+v", hosts, rest)
	}
	none := must[*operatorgen.ListInstancesOutput](t)(o.ListInstances(o.ctx, &operatorgen.ListInstancesInput{AccountId: made.AccountId}))
	if len(none.Instances) != 0 {
		t.Errorf("another account's instances: %+v", none)
	}
	operations := must[*operatorgen.ListOperationsOutput](t)(o.ListOperations(o.ctx, &operatorgen.ListOperationsInput{Subject: string(launched.Instances[0].ID)}))
	if len(operations.Operations) != 1 || operations.Operations[0].Kind != "RunInstances" {
		t.Errorf("operations %+v", operations)
	}
	page := must[*operatorgen.ListOperationsOutput](t)(o.ListOperations(o.ctx, &operatorgen.ListOperationsInput{MaxResults: new(int32(2))}))
	last := must[*operatorgen.ListOperationsOutput](t)(o.ListOperations(o.ctx, &operatorgen.ListOperationsInput{MaxResults: new(int32(2)), NextToken: page.NextToken}))
	if len(page.Operations) != 2 || len(last.Operations) != 1 || last.NextToken != "" || page.Operations[1].OperationId <= last.Operations[0].OperationId {
		t.Errorf("pages of operations %+v and %+v", page, last)
	}
	console := must[*operatorgen.DescribeInstanceConsoleOutput](t)(o.DescribeInstanceConsole(o.ctx, &operatorgen.DescribeInstanceConsoleInput{InstanceId: string(launched.Instances[0].ID)}))
	if !strings.HasPrefix(string(console.Output), "console of host/") || console.Truncated {
		t.Errorf("console %q", console.Output)
	}
	_, err = o.DescribeInstanceConsole(o.ctx, &operatorgen.DescribeInstanceConsoleInput{InstanceId: "i-0123456789abcdef0"})
	wantCode(t, err, operatorgen.CodeNotFound)
}

func TestAccountsAndQuotas(t *testing.T) {
	o := openOffice(t, 1)
	out := must[*operatorgen.SetQuotaOutput](t)(o.API.SetQuota(o.ctx, &operatorgen.SetQuotaInput{AccountId: string(o.Account), Name: "vcpu", Value: 7}))
	if out.Left != 7 {
		t.Errorf("left %d", out.Left)
	}
	_, err := o.API.SetQuota(o.ctx, &operatorgen.SetQuotaInput{AccountId: string(o.Account), Name: "no-such", Value: 7})
	wantCode(t, err, operatorgen.CodeInvalidInput)
	_, err = o.API.SetQuota(o.ctx, &operatorgen.SetQuotaInput{AccountId: "999999999999", Name: "vcpu", Value: 7})
	wantCode(t, err, operatorgen.CodeNotFound)
	accounts := must[*operatorgen.ListAccountsOutput](t)(o.ListAccounts(o.ctx, &operatorgen.ListAccountsInput{}))
	found := false
	for _, q := range accounts.Accounts[0].Quotas {
		found = found || (q.Name == "vcpu" && q.Limit == 7)
	}
	if len(accounts.Accounts) != 1 || len(accounts.Accounts[0].AccessKeyIds) != 1 || !found {
		t.Errorf("accounts %+v", accounts)
	}
	token := must[*operatorgen.CreateJoinTokenOutput](t)(o.CreateJoinToken(o.ctx, &operatorgen.CreateJoinTokenInput{Role: operatorgen.JoinRoleHost}))
	if token.Token != "host-token" || token.ExpiresAtMs != started.Add(time.Hour).UnixMilli() || token.CaFingerprint != "abcd" {
		t.Errorf("token %+v", token)
	}
	again := must[*operatorgen.CreateJoinTokenOutput](t)(o.CreateJoinToken(o.ctx, &operatorgen.CreateJoinTokenInput{Role: operatorgen.JoinRoleHost, HostId: "fake-0"}))
	if want := "host-token" + string(computetest.Info(0, computetest.Zone).ID); again.Token != want {
		t.Errorf("token of a known host %s, want %s", again.Token, want)
	}
	_, err = o.CreateJoinToken(o.ctx, &operatorgen.CreateJoinTokenInput{Role: operatorgen.JoinRoleHost, HostId: "no-such"})
	wantCode(t, err, operatorgen.CodeNotFound)
	if log := o.log.String(); strings.Count(log, "msg=audit") != 5 || strings.Contains(log, "host-token") {
		t.Errorf("audit log: %s", log)
	}
}

func TestImages(t *testing.T) {
	o := openOffice(t, 1)
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(disk, bytes.Repeat([]byte("disk"), 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	made := must[*operatorgen.ImportImageOutput](t)(o.ImportImage(o.ctx, &operatorgen.ImportImageInput{Path: disk, Name: "guest"}))
	images := must[*operatorgen.ListImagesOutput](t)(o.ListImages(o.ctx, &operatorgen.ListImagesInput{}))
	found := false
	for _, i := range images.Images {
		found = found || (i.ImageId == made.ImageId && i.Public && i.AccountId == operatorAccount && i.SizeBytes == 4096)
	}
	if len(images.Images) != 2 || !found {
		t.Errorf("images %+v", images)
	}
	_, err := o.ImportImage(o.ctx, &operatorgen.ImportImageInput{Path: "disk.raw", Name: "guest"})
	wantCode(t, err, operatorgen.CodeInvalidInput)
	_, err = o.ImportImage(o.ctx, &operatorgen.ImportImageInput{Path: disk, Name: "guest", AccountId: "999999999999"})
	wantCode(t, err, operatorgen.CodeNotFound)
}

func TestStatusAndCheck(t *testing.T) {
	o := openOffice(t, 1)
	status := must[*operatorgen.GetStatusOutput](t)(o.GetStatus(o.ctx, &operatorgen.GetStatusInput{}))
	if !status.Simulated || status.Driver != operatorgen.DriverFake || status.UptimeMs < 60_000 || len(status.Components) != 2 ||
		!status.Components[0].Healthy || status.Components[1].Healthy || status.Components[1].Detail != "cut" {
		t.Errorf("status %+v", status)
	}
	report := must[*operatorgen.RunCheckOutput](t)(o.RunCheck(o.ctx, &operatorgen.RunCheckInput{}))
	if len(report.Findings) != 0 || len(report.Counts) < 20 || report.Truncated {
		t.Errorf("check %+v", report)
	}
}

// TestRows scans the whole store in pages, and reads each row again by the key as it was printed.
func TestRows(t *testing.T) {
	o := openOffice(t, 1)
	if _, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(1)); err != nil {
		t.Fatal(err)
	}
	if err := o.Await(o.ctx, func() bool {
		out, err := o.ListInstances(o.ctx, &operatorgen.ListInstancesInput{State: operatorgen.InstanceStateRunning})
		return err == nil && len(out.Instances) == 1
	}); err != nil {
		t.Fatal(err)
	}
	seen, hidden, after := 0, 0, ""
	for more := true; more; {
		out := must[*operatorgen.StoreScanOutput](t)(o.StoreScan(o.ctx, &operatorgen.StoreScanInput{After: after, Limit: new(int32(7))}))
		for _, row := range out.Rows {
			got := must[*operatorgen.StoreGetOutput](t)(o.StoreGet(o.ctx, &operatorgen.StoreGetInput{Key: row.Key}))
			if got.Row == nil || got.Row.Key != row.Key {
				t.Errorf("row %s is not found by its key", row.Key)
			}
			if strings.Contains(string(row.Value), "holds a secret") {
				hidden++
			}
			seen++
			after = row.Key
		}
		more = out.More
	}
	if seen < 50 || hidden != 1 {
		t.Errorf("%d rows, %d hidden", seen, hidden)
	}
	quotas := must[*operatorgen.StoreScanOutput](t)(o.StoreScan(o.ctx, &operatorgen.StoreScanInput{Prefix: "account/left"}))
	if len(quotas.Rows) != 7 || quotas.Rows[0].Kind != "int64" || quotas.More {
		t.Errorf("quota rows %+v", quotas)
	}
	none := must[*operatorgen.StoreGetOutput](t)(o.StoreGet(o.ctx, &operatorgen.StoreGetInput{Key: `["no",1,true,{"bytes":"00ff"}]`}))
	if none.Row != nil {
		t.Errorf("got %+v", none.Row)
	}
	for _, key := range []string{"[", `[1.5]`, `[null]`, "0xzz", `[{"bytes":"zz"}]`} {
		_, err := o.StoreGet(o.ctx, &operatorgen.StoreGetInput{Key: key})
		wantCode(t, err, operatorgen.CodeInvalidInput)
	}
}

func TestStreams(t *testing.T) {
	o := openOffice(t, 1)
	launched, err := o.Compute().RunInstances(o.ctx, o.Account, o.Request(1))
	if err != nil {
		t.Fatal(err)
	}
	i := launched.Instances[0]
	if err := o.Await(o.ctx, func() bool {
		now, err := o.Compute().DescribeInstances(o.ctx, o.Account, nil, func(i *compute.Instance) bool { return i.State == compute.Running })
		return err == nil && len(now) == 1
	}); err != nil {
		t.Fatal(err)
	}
	dial := func(context.Context) (net.Conn, error) { return net.Dial("tcp", o.addr) }
	c, err := stream.Open(o.ctx, dial, stream.Request{Kind: stream.Dial, Instance: i.ID, Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	want := host.DocHost(i.Host) + " " + host.StreamDial + " " + string(i.ID) + "\nhello"
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	c.Close()
	if _, err := stream.Open(o.ctx, dial, stream.Request{Kind: stream.Dial, Instance: "i-0123456789abcdef0", Port: 22}); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a stream to nothing: %v", err)
	}
	if _, err := o.Compute().StopInstances(o.ctx, o.Account, []ids.Instance{i.ID}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Open(o.ctx, dial, stream.Request{Kind: stream.Dial, Instance: i.ID, Port: 22}); err == nil || !strings.Contains(err.Error(), "only a running one") {
		t.Errorf("a stream to a stopped instance: %v", err)
	}
	if log := o.log.String(); strings.Count(log, "action=OpenStream") != 3 || !strings.Contains(log, "port=22") {
		t.Errorf("audit log: %s", log)
	}
}
