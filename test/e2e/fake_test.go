package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func nimbrelCommand(args ...string) *exec.Cmd { return exec.Command(nimbrelPath(), args...) }

// withoutJSON lists the commands that have no --json, and why.
var withoutJSON = map[string]string{
	"nimbrel dev up":                "does something; its progress is for people, `dev status` has --json",
	"nimbrel dev down":              "does something; what it lists is in `instances`",
	"nimbrel dev logs":              "prints a log as it is, which is JSON lines",
	"nimbrel server":                "runs until it is stopped; logs JSON lines",
	"nimbrel agent":                 "runs until it is stopped; logs JSON lines",
	"nimbrel agent purge":           "does something; prints nothing",
	"nimbrel store serve":           "runs until it is stopped",
	"nimbrel store get":             "prints JSON and nothing else",
	"nimbrel store scan":            "prints JSON and nothing else",
	"nimbrel store watch":           "prints JSON and nothing else",
	"nimbrel store log dump":        "prints JSON and nothing else",
	"nimbrel store put":             "prints JSON and nothing else",
	"nimbrel store txn":             "prints JSON and nothing else",
	"nimbrel man":                   "writes files",
	"nimbrel completion bash":       "prints a shell script",
	"nimbrel completion zsh":        "prints a shell script",
	"nimbrel completion fish":       "prints a shell script",
	"nimbrel completion powershell": "prints a shell script",
}

// TestFakeHelp walks every command: help, a manual page, completion, and --json or a reason.
func TestFakeHelp(t *testing.T) {
	t.Parallel()
	c := newCloud(t, place{})
	pages := c.root + "/man"
	c.must("man", pages)
	written, err := exec.Command("ls", pages).Output()
	if err != nil {
		t.Fatal(err)
	}
	var unused []string
	for name := range withoutJSON {
		unused = append(unused, name)
	}
	commands := walk(c, "nimbrel")
	if len(commands) < 30 {
		t.Errorf("only %d commands: %v", len(commands), commands)
	}
	for _, name := range commands {
		help := c.must(append(strings.Fields(name)[1:], "--help")...)
		if page := strings.ReplaceAll(name, " ", "-") + ".1\n"; !strings.HasPrefix(name, "nimbrel completion ") && !strings.Contains(string(written), page) {
			t.Errorf("no manual page %s", page)
		}
		if _, group := subcommands(help); group && !strings.Contains(help, "[flags]\n") {
			continue
		}
		_, excused := withoutJSON[name]
		unused = slices.DeleteFunc(unused, func(n string) bool { return n == name })
		if has := strings.Contains(help, "--json "); has == excused {
			t.Errorf("%s: --json is there: %v, and listed as absent: %v", name, has, excused)
		}
	}
	if len(unused) > 0 {
		t.Errorf("listed as without --json, but not there: %v", unused)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := c.must("completion", shell); !strings.Contains(out, "nimbrel") {
			t.Errorf("completion %s: %d bytes without the command's name", shell, len(out))
		}
	}
	if out := c.must("__complete", "dev", ""); !strings.Contains(out, "up\t") || !strings.Contains(out, "down\t") {
		t.Errorf("completion of dev: %s", out)
	}
}

// walk lists a command and all below it.
func walk(c *cloud, name string) []string {
	c.t.Helper()
	all := []string{name}
	below, _ := subcommands(c.must(append(strings.Fields(name)[1:], "--help")...))
	for _, sub := range below {
		if sub != "help" {
			all = append(all, walk(c, name+" "+sub)...)
		}
	}
	return all
}

// subcommands reads them from a help text.
func subcommands(help string) (names []string, group bool) {
	_, list, group := strings.Cut(help, "Available Commands:\n")
	for line := range strings.Lines(list) {
		if !strings.HasPrefix(line, "  ") {
			break
		}
		names = append(names, strings.Fields(line)[0])
	}
	return names, group
}

// TestFakeRefusals gives commands what they must refuse. The error says what to do instead.
func TestFakeRefusals(t *testing.T) {
	t.Parallel()
	c := newCloud(t, claimPlace(t))
	for args, want := range map[string]string{
		"--fake --hosts 0": "1 to 256", "--fake --hosts 1000": "1 to 256", "--fake --hosts -1": "1 to 256", "--fake --zones 17": "1 to 16 zones",
		"--hosts 0": "want 1 to", "--prefix toolong --hosts 999": "want 1 to",
	} {
		r := c.run(append([]string{"dev", "up"}, strings.Fields(args)...)...)
		if r.status == 0 || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "panic") {
			t.Errorf("%v; want %q", r, want)
		}
		if left := leftovers(c.dir()); len(left) > 0 {
			t.Errorf("dev up %s was refused and left %v", args, left)
		}
	}
	c.up("--fake")
	const instance = "i-0123456789abcdef0"
	for _, test := range []struct {
		args string
		want []string // each in the error
	}{
		{"nonsense", []string{"unknown command", "nonsense"}},
		{"hosts --nonsense", []string{"--nonsense"}},
		{"dev up --fake --hosts 3", []string{"2 hosts", "nimbrel dev down"}},
		{"dev up --fake --hosts x", []string{"--hosts", "x"}},
		{"dev up --fake --underlay here", []string{"--underlay", "such as"}},
		{"dev up --fake --image /nonexistent", []string{"/nonexistent", "no such file"}},
		{"dev logs ../server", []string{"dev status"}},
		{"dev logs nobody", []string{"nobody"}},
		{"dev logs --bytes 0", []string{"positive"}},
		{"server --zones 0", []string{"--zones", "1 to"}},
		{"server --zones 99", []string{"--zones", "1 to"}},
		{"server --listen 0.0.0.0:1", []string{"--listen", "loopback", "--insecure"}},
		{"server --metrics 0.0.0.0:1", []string{"--metrics", "loopback"}},
		{"server --listen nowhere", []string{"--listen", "address:port"}},
		{"server --log-level loud", []string{"loud", "debug, info, warn"}},
		{"agent --driver fake --state-dir " + c.tmp() + "/a", []string{"--server", "--join", "nimbrel token"}},
		{"agent --driver magic --server 127.0.0.1:1 --join a.b --state-dir " + c.tmp() + "/b", []string{"magic", "qemu", "fake"}},
		{"console nonsense", []string{"nonsense", "i-"}},
		{"console " + instance, []string{instance}},
		{"ssh " + instance, []string{"identity"}},
		{"ssh -i /nonexistent " + instance, []string{"/nonexistent"}},
		{"forward " + instance + " 0", []string{"1 to 65535"}},
		{"forward " + instance + " 65536", []string{"1 to 65535"}},
		{"account create", []string{"1 arg"}},
		{"account quota 123 vcpu 5", []string{"accountId", "12"}},
		{"account quota 123456789012 vcpu x", []string{"number"}},
		{"token --ttl -5s", []string{"ttl"}},
		{"rows get nonsense", []string{"nonsense"}},
		{"instances --socket /nonexistent/socket", []string{"/nonexistent/socket", "--socket"}},
		{"store scan", []string{"dir"}},
		{"store scan --dir /nonexistent", []string{"/nonexistent"}},
		{"image build", []string{"out"}},
	} {
		r := c.run(strings.Fields(test.args)...)
		if r.status == 0 {
			t.Errorf("accepted: %v", r)
		}
		for _, want := range test.want {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("nimbrel %s says %q, without %q", test.args, strings.TrimSpace(r.stderr), want)
			}
		}
		if strings.Contains(r.stderr, "panic") || strings.Contains(r.stderr, "goroutine ") {
			t.Errorf("nimbrel %s panics: %s", test.args, r.stderr)
		}
	}
	c.checkClean()
}

// TestFakeFence gives up a host that lives: it stands down, takes its document anew, and its instance runs on. That it is
// off is not believed.
func TestFakeFence(t *testing.T) {
	c := newCloud(t, claimPlace(t))
	c.up("--fake", "--hosts", "1", "--image", c.disk())
	v := c.runInstances("1")[0]
	on := c.awaitState(v.ID, "running").HostId
	if r := c.run("hosts", "fence", on, "--off"); r.status == 0 || !strings.Contains(r.stderr, "the host is heard") || !strings.Contains(r.stderr, "leave out --off") {
		t.Errorf("%v", r)
	}
	if out := c.must("hosts", "fence", on); !strings.Contains(out, "is fenced; 1 instances are still there") || !strings.Contains(out, v.ID) {
		t.Errorf("hosts fence: %s", out)
	}
	log := func() string { return c.must("dev", "logs", "host-1", "--bytes", "65536") }
	c.eventually("the host has stood down and got its document anew", func() error {
		return expect(strings.Contains(log(), "documents are complete under the new epoch"), "%s", log())
	})
	if r, err := tryEC2[runAnswer](c, "RunInstances", "ImageId", c.image(), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1"); code(err) != "InsufficientInstanceCapacity" {
		t.Errorf("a launch on a fenced host: %v, %v", r.Instances, err)
	}
	c.must("hosts", "resume", on)
	c.awaitState(c.runInstances("1")[0].ID, "running")
	c.awaitState(v.ID, "running")
	c.checkClean()
}

// TestFakeManyHosts brings up more hosts than zones and spreads instances over them.
func TestFakeManyHosts(t *testing.T) {
	t.Parallel()
	c := newCloud(t, claimPlace(t))
	disk := c.disk()
	c.up("--fake", "--hosts", "6", "--zones", "3", "--image", disk)
	zones := map[string]int{}
	for _, h := range into[[]struct{ Zone, State string }](c, "hosts") {
		zones[h.Zone]++
		if h.State != "up" {
			t.Errorf("a host is %s", h.State)
		}
	}
	if len(zones) != 3 || zones["us-nimbrel-1a"] != 2 {
		t.Errorf("hosts by zone: %v", zones)
	}
	list := c.runInstances("12")
	hosts, addresses := map[string]bool{}, map[string]bool{}
	for _, v := range list {
		running := c.awaitState(v.ID, "running")
		hosts[running.HostId], addresses[running.PrivateIp] = true, true
	}
	if len(list) != 12 || len(addresses) != 12 || len(hosts) < 2 {
		t.Errorf("%d instances with %d addresses on %d hosts", len(list), len(addresses), len(hosts))
	}
	c.checkClean()
}
