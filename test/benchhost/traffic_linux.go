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

	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/test/devcloud"
)

// pingsPerRound are sent one after the other: the next one follows the answer, so that no queue of a guest or a tap is
// ever full, and what is lost was lost on the way.
const (
	pingsPerRound = 500
	streams       = 2 // of pings from each guest
)

// A guest does all of this by itself. Neither server nor agents take part, but for answering metadata.
const (
	pings = `(until [ -e /tmp/stop ]; do probe ping %[1]s count=%[2]d timeoutMs=300000 >>/tmp/pings%[3]d; done; echo stopped >>/tmp/stopped) >/dev/null 2>&1 </dev/null & true`
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
	guests []devcloud.Instance
	key    string
}

// in runs a command in a guest.
func (p *pair) in(ctx context.Context, i int, command string) (string, error) {
	out, err := p.Run(ctx, "ssh", "-i", p.key, p.guests[i].ID, "--", command)
	return strings.TrimSpace(out), err
}

// restarts ends and replaces agents while guests talk.
func (b *run) restarts(ctx context.Context) {
	c := b.newCloud()
	defer func() {
		if err := c.Down(ctx, downLimit); err != nil {
			b.Check("cloud_ends", "", err)
		}
	}()
	p, err := c.begin(ctx)
	if err != nil {
		b.Check("restart_lost_packets", "", err)
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
	b.Check("guests_undisturbed", "", machinesErr)
	b.AtMost(bench.Figure{
		Name: "restart_lost_packets", Value: float64(lost), Unit: "packets",
		Detail: fmt.Sprintf("of=%d kills=%d upgrades=%d away=%v", passed+lost, b.kills, b.upgrades, b.away),
	}, 0, err)
}

// begin brings the cloud up and has two guests ping each other.
func (c *cloud) begin(ctx context.Context) (*pair, error) {
	bench.Progress("bringing a cloud up")
	if err := c.up(ctx); err != nil {
		return nil, err
	}
	d, err := openDoor(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &pair{cloud: c}
	if p.guests, p.key, err = d.launch(ctx, c.run); err != nil {
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
		for n := range streams {
			if _, err := p.in(ctx, i, fmt.Sprintf(pings, p.guests[1-i].Address, pingsPerRound, n)); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// counted sums what the guests' pings came to: an answered one is two packets that passed.
func (p *pair) counted(ctx context.Context) (passed, lost int, err error) {
	for i := range p.guests {
		out, err := p.in(ctx, i, "cat /tmp/pings? 2>/dev/null; true")
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

// awaitPackets waits until so many have passed, or one is lost: the figure is decided then.
func (p *pair) awaitPackets(ctx context.Context, want int) (passed, lost int, err error) {
	err = until(ctx, fmt.Sprintf("%d packets have passed", want), func() (bool, error) {
		if passed, lost, err = p.counted(ctx); err != nil {
			return false, err
		}
		return passed >= want || lost > 0, fmt.Errorf("%d have", passed)
	})
	return passed, lost, err
}

// endAgents kills and replaces the agents by turns, spread over the packets.
func (p *pair) endAgents(ctx context.Context) (passed, lost int, err error) {
	events := p.run.kills + p.run.upgrades
	for n := range events {
		if passed, lost, err = p.awaitPackets(ctx, n*p.run.packets/events); err != nil {
			return passed, lost, err
		}
		kill := n%2 == 0 && n/2 < p.run.kills || n/2 >= p.run.upgrades
		if err := p.endBoth(ctx, kill); err != nil {
			return passed, lost, fmt.Errorf("end %d of the agents: %w", n+1, err)
		}
		bench.Progress("agents ended %d of %d times; %d packets passed before, %d lost", n+1, events, passed, lost)
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
	if p.Nimbrel == p.run.binaries[0] {
		p.Nimbrel = p.run.binaries[1]
	} else {
		p.Nimbrel = p.run.binaries[0]
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
	bench.Progress("server and agents are dead for %v", p.run.away)
	if err := p.end(ctx, syscall.SIGKILL, append([]string{"server"}, hosts...)...); err != nil {
		return err
	}
	from := up + time.Since(sent).Seconds() // the guest's clock was read after sent: nothing ran any more then
	select {
	case <-time.After(p.run.away): // what is measured
	case <-ctx.Done():
		return ctx.Err()
	}
	to := from + p.run.away.Seconds() - sendSlack
	if err := p.up(ctx); err != nil {
		return err
	}
	before, err := asked()
	if err != nil {
		return err
	}
	err = until(ctx, "metadata is answered again", func() (bool, error) { n, err := asked(); return n > before, err })
	p.run.Check("metadata_answers_again", "", err)
	if _, err := p.in(ctx, 0, "touch /tmp/enough"); err != nil {
		return err
	}
	out, err := p.in(ctx, 0, "cat /tmp/flows")
	if err != nil {
		return err
	}
	p.run.Check("new_flow_passes_unattended", "", flowsBetween(out, "open", from, to, func(line string) bool { return strings.HasPrefix(line, "ok ") }))
	p.run.Check("denied_flow_stays_denied_unattended", "", flowsBetween(out, "closed", from, to, func(line string) bool { return strings.Contains(line, `"reason":"timeout"`) }))
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
	if passed, lost, err = p.awaitPackets(ctx, p.run.packets); err != nil {
		return passed, lost, err
	}
	for i := range p.guests {
		err := until(ctx, "the pings have ended", func() (bool, error) {
			out, err := p.in(ctx, i, "touch /tmp/stop; cat /tmp/stopped 2>/dev/null; true")
			return strings.Count(out, "stopped") == streams, err
		})
		if err != nil {
			return passed, lost, err
		}
	}
	return p.counted(ctx)
}
