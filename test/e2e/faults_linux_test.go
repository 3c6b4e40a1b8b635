package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hostOf is the name of the host that an instance is on: each host of a real cloud is a zone of its own.
func (w *world) hostOf(id string) string {
	w.t.Helper()
	for _, h := range into[[]struct{ HostId, Name string }](w.cloud, "hosts") {
		if h.HostId == w.instance(id).HostId {
			return h.Name
		}
	}
	w.t.Fatalf("no host of %s", id)
	return ""
}

// echo speaks one line to an echo service.
func echo(conn net.Conn) error {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(eventLimit))
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	back := make([]byte, len("hello\n"))
	if _, err := conn.Read(back); err != nil {
		return err
	}
	return expect(string(back) == "hello\n", "echo of hello is %q", back)
}

// doors tries the ways into a guest that go past the security groups.
func (w *world) doors() {
	a1 := w.named("a1")
	if out := w.must("console", a1.ID); !strings.Contains(out, "nimbrel-guest: ssh ready") || !strings.Contains(out, a1.ID) {
		w.t.Errorf("console: %s", out)
	}
	if r := w.ssh(a1.ID, "exit", "7"); r.status != 7 || r.stderr != "" {
		w.t.Errorf("exit status of a command in a guest: %v", r)
	}
	forward := w.open("forward", "--listen", "127.0.0.1:0", a1.ID, "8080")
	address, found := strings.CutPrefix(forward.line(), "listening on ")
	if !found {
		w.t.Fatal("forward does not say where it listens")
	}
	for range 3 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = echo(conn)
		}
		if err != nil {
			w.t.Errorf("forward: %v", err)
		}
	}
}

// traffic pings from a guest until it is told to stop; it reports what was lost. The pings run in the guest by
// themselves, so neither server nor agents are needed for them.
const traffic = `rm -f /tmp/stop /tmp/pings; (until [ -e /tmp/stop ]; do probe ping %s count=50 timeoutMs=20000 >>/tmp/pings || exit; done; echo done >>/tmp/pings) >/dev/null 2>&1 </dev/null & echo begun`

func (w *world) startTraffic(from, to launched) {
	w.t.Helper()
	if out := w.mustSSH(from.ID, fmt.Sprintf(traffic, to.Address)); out != "begun" {
		w.t.Fatalf("start pings: %s", out)
	}
	w.eventually("pings are answered", func() error { return expect(w.pings(from) > 0, "none yet") })
}

// pings is how many rounds of pings have been answered whole. A round that was not ends the test.
func (w *world) pings(from launched) int {
	w.t.Helper()
	out := w.mustSSH(from.ID, "cat /tmp/pings; true")
	if strings.Contains(out, "fail") {
		w.t.Fatalf("pings were lost: %s", out)
	}
	return strings.Count(out, "ok {")
}

// stopTraffic sees to it that further rounds are answered and ends them.
func (w *world) stopTraffic(from launched, before int) {
	w.t.Helper()
	w.eventually("pings go on", func() error { return expect(w.pings(from) > before+1, "no further round") })
	w.mustSSH(from.ID, "touch /tmp/stop")
	w.eventually("pings end", func() error {
		out := w.mustSSH(from.ID, "cat /tmp/pings")
		return expect(strings.HasSuffix(out, "done"), "still under way")
	})
	w.t.Logf("%d rounds of 50 pings, none lost", w.pings(from))
}

// questions asks the metadata service for tokens again and again, in the guest by itself. Each question has a minute. It
// goes on after a question that failed.
const questions = `rm -f /tmp/enough /tmp/asked; (until [ -e /tmp/enough ]; do probe http http://169.254.169.254/latest/api/token method=PUT header="X-aws-ec2-metadata-token-ttl-seconds: 60" timeoutMs=60000 >>/tmp/asked || sleep 0; done) >/dev/null 2>&1 </dev/null & true`

// answers is how often a guest's question was answered, and how long the slowest answer took. One question may fail: the
// one that an agent had read and not answered when it was killed ends with its connection.
func (w *world) answers(id string) (n int, slowest time.Duration) {
	w.t.Helper()
	cut := 0
	for line := range strings.Lines(w.mustSSH(id, "cat /tmp/asked; true")) {
		if strings.HasPrefix(line, "fail ") && (strings.Contains(line, `: EOF"`) || strings.Contains(line, "connection reset by peer")) {
			cut++
			continue
		}
		var answer struct{ Status, Ms float64 }
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ok ")), &answer); err != nil || answer.Status != 200 {
			w.t.Fatalf("a metadata request after %d answers: %s", n, line)
		}
		n, slowest = n+1, max(slowest, time.Duration(answer.Ms*float64(time.Millisecond)))
	}
	if cut > 1 {
		w.t.Fatalf("%d metadata requests were cut off: one agent holds one of this guest's", cut)
	}
	return n, slowest
}

// agentKilled kills each host's agent in turn while guests talk across hosts and ask for metadata.
func (w *world) agentKilled() {
	b1, b2 := w.named("b1"), w.named("b2")
	machines, list := qemus(w.t), w.instances()
	for _, victim := range []launched{b2, b1} {
		w.startTraffic(b1, b2)
		w.mustSSH(victim.ID, questions)
		w.eventually("metadata is answered", func() error {
			n, _ := w.answers(victim.ID)
			return expect(n > 0, "not yet")
		})
		rounds := w.pings(b1)
		w.kill(w.hostOf(victim.ID))
		const away = 3 * time.Second
		time.Sleep(away) // the guest goes on meanwhile: it asks for metadata that nobody can give
		w.up()
		before, _ := w.answers(victim.ID)
		w.eventually("metadata is answered again", func() error {
			n, slowest := w.answers(victim.ID)
			return expect(n > before && slowest >= away/2, "%d answers, %d before; the slowest took %v", n, before, slowest)
		})
		w.mustSSH(victim.ID, "touch /tmp/enough")
		n, slowest := w.answers(victim.ID)
		w.t.Logf("%s: %d metadata answers, the slowest, over an agent that was away for %v, took %v", victim.ID, n, away, slowest)
		w.stopTraffic(b1, rounds)
	}
	if now := qemus(w.t); !maps.Equal(now, machines) {
		w.t.Errorf("machines %v, before the agents died %v", now, machines)
	}
	if now := w.instances(); fmt.Sprint(now) != fmt.Sprint(list) {
		w.t.Errorf("instances %v, before the agents died %v", now, list)
	}
}

// serverKilled kills the server while guests talk, and launches an instance after its return; the instance has a larger
// disk.
func (w *world) serverKilled() {
	b1, b2 := w.named("b1"), w.named("b2")
	machines := qemus(w.t)
	w.startTraffic(b1, b2)
	before := w.pings(b1)
	w.kill("server")
	w.up()
	w.stopTraffic(b1, before)
	if now := qemus(w.t); !maps.Equal(now, machines) {
		w.t.Errorf("machines %v, before the server died %v", now, machines)
	}
	v := w.launchBeside(b2, "BlockDeviceMapping.1.DeviceName", "/dev/xvda", "BlockDeviceMapping.1.Ebs.VolumeSize", "3")
	var disk struct{ RootBytes int64 }
	out := w.mustSSH(v.ID, "probe", "disk")
	if err := json.Unmarshal([]byte(strings.TrimPrefix(out, "ok ")), &disk); err != nil || disk.RootBytes < 5<<29 {
		w.t.Errorf("the root file system of a 3 GiB volume: %s (%v)", out, err)
	}
	w.terminate(v)
}

// launchBeside launches an instance into another's subnet and groups, and waits until it can be logged in to.
func (w *world) launchBeside(peer launched, pairs ...string) launched {
	w.t.Helper()
	group := w.groupOf(peer)
	pairs = append([]string{"SubnetId", peer.Subnet, "SecurityGroupId.1", group, "KeyName", "demo"}, pairs...)
	v := w.runInstances("1", pairs...)[0]
	w.awaitState(v.ID, "running")
	w.awaitSSH(v.ID)
	return v
}

func (w *world) groupOf(v launched) string {
	w.t.Helper()
	out := ec2[struct {
		Groups []string `xml:"reservationSet>item>instancesSet>item>groupSet>item>groupId"`
	}](w.cloud, "DescribeInstances", "InstanceId.1", v.ID)
	if len(out.Groups) == 0 {
		w.t.Fatalf("%s has no group", v.ID)
	}
	return out.Groups[0]
}

// terminate ends an instance and looks for what it could leave on its host.
func (w *world) terminate(v launched) {
	w.t.Helper()
	guests, _ := filepath.Glob(filepath.Join(w.dir(), "hosts", "*", "guests", v.ID))
	if len(guests) != 1 {
		w.t.Errorf("a running instance has the directories %v", guests)
	}
	w.change("TerminateInstances", v.ID)
	w.awaitState(v.ID, "terminated")
	w.eventually("nothing is left of "+v.ID, func() error {
		left, _ := filepath.Glob(filepath.Join(w.dir(), "hosts", "*", "guests", v.ID+"*"))
		_, runs := qemus(w.t)[v.ID]
		return expect(len(left) == 0 && !runs, "directories %v, process: %v", left, runs)
	})
}

// groupRevoked takes a rule away under an established connection: that goes on, and new ones are refused.
func (w *world) groupRevoked() {
	a1, a2 := w.named("a1"), w.named("a2")
	rule := []string{"GroupId", w.groupOf(a2), "IpPermissions.1.IpProtocol", "tcp", "IpPermissions.1.FromPort", "8080", "IpPermissions.1.ToPort", "8080", "IpPermissions.1.IpRanges.1.CidrIp", "10.0.0.0/16"}
	flow := w.open(w.sshArgs(a1.ID, "nc", a2.Address, "8080")...)
	flow.send("one")
	if got := flow.line(); got != "one" {
		w.t.Fatalf("echo of one is %q", got)
	}
	ec2[struct{}](w.cloud, "RevokeSecurityGroupIngress", rule...)
	connect := func() result { return w.ssh(a1.ID, "probe", "tcp", a2.Address, "8080", "1500") }
	w.eventually("new connections are refused", func() error {
		r := connect()
		return expect(strings.Contains(r.stdout, `"reason":"timeout"`), "%s", r.stdout)
	})
	flow.send("two")
	if got := flow.line(); got != "two" {
		w.t.Errorf("echo of two, after the rule was revoked, is %q", got)
	}
	ec2[struct{}](w.cloud, "AuthorizeSecurityGroupIngress", rule...)
	w.eventually("new connections are let in", func() error {
		r := connect()
		return expect(r.status == 0, "%s", r.stdout)
	})
}

// life takes one instance through reboot, stop and start, its own shutdown, and its machine's death.
func (w *world) life() {
	v := w.launchBeside(w.named("b2"))
	before := w.describe(v.ID)
	w.mustSSH(v.ID, "echo kept > kept; sync")
	unchanged := func(after string) {
		w.t.Helper()
		w.awaitSSH(v.ID)
		if text := w.mustSSH(v.ID, "cat", "kept"); text != "kept" {
			w.t.Errorf("the file is %q after %s", text, after)
		}
		now := w.describe(v.ID)
		now.Reason, now.Cause = before.Reason, before.Cause
		if now != before {
			w.t.Errorf("after %s the instance is %+v, before %+v", after, now, before)
		}
		if out := w.mustSSH(v.ID, "probe", "addr"); !strings.Contains(out, before.Address+"/") || !strings.Contains(out, before.MAC) {
			w.t.Errorf("after %s the guest has %s, want %s and %s", after, out, before.Address, before.MAC)
		}
	}
	boot := func() string { return w.ssh(v.ID, "cat", "/proc/sys/kernel/random/boot_id").stdout }

	first := boot()
	w.change("RebootInstances", v.ID)
	w.eventually("the guest boots again", func() error {
		now := boot()
		return expect(now != "" && now != first, "boot id %q, before %q", now, first)
	})
	unchanged("a reboot")

	w.change("StopInstances", v.ID)
	w.awaitState(v.ID, "stopped")
	if _, runs := qemus(w.t)[v.ID]; runs {
		w.t.Error("a stopped instance has a machine")
	}
	if now := w.describe(v.ID); now.Cause != "Client.UserInitiatedShutdown" || now.Address != before.Address {
		w.t.Errorf("stopped: %+v", now)
	}
	w.restart(v)
	unchanged("stop and start")

	w.ssh(v.ID, "sudo poweroff")
	w.awaitState(v.ID, "stopped")
	if now := w.describe(v.ID); now.Cause != "Client.InstanceInitiatedShutdown" {
		w.t.Errorf("after the guest powered off: %+v", now)
	}
	w.restart(v)
	unchanged("power-off and start")

	var pid int
	if _, err := fmt.Sscan(qemus(w.t)[v.ID], &pid); err != nil {
		w.t.Fatalf("no machine of %s", v.ID)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.awaitState(v.ID, "stopped")
	if now := w.describe(v.ID); !strings.HasPrefix(now.Cause, "Server.") {
		w.t.Errorf("after its machine died: %+v", now)
	}
	w.checkClean()
	w.restart(v)
	unchanged("a machine's death and start")
	w.terminate(v)
}

func (w *world) restart(v launched) {
	w.t.Helper()
	w.change("StartInstances", v.ID)
	w.awaitState(v.ID, "running")
}

// terminateOnDeadHost terminates an instance whose agent is dead: its address is nobody else's until the host has said
// that the machine is gone.
func (w *world) terminateOnDeadHost() {
	b2 := w.named("b2")
	const address = "10.0.1.77"
	v := w.launchBeside(b2, "PrivateIpAddress", address)
	w.kill(w.hostOf(v.ID))
	w.change("TerminateInstances", v.ID)
	if now := w.instance(v.ID); now.State != "shutting-down" && now.State != "terminated" {
		w.t.Errorf("it is %s", now.State)
	}
	again := []string{"ImageId", w.image(), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", b2.Subnet, "SecurityGroupId.1", w.groupOf(b2), "PrivateIpAddress", address}
	if _, err := tryEC2[runAnswer](w.cloud, "RunInstances", again...); code(err) != "InvalidIPAddress.InUse" {
		w.t.Errorf("the address of a machine that may still run: %v", err)
	}
	if _, runs := qemus(w.t)[v.ID]; !runs {
		w.t.Error("the machine ended without its agent")
	}
	w.up()
	w.awaitState(v.ID, "terminated")
	var next launched
	w.eventually("the address can be used again", func() error {
		out, err := tryEC2[runAnswer](w.cloud, "RunInstances", again...)
		if err == nil {
			next = out.Instances[0]
		}
		return err
	})
	if _, runs := qemus(w.t)[v.ID]; runs {
		w.t.Error("the address was given away while the machine ran")
	}
	w.awaitState(next.ID, "running")
	w.terminate(next)
}
