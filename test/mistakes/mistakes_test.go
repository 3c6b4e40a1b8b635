package mistakes

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is how long a mistake may take to be told: none needs a time-out to be seen.
const limit = 2 * time.Minute

// mistake is one row: what a person does, and what they must be told.
type mistake struct {
	name string
	args string            // words; {…} are replaced, see place
	env  map[string]string // besides PATH and the state directory
	as   string            // "" as the test's user, "nobody" as a user without rights: skipped unless root
	make func(t *testing.T, p *place)
	want []string // parts of what is printed: what is wrong, and the fix
}

var table = []mistake{
	{name: "no server", args: "hosts", make: noServer, want: []string{"no server answers", "nimbrel dev up", "--socket"}},
	{name: "socket of another user", args: "hosts --socket {socket}", as: "nobody", want: []string{"no permission for", "try with sudo"}},
	{name: "unknown command", args: "instance", want: []string{`unknown command "instance"`, "nimbrel --help"}},
	{name: "unknown flag", args: "hosts --all", want: []string{"unknown flag: --all", "--help"}},
	{name: "JSON of a console", args: "console i-0123456789abcdef0 --json", want: []string{"--json", "leave --json out"}},
	{name: "malformed id", args: "console i-1", want: []string{`"i-1"`}},
	{name: "unknown instance", args: "explain i-0123456789abcdef0 --socket {socket}", want: []string{"i-0123456789abcdef0 does not exist"}},
	{name: "neither operation nor instance", args: "explain h-1 --socket {socket}", want: []string{"nimbrel ops", "nimbrel instances"}},
	{name: "unknown host", args: "hosts drain h-1 --socket {socket}", want: []string{"host h-1 does not exist", "nimbrel hosts"}},
	{name: "no credentials", args: "env --socket {socket} --dir {dir}", want: []string{"no credentials", "nimbrel account create"}},
	{name: "account twice", args: "account create first --socket {socket}", want: []string{`"first" already exists`}},
	{name: "unknown quota", args: "account quota {account} cpus 4 --socket {socket}", want: []string{"cpus", "vcpu"}},
	{name: "no such image file", args: "image import {dir}/absent.raw --socket {socket}", want: []string{"absent.raw", "no such file"}},
	{name: "private key that is none", args: "ssh i-0123456789abcdef0 -i {dir}/key", make: file("key", "not a key"), want: []string{"read private key", "key"}},

	{name: "port in use", args: "server --state-dir {dir} {ports} --listen {taken}", want: []string{"address already in use", "--listen", "--port"}},
	{name: "address of another machine", args: "server --state-dir {dir} {ports} --link 192.0.2.77:1", want: []string{"--link wants an address that this machine has", "ip -brief address"}},
	{name: "open to everybody", args: "server --listen 0.0.0.0:8773", want: []string{"not a loopback address", "TLS proxy", "--insecure"}},
	{name: "address without a port", args: "server --listen localhost", want: []string{`--listen "localhost"`, "127.0.0.1:8773"}},
	{name: "metrics open to everybody", args: "server --metrics 0.0.0.0:8775", want: []string{"--metrics 0.0.0.0:8775 is not a loopback address", "127.0.0.1"}},
	{name: "too many zones", args: "server --zones 99", want: []string{"--zones 99: want 1 to 16"}},
	{name: "wrong region", args: "server --region home", want: []string{`--region "home"`, "us-nimbrel-1"}},
	{name: "log level", args: "server --log-level loud", want: []string{`"loud"`, "debug, info, warn or error"}},
	{name: "misspelt setting", args: "server --config {dir}/c.toml", make: file("c.toml", "lisen = \"x\"\n"), want: []string{`unknown key "lisen"`, "listen"}},
	{name: "setting of another type", args: "server --config {dir}/c.toml", make: file("c.toml", "zones = \"three\"\n"), want: []string{"key zones", "want a value of type int"}},
	{name: "no configuration file", args: "server --config {dir}/absent.toml", want: []string{"absent.toml", "no such file"}},
	{name: "variable that is no number", args: "server", env: map[string]string{"NIMBREL_ZONES": "many"}, want: []string{"NIMBREL_ZONES", `"many"`}},
	{name: "file for a directory", args: "server --state-dir {dir}/f", make: file("f", "x"), want: []string{"no directory", "--state-dir"}},
	{name: "state directory of root", args: "server --state-dir {dir}/mine/x", as: "nobody", make: file("mine/y", "x"), want: []string{"permission denied", "sudo", "--state-dir"}},
	{name: "another version's state directory", args: "server --state-dir {dir}", make: file("server/format", "7\n"), want: []string{`format is "7"`, "a newer version made it", "upgrade-rollback"}},
	{name: "damaged root key", args: "server --state-dir {dir}", make: file("server/root.key", "junk\n"), want: []string{"root.key", "restore the file from a copy"}},
	{name: "root key that others read", args: "server --state-dir {dir}", make: openRootKey, want: []string{"root.key", "chmod 600"}},
	{name: "state directory in use", args: "server --state-dir {state} {ports}", want: []string{"open in another process", "nimbrel dev down"}},
	{name: "full disk", args: "server --state-dir {full} {ports}", make: fullDisk, want: []string{"no space left on device", "free some space", "disk-full"}},

	{name: "host without a token", args: "agent --driver fake --state-dir {dir}/a", want: []string{"has not joined", "--server", "nimbrel token"}},
	{name: "half a token", args: "agent --driver fake --state-dir {dir}/a --server {link} --join 0123abcd", want: []string{"no token", "a dot", "nimbrel token"}},
	{name: "unreachable server", args: "agent --driver fake --state-dir {dir}/a --server {free} --join aa.bb", want: []string{"connection refused", "--server", "host link"}},
	{name: "token of another cloud", args: "agent --driver fake --state-dir {dir}/a --server {link} --join {otherprint}.bb", want: []string{"another cloud"}},
	{name: "wrong token", args: "agent --driver fake --state-dir {dir}/a --server {link} --join {print}.bb", want: []string{"make a new token", "nimbrel token"}},
	{name: "unknown driver", args: "agent --driver kvm --state-dir {dir}/a", want: []string{`--driver "kvm"`, "qemu or fake"}},
	{name: "real guests without root", args: "agent --state-dir {dir}/a --server {link} --join {token}", as: "nobody", make: ownDir, want: []string{"need root", "--driver fake"}},
	{name: "real guests without QEMU", args: "agent --state-dir {dir}/a --server {link} --join {token}", env: map[string]string{"PATH": "/nonexistent"}, make: needRoot, want: []string{"install", "qemu-system-x86"}},

	{name: "no cloud to look at", args: "dev status", make: noServer, want: []string{"no cloud in", "nimbrel dev up"}},
	{name: "underlay that is none", args: "dev up --fake --underlay here", want: []string{`--underlay "here"`, "such as"}},
	{name: "no hosts", args: "dev up --fake --hosts 0", want: []string{"0 fake hosts", "want 1 to"}},
	{name: "bundle over a file", args: "bundle --out {dir}/b", make: file("b", "x"), want: []string{"exists", "--out"}},
}

// TestMistakes makes each mistake and reads what the program says. It must end by itself, with a failure, and say so on
// one line that begins with "error: ", after whatever it logs.
func TestMistakes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the messages are those of Linux")
	}
	if n := len(table); n < 30 {
		t.Errorf("%d mistakes, want 30 at least", n)
	}
	cloud := startCloud(t)
	for _, m := range table {
		t.Run(m.name, func(t *testing.T) {
			if m.as != "" && os.Geteuid() != 0 {
				t.Skip("needs root, to be another user")
			}
			p := cloud.place(t)
			if m.make != nil {
				m.make(t, p)
			}
			said, status := p.run(t, m)
			if status == 0 || status < 0 {
				t.Fatalf("ended with status %d: %s", status, said)
			}
			last := said[strings.LastIndex(said, "error: ")+len("error: "):]
			if !strings.Contains(said, "error: ") || strings.Contains(said, "panic:") || strings.Contains(said, "goroutine ") {
				t.Errorf("no error is told: %s", said)
			}
			for _, want := range m.want {
				if !strings.Contains(last, want) {
					t.Errorf("no %q in: %s", want, last)
				}
			}
		})
	}
}

func noServer(t *testing.T, p *place) { p.values["{state}"] = filepath.Join(p.values["{dir}"], "none") }

// file makes a file in the mistake's directory.
func file(name, text string) func(*testing.T, *place) {
	return func(t *testing.T, p *place) {
		path := filepath.Join(p.values["{dir}"], name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func openRootKey(t *testing.T, p *place) {
	file("server/root.key", "whatever\n")(t, p)
	if err := os.Chmod(filepath.Join(p.values["{dir}"], "server", "root.key"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T, _ *place) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: without it that is said first")
	}
}

func ownDir(t *testing.T, p *place) {
	if err := os.Chown(p.values["{dir}"], nobody, nobody); err != nil {
		t.Fatal(err)
	}
}

// fullDisk mounts a disk that is full.
func fullDisk(t *testing.T, p *place) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	at := filepath.Join(p.values["{dir}"], "full")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", at).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", at, err, out)
		}
	})
	p.values["{full}"] = at
}

const nobody = 65534

// cloud is a server that the mistakes are made around.
type cloud struct {
	binary string
	values map[string]string
}

// startCloud builds the program, and runs a server with one account.
func startCloud(t *testing.T) *cloud {
	t.Helper()
	dir, err := os.MkdirTemp("", "mistakes") // t.TempDir is too long for a socket's name, and nobody may not enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &cloud{binary: filepath.Join(dir, "nimbrel")}
	// As this test was compiled: what that has left in the build cache is used, and only the linking is left to do.
	compile := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", c.binary, "./cmd/nimbrel")
	compile.Dir = "../.."
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	ports := freePorts(t, 7)
	c.values = map[string]string{
		"{state}": filepath.Join(dir, "state"), "{taken}": ports[0], "{link}": ports[1], "{free}": ports[6], "{full}": "",
		"{ports}":  fmt.Sprintf("--listen %s --link %s --metrics %s", ports[3], ports[4], ports[5]),
		"{socket}": filepath.Join(dir, "state", "run", "operator.sock"), "{otherprint}": strings.Repeat("ab", 32),
	}
	c.serve(t, ports)
	account := c.must(t, "account create first --socket {socket} --json")
	c.values["{account}"] = between(t, account, `"accountId": "`, `"`)
	token := between(t, c.must(t, "token --socket {socket}")+"\n", "--join ", "\n")
	c.values["{token}"] = token
	c.values["{print}"], _, _ = strings.Cut(token, ".")
	return c
}

// serve starts the server and waits until its operators' socket answers.
func (c *cloud) serve(t *testing.T, ports []string) {
	t.Helper()
	var log bytes.Buffer
	server := exec.Command(c.binary, "server", "--state-dir", c.values["{state}"], "--listen", ports[0], "--link", ports[1], "--metrics", ports[2])
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(limit):
			_ = server.Process.Kill()
			t.Error("the server did not end")
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(limit); ; {
		if n, err := net.Dial("unix", c.values["{socket}"]); err == nil {
			_ = n.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("server ended: %v: %s", err, log.String())
		case <-deadline:
			t.Fatal("server does not answer")
		case <-tick.C:
		}
	}
}

// must runs a command that is no mistake.
func (c *cloud) must(t *testing.T, args string) string {
	t.Helper()
	p := &place{cloud: c, values: c.values}
	said, status := p.run(t, mistake{args: args})
	if status != 0 {
		t.Fatalf("nimbrel %s: status %d: %s", args, status, said)
	}
	return said
}

// place is where one mistake is made.
type place struct {
	*cloud
	values map[string]string
}

func (c *cloud) place(t *testing.T) *place {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(c.binary), "place")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &place{cloud: c, values: map[string]string{"{dir}": dir}}
	for name, value := range c.values {
		p.values[name] = value
	}
	return p
}

// run makes a mistake, and returns what was printed and the exit status.
func (p *place) run(t *testing.T, m mistake) (said string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	words := m.args
	for name, value := range p.values {
		words = strings.ReplaceAll(words, name, value)
	}
	cmd := exec.CommandContext(ctx, p.binary, strings.Fields(words)...)
	cmd.Dir = filepath.Dir(p.binary)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NIMBREL_STATE_DIR=" + p.values["{state}"], "HOME=/nonexistent"}
	for name, value := range m.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if m.as == "nobody" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("nimbrel %s goes on: %s", words, out)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// freePorts are loopback addresses that nobody listens on now.
func freePorts(t *testing.T, n int) (free []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		free = append(free, l.Addr().String())
	}
	return free
}

func between(t *testing.T, text, before, after string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, before)
	word, _, closed := strings.Cut(rest, after)
	if !found || !closed {
		t.Fatalf("no %q in %q", before, text)
	}
	return word
}
