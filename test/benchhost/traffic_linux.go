package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pingsPerRound are sent one after the other: the next one follows the answer, so that no queue of a guest or a tap is
// ever full, and what is lost was lost on the way.
const pingsPerRound = 500

// A guest does all of this by itself. Neither server nor agents take part, but for answering metadata.
const (
	pings = `rm -f /tmp/stop /tmp/stopped; (until [ -e /tmp/stop ]; do probe ping %s count=%d timeoutMs=300000 >>/tmp/pings; done; touch /tmp/stopped) >/dev/null 2>&1 </dev/null & true`
	flows = `rm -f /tmp/enough; (until [ -e /tmp/enough ]; do
read up rest </proc/uptime; echo "$up open $(probe tcp %[1]s ` + openPort + ` 5000)" >>/tmp/flows
read up rest </proc/uptime; echo "$up closed $(probe tcp %[1]s ` + closedPort + ` 1500)" >>/tmp/flows
done) >/dev/null 2>&1 </dev/null & true`
	questions = `(until [ -e /tmp/enough ]; do read up rest </proc/uptime
echo "$up metadata $(probe http http://169.254.169.254/latest/api/token method=PUT header="X-aws-ec2-metadata-token-ttl-seconds: 60" timeoutMs=90000)" >>/tmp/asked
done) >/dev/null 2>&1 </dev/null & true`
)

// pair is two guests on two hosts that talk.
type pair struct {
	*cloud
	guests []guest
	key    string
}

// in runs a command in a guest.
func (p *pair) in(ctx context.Context, i int, command string) (string, error) {
	out, err := p.run(ctx, "ssh", "-i", p.key, p.guests[i].ID, "--", command)
	return strings.TrimSpace(out), err
}

// restarts ends and replaces agents while guests talk.
func (b *bench) restarts(ctx context.Context) {
	c := &cloud{bench: b, state: b.dir + "/state", binary: b.binaries[0]}
	defer func() {
		if err := c.down(ctx); err != nil {
			b.errs = append(b.errs, err)
		}
	}()
	p, err := c.begin(ctx)
	if err != nil {
		b.check("restart_lost_packets", err)
		return
	}
	before, err := c.machines()
	if err == nil && len(before) != len(hosts) {
		err = fmt.Errorf("machines %v, want one a host", before)
	}
	var passed, lost int
	if err == nil {
		passed, lost, err = p.endAgents(ctx)
	}
	if err == nil {
		err = p.allAway(ctx)
	}
	if err == nil {
		passed, lost, err = p.stopPings(ctx)
	}
	after, machinesErr := c.machines()
	if machinesErr == nil && !maps.Equal(before, after) {
		machinesErr = fmt.Errorf("machines %v, were %v", after, before)
	}
	b.check("guests_undisturbed", machinesErr)
	b.figure("restart_lost_packets", float64(lost), "packets", fmt.Sprintf("of=%d kills=%d upgrades=%d away=%v", passed+lost, b.kills, b.upgrades, b.away), 0, err)
}

// begin brings the cloud up and has two guests ping each other.
func (c *cloud) begin(ctx context.Context) (*pair, error) {
	progress("bringing a cloud up")
	if err := c.up(ctx); err != nil {
		return nil, err
	}
	d, err := openDoor(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &pair{cloud: c}
	if p.guests, p.key, err = d.launch(ctx, c.bench); err != nil {
		return nil, err
	}
	for i := range p.guests {
		err := until(ctx, "a login to "+p.guests[i].ID, func() (bool, error) {
			_, err := p.in(ctx, i, "mkdir -p /tmp/www; httpd -p "+closedPort+" -h /tmp/www; true")
			return err == nil, err
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range p.guests {
		if _, err := p.in(ctx, i, fmt.Sprintf(pings, p.guests[1-i].Address, pingsPerRound)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// counted sums what the guests' pings came to: an answered one is two packets that passed.
func (p *pair) counted(ctx context.Context) (passed, lost int, err error) {
	for i := range p.guests {
		out, err := p.in(ctx, i, "cat /tmp/pings 2>/dev/null; true")
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(out) {
			status, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			var round struct{ Sent, Received int }
			if err := json.Unmarshal([]byte(text), &round); err != nil {
				return 0, 0, fmt.Errorf("pings of %s: %w in %q", p.guests[i].ID, err, line)
			}
			passed += 2 * round.Received
			if status != "ok" { // its last one was not answered within minutes; the rest were not sent
				lost++
			}
		}
	}
	return passed, lost, nil
}

// endAgents kills and replaces the agents by turns, spread over the packets.
func (p *pair) endAgents(ctx context.Context) (passed, lost int, err error) {
	events := p.bench.kills + p.bench.upgrades
	for n := range events {
		err := until(ctx, "enough pings have passed", func() (bool, error) {
			passed, lost, err = p.counted(ctx)
			return err == nil && passed >= n*p.bench.packets/events, err
		})
		if err != nil {
			return passed, lost, err
		}
		kill := n%2 == 0 && n/2 < p.bench.kills || n/2 >= p.bench.upgrades
		if err := p.endBoth(ctx, kill); err != nil {
			return passed, lost, fmt.Errorf("end %d of the agents: %w", n+1, err)
		}
		progress("agents ended %d of %d times; %d packets passed before, %d lost", n+1, events, passed, lost)
	}
	return passed, lost, nil
}

// endBoth ends both agents and starts them again: after a kill by the same binary, else by the other version.
func (p *pair) endBoth(ctx context.Context, kill bool) error {
	if kill {
		if err := p.end(ctx, syscall.SIGKILL, hosts...); err != nil {
			return err
		}
		return p.up(ctx)
	}
	before, err := p.versions(ctx)
	if err != nil {
		return err
	}
	if err := p.end(ctx, syscall.SIGTERM, hosts...); err != nil {
		return err
	}
	if p.binary == p.bench.binaries[0] {
		p.binary = p.bench.binaries[1]
	} else {
		p.binary = p.bench.binaries[0]
	}
	if err := p.up(ctx); err != nil {
		return err
	}
	after, err := p.versions(ctx)
	for _, name := range hosts {
		if err == nil && (after[name] == "" || after[name] == before[name]) {
			err = fmt.Errorf("agent of %s is %q, was %q: no upgrade", name, after[name], before[name])
		}
	}
	return err
}

// allAway leaves the guests alone with their hosts' kernels for a while.
func (p *pair) allAway(ctx context.Context) error {
	for _, command := range []string{fmt.Sprintf(flows, p.guests[1].Address), questions} {
		if _, err := p.in(ctx, 0, command); err != nil {
			return err
		}
	}
	asked := func() (n int, err error) {
		out, err := p.in(ctx, 0, `grep -c '"status":200' /tmp/asked; true`)
		if err == nil {
			n, err = strconv.Atoi(out)
		}
		return n, err
	}
	if err := until(ctx, "metadata is answered", func() (bool, error) { n, err := asked(); return n > 0, err }); err != nil {
		return err
	}
	sent := time.Now()
	text, err := p.in(ctx, 0, "cat /proc/uptime")
	up, parseErr := strconv.ParseFloat(strings.Fields(text + " x")[0], 64)
	if err := errors.Join(err, parseErr); err != nil {
		return err
	}
	progress("server and agents are dead for %v", p.bench.away)
	if err := p.end(ctx, syscall.SIGKILL, append([]string{"server"}, hosts...)...); err != nil {
		return err
	}
	from := up + time.Since(sent).Seconds() // the guest's clock was read after sent: nothing ran any more then
	select {
	case <-time.After(p.bench.away): // what is measured
	case <-ctx.Done():
		return ctx.Err()
	}
	to := from + p.bench.away.Seconds() - sendSlack
	if err := p.up(ctx); err != nil {
		return err
	}
	before, err := asked()
	if err != nil {
		return err
	}
	err = until(ctx, "metadata is answered again", func() (bool, error) { n, err := asked(); return n > before, err })
	p.bench.check("metadata_answers_again", err)
	if _, err := p.in(ctx, 0, "touch /tmp/enough"); err != nil {
		return err
	}
	out, err := p.in(ctx, 0, "cat /tmp/flows")
	if err != nil {
		return err
	}
	p.bench.check("new_flow_passes_unattended", flowsBetween(out, "open", from, to, func(line string) bool { return strings.HasPrefix(line, "ok ") }))
	p.bench.check("denied_flow_stays_denied_unattended", flowsBetween(out, "closed", from, to, func(line string) bool { return strings.Contains(line, `"reason":"timeout"`) }))
	return nil
}

// sendSlack is how long before the return of the agents the last flow that counts is begun.
const sendSlack = 6

// flowsBetween holds that flows were begun at moments of a guest's clock, at least three, and went as they must.
func flowsBetween(out, kind string, from, to float64, good func(answer string) bool) error {
	count := 0
	for line := range strings.Lines(out) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) != 3 || fields[1] != kind {
			continue
		}
		at, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return err
		}
		if at < from || at > to {
			continue
		}
		if !good(fields[2]) {
			return fmt.Errorf("%.1f s after the last agent died: %s", at-from, fields[2])
		}
		count++
	}
	if count < 3 {
		return fmt.Errorf("%d flows were begun, want at least 3:\n%s", count, out)
	}
	return nil
}

// stopPings ends the pings once enough have passed.
func (p *pair) stopPings(ctx context.Context) (passed, lost int, err error) {
	err = until(ctx, "enough pings have passed", func() (bool, error) {
		passed, lost, err = p.counted(ctx)
		return err == nil && passed >= p.bench.packets, err
	})
	if err != nil {
		return passed, lost, err
	}
	for i := range p.guests {
		err := until(ctx, "the pings have ended", func() (bool, error) {
			out, err := p.in(ctx, i, "touch /tmp/stop; ls /tmp/stopped 2>/dev/null; true")
			return out != "", err
		})
		if err != nil {
			return passed, lost, err
		}
	}
	return p.counted(ctx)
}
