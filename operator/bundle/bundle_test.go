package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/account/rootkey"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// Secrets as they are planted below.
const (
	accessSecret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00"
	userData     = "#cloud-config password: hunter2hunter2"
	joinToken    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.c2VjcmV0LXRva2VuLXBhcnQ"
	unitSecret   = "only-the-unit-knows-this"
)

// leakyAPI answers with secrets in every place that it can.
type leakyAPI struct{ operatorgen.API }

func (leakyAPI) GetStatus(context.Context, *operatorgen.GetStatusInput) (*operatorgen.GetStatusOutput, error) {
	return &operatorgen.GetStatusOutput{Version: "v9", Components: []operatorgen.Component{{Name: "x", Detail: "secret_access_key=" + accessSecret}}}, nil
}

func (leakyAPI) RunCheck(context.Context, *operatorgen.RunCheckInput) (*operatorgen.RunCheckOutput, error) {
	return nil, errors.New("no answer, NIMBREL_JOIN=" + joinToken)
}

func (leakyAPI) ListHosts(_ context.Context, in *operatorgen.ListHostsInput) (*operatorgen.ListHostsOutput, error) {
	if in.NextToken == "" {
		return &operatorgen.ListHostsOutput{Hosts: []operatorgen.Host{{HostId: "h-first"}}, NextToken: "1"}, nil
	}
	return &operatorgen.ListHostsOutput{Hosts: []operatorgen.Host{{HostId: "h-second"}}}, nil
}

func (leakyAPI) ListInstances(context.Context, *operatorgen.ListInstancesInput) (*operatorgen.ListInstancesOutput, error) {
	return &operatorgen.ListInstancesOutput{Instances: []operatorgen.Instance{{InstanceId: "i-1", Reason: "user-data=hunter2hunter2"}}}, nil
}

func (leakyAPI) ListOperations(context.Context, *operatorgen.ListOperationsInput) (*operatorgen.ListOperationsOutput, error) {
	return &operatorgen.ListOperationsOutput{Operations: []operatorgen.Operation{{OperationId: "op-1", Detail: "told " + joinToken}}}, nil
}

func (leakyAPI) StoreScan(_ context.Context, in *operatorgen.StoreScanInput) (*operatorgen.StoreScanOutput, error) {
	row := func(key string) operatorgen.Row {
		return operatorgen.Row{Key: key, Value: []byte(`"` + userData + `"`)}
	}
	if in.After == "" {
		return &operatorgen.StoreScanOutput{Rows: []operatorgen.Row{row(`["compute","instance","i-1"]`), row(`["compute","instance","i-2"]`)}, More: true}, nil
	}
	return &operatorgen.StoreScanOutput{Rows: []operatorgen.Row{row(`["account","left",1]`), row(`[1]`)}}, nil
}

// TestBundleHasNoSecrets plants every kind of secret on disk and in everything that is collected, and looks for them in
// the archive, in the forms that they are written in.
func TestBundleHasNoSecrets(t *testing.T) {
	state, agent, etc := t.TempDir(), t.TempDir(), t.TempDir()
	secrets := plant(t, state, agent, etc)
	leak := strings.Join(secrets, "\n") + "\nlevel=INFO msg=kept subject=i-kept\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=0011223344556677889900aabbccddeeff\n"
	write(t, filepath.Join(state, "log", "server.log"), leak)
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "nimbrel_up 1\n"+leak) })) //nolint:errcheck // the test's own
	defer metrics.Close()
	var out bytes.Buffer
	manifest, err := Write(t.Context(), &out, Options{
		API: leakyAPI{}, StateDir: state, AgentStateDirs: []string{agent}, SecretFiles: []string{filepath.Join(etc, "agent.env")}, MetricsURLs: []string{metrics.URL, "http://127.0.0.1:1/"},
		Parts:   map[string]func(context.Context) ([]byte, error){"config/agent.json": func(context.Context) ([]byte, error) { return []byte(leak), nil }},
		Version: "v9", Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &out)
	for name, text := range files {
		for _, secret := range append(secrets, accessSecret, "hunter2hunter2", joinToken, unitSecret, "0011223344556677889900aabbccddeeff") {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %.20q", name, secret)
			}
		}
	}
	for name, want := range map[string]string{
		"status.json": `"v9"`, "hosts.json": "h-second", "row-counts.json": `"compute/instance": 2`, "logs/server.log": "subject=i-kept",
		"metrics/0.txt": "nimbrel_up 1", "files/0.txt": "root.key", "files/1.txt": "target.key", "config/agent.json": "msg=kept", "manifest.json": "check.json",
	} {
		if !strings.Contains(files["nimbrel-bundle/"+name], want) {
			t.Errorf("%s: no %q in %.300q", name, want, files["nimbrel-bundle/"+name])
		}
	}
	if manifest.Left["check.json"] == "" || manifest.Left["metrics/1.txt"] == "" || len(manifest.Left) != 2 {
		t.Errorf("left out: %v", manifest.Left)
	}
}

// plant makes a server's and an agent's secrets as they make them, and returns them in all forms that text may hold.
func plant(t *testing.T, state, agent, etc string) (secrets []string) {
	t.Helper()
	surroundings := env.System()
	for _, dir := range []string{filepath.Join(state, "server"), filepath.Join(agent, "identity")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	keyPath := filepath.Join(state, "server", "root.key")
	key, err := rootkey.Open(keyPath, surroundings.Random)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.OpenSealedAuthority(filepath.Join(state, "server", "authority"), surroundings.Clock, key); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.OpenAuthority(filepath.Join(etc, "plain"), surroundings.Clock); err != nil {
		t.Fatal(err)
	}
	private := read(t, filepath.Join(etc, "plain", "ca.key"))
	write(t, filepath.Join(agent, "identity", "target.key"), private)
	write(t, filepath.Join(agent, "metadata.key"), "\x01\x02\x03binary-key-of-32-bytes-length!!")
	write(t, filepath.Join(state, "env", "credentials"), "[default]\naws_access_key_id = AKIA\naws_secret_access_key = "+accessSecret+"\n")
	write(t, filepath.Join(etc, "agent.env"), "NIMBREL_JOIN="+joinToken+"\nOTHER="+unitSecret+"\n")
	fields := strings.Fields(read(t, keyPath))
	digits := fields[len(fields)-1]
	raw, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatalf("root key %q: %v", digits, err)
	}
	metadata := read(t, filepath.Join(agent, "metadata.key"))
	secrets = []string{
		digits, base64.StdEncoding.EncodeToString(raw), accessSecret, joinToken, unitSecret, hex.EncodeToString([]byte(metadata)),
		strings.Split(private, "\n")[1], strings.Split(read(t, filepath.Join(state, "server", "authority", "ca.key")), "\n")[1],
	}
	return secrets
}

func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

// TestScrubKnowsForms: a secret that is on no disk here is known by its form.
func TestScrubKnowsForms(t *testing.T) {
	s := newScrubber(Options{})
	for text, left := range map[string]string{
		"-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nend": gone + "\nend",
		"cut off -----BEGIN PRIVATE KEY-----\nabc":                               "cut off " + gone,
		`{"SecretAccessKey": "abc", "x": 1}`:                                     `{"SecretAccessKey": ` + gone + `, "x": 1}`,
		`{"password": "correct horse \"battery", "x": 1}`:                        `{"password": ` + gone + `, "x": 1}`,
		`msg="{\"password\": \"correct horse\"} sent"`:                           `msg="{\"password\": ` + gone + `} sent"`,
		"password='correct horse' sent":                                          "password=" + gone + " sent",
		"X-Amz-Signature=abc&y=1":                                                "X-Amz-Signature=" + gone + "&y=1",
		"token " + joinToken:                                                     "token " + gone,
		"nothing of note: i-1 on h-1":                                            "nothing of note: i-1 on h-1",
	} {
		if got := string(s.clean([]byte(text))); got != left {
			t.Errorf("%q became %q, want %q", text, got, left)
		}
	}
}

// TestScrubLearnsNoNames: a file of secrets has the names of settings in it as well. That they go from a text must not let
// the secret of another machine stay, which only its form tells.
func TestScrubLearnsNoNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.env")
	write(t, path, "aws_secret_access_key = "+accessSecret+"\nNIMBREL_JOIN="+joinToken+"\n")
	s := newScrubber(Options{SecretFiles: []string{path}})
	for _, text := range []string{"aws_secret_access_key=anotherAccountsSecretKey", "NIMBREL_JOIN=short", "x" + accessSecret + accessSecret} {
		got := string(s.clean([]byte(text)))
		for _, secret := range []string{"anotherAccountsSecretKey", "short", accessSecret[len(accessSecret)-8:]} {
			if strings.Contains(got, secret) {
				t.Errorf("%q became %q", text, got)
			}
		}
	}
}
