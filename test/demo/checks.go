package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// guestLimit is how long a freshly started guest may take to answer ssh.
	guestLimit = 90 * time.Second
	// deniedMs is how long a connection that must not succeed is tried.
	deniedMs = "1500"
	allowMs  = "5000"
	bulkMiB  = "32"
)

// apiChecks proves what needs no guest.
func (d *demo) apiChecks(ctx context.Context) error {
	var list []struct{ InstanceId, HostId string }
	if err := d.nimbrelJSON(ctx, &list, "instances"); err != nil {
		return err
	}
	for _, v := range list {
		for _, member := range d.instances {
			if member.ID == v.InstanceId {
				member.Host = v.HostId
			}
		}
	}
	a1, a2 := d.instances["a1"].Host, d.instances["a2"].Host
	d.check("two_hosts", expect(a1 != "" && a2 != "" && a1 != a2, "a1 is on %q and a2 on %q", a1, a2))
	again, _, err := d.runOnce(ctx, "a1", d.liveToken(ctx, "a1"))
	if err == nil {
		err = expect(again.ID == d.instances["a1"].ID, "the same token launched %s, not %s", again.ID, d.instances["a1"].ID)
	}
	d.check("idempotent_launch", err)
	return nil
}

// liveToken is the token that a member runs under.
func (d *demo) liveToken(ctx context.Context, name string) string {
	var out struct {
		Reservations []struct {
			Instances []struct{ ClientToken string }
		}
	}
	err := d.aws(ctx, &out, "ec2", "describe-instances", "--instance-ids", d.instances[name].ID)
	if err != nil || len(out.Reservations) != 1 {
		return d.token(name, 0)
	}
	return out.Reservations[0].Instances[0].ClientToken
}

// guestChecks proves from inside the guests what passes.
func (d *demo) guestChecks(ctx context.Context) error {
	for _, m := range members {
		err := eventually(ctx, guestLimit, func() error {
			who, err := d.inGuest(ctx, m.name, "id", "-un")
			if err == nil {
				err = expect(who == "ec2-user", "logged in as %q", who)
			}
			return err
		})
		if m.name == "a1" {
			d.check("ssh", err)
		}
		if err != nil {
			return fmt.Errorf("%s does not answer: %w", m.name, err)
		}
	}
	d.check("console", d.console(ctx))
	d.check("user_data", d.userData(ctx))
	d.check("tcp_allowed", d.probe(ctx, "a1", "tcp", "10.0.1.10", "8080", allowMs))
	d.check("tcp_denied", d.denied(ctx, "a1", "tcp", "10.0.1.10", "8082", deniedMs))
	d.check("group_reference", d.groupReference(ctx))
	d.check("spoof_dropped", d.spoof(ctx))
	d.check("overlap_isolated", d.overlap(ctx))
	d.check("host_isolated", d.hostIsolated(ctx))
	d.check("bulk_tcp", d.bulk(ctx))
	return nil
}

// probe runs a probe in a guest; it must say ok.
func (d *demo) probe(ctx context.Context, who string, args ...string) error {
	out, err := d.inGuest(ctx, who, append([]string{"probe"}, args...)...)
	if err != nil {
		return err
	}
	return expect(strings.HasPrefix(out, "ok"), "probe %s: %s", strings.Join(args, " "), out)
}

// denied runs a probe that must say that nothing came back. An error of the probe itself is no denial.
func (d *demo) denied(ctx context.Context, who string, args ...string) error {
	out, _ := d.inGuest(ctx, who, append([]string{"probe"}, args...)...) // its exit status says fail, as it should
	return expect(strings.HasPrefix(out, "fail") && strings.Contains(out, `"reason":"timeout"`), "probe %s: %s", strings.Join(args, " "), out)
}

func (d *demo) console(ctx context.Context) error {
	var out struct{ Output string }
	if err := d.aws(ctx, &out, "ec2", "get-console-output", "--instance-id", d.instances["a1"].ID, "--latest"); err != nil {
		return err
	}
	return expect(strings.Contains(out.Output, d.instances["a1"].ID), "no line with the instance's id in %d bytes of console", len(out.Output))
}

func (d *demo) userData(ctx context.Context) error {
	return eventually(ctx, 30*time.Second, func() error {
		out, err := d.inGuest(ctx, "a1", "wget", "-q", "-O", "-", "http://10.0.1.10:8083/name")
		if err != nil {
			return err
		}
		return expect(strings.HasPrefix(out, "ip-10-0-1-10"), "a2's web server, started by its user data, says %q", out)
	})
}

// groupReference shows that the rule from group "client" is what lets a1 in: without it nothing passes, with it all does.
func (d *demo) groupReference(ctx context.Context) error {
	if err := d.probe(ctx, "a1", "tcp", "10.0.1.10", "8081", allowMs); err != nil {
		return err
	}
	n := d.networks["a"]
	rule := "IpProtocol=tcp,FromPort=8081,ToPort=8081,UserIdGroupPairs=[{GroupId=" + n.Groups["client"] + "}]"
	if err := d.aws(ctx, nil, "ec2", "revoke-security-group-ingress", "--group-id", n.Groups["app"], "--ip-permissions", rule); err != nil {
		return err
	}
	revoked := eventually(ctx, 10*time.Second, func() error { return d.denied(ctx, "a1", "tcp", "10.0.1.10", "8081", deniedMs) })
	if err := d.aws(ctx, nil, "ec2", "authorize-security-group-ingress", "--group-id", n.Groups["app"], "--ip-permissions", rule); err != nil {
		return err
	}
	if revoked != nil {
		return fmt.Errorf("after the rule was revoked: %w", revoked)
	}
	return eventually(ctx, 10*time.Second, func() error { return d.probe(ctx, "a1", "tcp", "10.0.1.10", "8081", allowMs) })
}

// spoof sends datagrams from another's address and then from its own: the peer's kernel must count the second kind only.
func (d *demo) spoof(ctx context.Context) error {
	const packets = 60 // few enough for a guest's queues
	own, err := d.received(ctx, "a1", "a2", packets, d.instances["a1"].Address)
	if err != nil {
		return err
	}
	foreign, err := d.received(ctx, "a1", "a2", packets, "10.0.0.77")
	if err != nil {
		return err
	}
	return expect(own >= packets/2 && foreign < packets/10, "of %d datagrams a2 received %d from a1's own address and %d from a forged one", packets, own, foreign)
}

// received sends datagrams with a source address and returns by how much the peer's count of received ones rose.
func (d *demo) received(ctx context.Context, from, to string, packets int, source string) (int, error) {
	before, err := d.datagrams(ctx, to)
	if err != nil {
		return 0, err
	}
	if err := d.probe(ctx, from, "spoof-ip", source, d.instances[to].Address, fmt.Sprintf("count=%d", packets), "proto=udp", "dstPort=7"); err != nil {
		return 0, err
	}
	after, err := d.datagrams(ctx, to)
	return after - before, err
}

// datagrams is a guest kernel's count of UDP datagrams delivered to a socket.
func (d *demo) datagrams(ctx context.Context, who string) (int, error) {
	out, err := d.inGuest(ctx, who, "probe", "counters")
	if err != nil {
		return 0, err
	}
	var counters map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(out, "ok ")), &counters); err != nil {
		return 0, fmt.Errorf("read counters %q: %w", out, err)
	}
	n, _ := counters["Udp.InDatagrams"].(float64) // a zero is left out
	return int(n), nil
}

// overlap asks the same address from both VPCs; each must reach its own peer.
func (d *demo) overlap(ctx context.Context) error {
	for _, vpc := range []string{"a", "b"} {
		out, err := d.inGuest(ctx, vpc+"1", "wget", "-q", "-O", "-", "http://10.0.1.10:8083/id")
		if err != nil {
			return err
		}
		want := d.instances[vpc+"2"].ID
		if err := expect(out == want, "from VPC %s, 10.0.1.10 is %q, want %s", vpc, out, want); err != nil {
			return err
		}
	}
	return nil
}

// hostIsolated tries what a guest must not reach: API, host link, agents, underlay; and a tunnel packet of its own making.
func (d *demo) hostIsolated(ctx context.Context) error {
	targets, far, err := d.forbidden(ctx)
	if err != nil {
		return err
	}
	for _, target := range targets {
		out, _ := d.inGuest(ctx, "a1", "probe", "tcp", target.Addr().String(), strconv.Itoa(int(target.Port())), deniedMs)
		if err := expect(strings.HasPrefix(out, "fail"), "a guest reached %s: %s", target, out); err != nil {
			return err
		}
	}
	before, err := d.datagrams(ctx, "a2")
	if err != nil {
		return err
	}
	const packets, networks = 50, 8 // network identifiers are counted from 1
	for vni := 1; vni <= networks; vni++ {
		err := d.probe(ctx, "a1", "raw-vxlan", far.String(), fmt.Sprint(vni), "10.0.0.10", "10.0.1.10", fmt.Sprintf("count=%d", packets), "dstPort=7")
		if err != nil {
			return err
		}
	}
	after, err := d.datagrams(ctx, "a2")
	if err != nil {
		return err
	}
	return expect(after-before < packets/2, "forged tunnel packets: a2 received %d datagrams", after-before)
}

// forbidden lists what a guest must not reach, from where this cloud really is: API and host link on the machine's address
// of the underlay, which is the network's first, each host's own address, and the API as the guest's gateway, metadata
// service and itself. far is the underlay address of a2's host.
func (d *demo) forbidden(ctx context.Context) (targets []netip.AddrPort, far netip.Addr, err error) {
	endpoint, err := url.Parse(d.endpoint)
	if err != nil {
		return nil, far, err
	}
	api, err := strconv.ParseUint(endpoint.Port(), 10, 16)
	if err != nil {
		return nil, far, fmt.Errorf("read endpoint %s: %w", d.endpoint, err)
	}
	var hosts []struct{ HostId, Address string }
	if err := d.nimbrelJSON(ctx, &hosts, "hosts"); err != nil {
		return nil, far, err
	}
	for _, text := range []string{"10.0.0.1", "127.0.0.1", "169.254.169.254"} {
		targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr(text), uint16(api)))
	}
	targets = append(targets, netip.MustParseAddrPort("169.254.169.254:22"))
	for _, h := range hosts {
		address, err := netip.ParseAddr(h.Address)
		if err != nil {
			return nil, far, fmt.Errorf("read address of host %s: %w", h.HostId, err)
		}
		if h.HostId == d.instances["a2"].Host {
			far = address
		}
		machine := netip.PrefixFrom(address, 24).Masked().Addr().Next()
		targets = append(targets, netip.AddrPortFrom(address, 22), netip.AddrPortFrom(machine, uint16(api)), netip.AddrPortFrom(machine, uint16(api)+1))
	}
	slices.SortFunc(targets, netip.AddrPort.Compare)
	return slices.Compact(targets), far, expect(far.IsValid(), "no host of a2 in %v", hosts)
}

// bulk sends data across hosts, both ways, and compares digests.
func (d *demo) bulk(ctx context.Context) error {
	if err := d.probe(ctx, "a2", "serve-hash", "9000"); err != nil && !strings.Contains(err.Error(), "in use") {
		return err // the server of an earlier run serves as well
	}
	begun := time.Now()
	if err := d.probe(ctx, "a1", "send-hash", d.instances["a2"].Address, "9000", bulkMiB, "dir=both", "timeoutMs=120000"); err != nil {
		return err
	}
	figure("bulk_32mib_both_ways_s", time.Since(begun).Seconds(), "s")
	return nil
}

// cleanCheck runs the invariant checker.
func (d *demo) cleanCheck(ctx context.Context) error {
	var out struct {
		Findings []struct{ Invariant, Subject, Detail string }
	}
	if err := d.nimbrelJSON(ctx, &out, "check"); err != nil {
		d.check("invariants", err)
		return nil
	}
	d.check("invariants", expect(len(out.Findings) == 0, "%v", out.Findings))
	return nil
}
