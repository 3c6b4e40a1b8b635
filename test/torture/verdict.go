package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

// How long the cloud may take for its last work. A busy machine takes a fifth of it.
const (
	endLimit   = 10 * time.Minute
	settleTime = 2 * time.Minute
)

// verdict brings everything up, compares it with what was acknowledged, terminates it, and counts what is left.
func verdict(ctx context.Context, c *cloud, tenants []*tenant, b *books) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := c.up(ctx); err != nil {
		return err
	}
	b.demandKills(c)
	for _, t := range tenants {
		t.look(ctx, b)
		t.compareRules(ctx, b)
	}
	for _, t := range tenants {
		if err := t.terminateAll(ctx); err != nil {
			return fmt.Errorf("account %d: terminate everything: %w", t.n, err)
		}
	}
	for _, t := range tenants {
		t.awaitEnd(ctx, b)
	}
	return count(ctx, c, b)
}

// demandKills: a run that killed no process of a kind has shown nothing about it.
func (b *books) demandKills(c *cloud) {
	const enough = 3 * time.Minute // shorter runs are for trying the command
	for _, kind := range []string{"server", "agent", "qemu"} {
		b.mu.Lock()
		n := b.counts["killed-"+kind]
		b.mu.Unlock()
		if n == 0 && c.o.duration >= enough {
			b.wrong(&b.broken, "no %s was killed", kind)
		}
	}
}

// compareRules compares the group's rules with what was acknowledged. A port whose last answer was not heard is either.
func (t *tenant) compareRules(ctx context.Context, b *books) {
	var out struct {
		Ports []int `xml:"securityGroupInfo>item>ipPermissions>item>fromPort"`
	}
	if err := t.api.call(ctx, &out, "DescribeSecurityGroups", "GroupId.1", t.group); err != nil {
		t.failed(b, "describe rules", err)
		return
	}
	is := map[int]bool{}
	for _, p := range out.Ports {
		is[p] = true
	}
	for p := 1; p <= 20; p++ {
		if is[p] != t.rules[p] && !t.unknown[p] {
			b.wrong(&b.lost, "account %d: port %d is let in: %v, acknowledged: %v", t.n, p, is[p], t.rules[p])
		}
	}
}

// terminateAll terminates whatever the account has, also what a launch made whose answer was not heard.
func (t *tenant) terminateAll(ctx context.Context) error {
	all, err := t.api.describe(ctx)
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.State == "terminated" {
			continue
		}
		if err := t.api.call(ctx, &struct{}{}, "TerminateInstances", "InstanceId.1", i.ID); err != nil {
			return err
		}
	}
	return nil
}

// awaitEnd waits until the account has nothing but terminated instances; what does not come to its end is a leak.
func (t *tenant) awaitEnd(ctx context.Context, b *books) {
	var open []devcloud.Instance
	for ctx.Err() == nil {
		all, err := t.api.describe(ctx)
		if err != nil {
			t.failed(b, "describe", err)
			break // what was open last stays a leak
		}
		t.compareEnded(all, b)
		open = open[:0]
		for _, i := range all {
			if i.State != "terminated" {
				open = append(open, i)
			}
		}
		if len(open) == 0 {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	for _, i := range open {
		b.wrong(&b.leaks, "account %d: %s stays %s", t.n, i.ID, i.State)
	}
}

// compareEnded looks for terminated instances that were forgotten.
func (t *tenant) compareEnded(all []devcloud.Instance, b *books) {
	there := map[string]bool{}
	for _, i := range all {
		there[i.ID] = true
	}
	for id := range t.held {
		if !there[id] {
			b.wrong(&b.lost, "account %d: %s is forgotten", t.n, id)
			delete(t.held, id)
		}
	}
}

// leftOf lists what is left when nothing should be: what the checker finds, machines, files of guests, and capacity that
// did not return.
func leftOf(ctx context.Context, c *cloud) (left []string, err error) {
	if out, err := c.command(ctx, "check"); err != nil {
		found := regexp.MustCompile(`(?m)^check .* FAIL .*$`).FindAllString(out, -1)
		if len(found) == 0 {
			return nil, err
		}
		left = append(left, found...)
	}
	for id, pid := range c.machines() {
		left = append(left, fmt.Sprintf("machine of %s: process %d", id, pid))
	}
	guests, err := filepath.Glob(filepath.Join(c.dir, "hosts", "*", "guests", "i-*"))
	if err != nil {
		return nil, err
	}
	left = append(left, guests...)
	hosts, err := into[[]struct {
		Name                                       string
		Vcpus, VcpusFree, MemoryMib, MemoryFreeMib int64
		Instances                                  int
	}](ctx, c, "hosts")
	for _, h := range hosts {
		if h.Instances != 0 || h.VcpusFree != h.Vcpus || h.MemoryFreeMib != h.MemoryMib {
			left = append(left, fmt.Sprintf("capacity of %+v", h))
		}
	}
	return left, err
}

// count counts what is left once it stays the same: hosts and the server may have work under way.
func count(ctx context.Context, c *cloud, b *books) error {
	until := time.Now().Add(settleTime)
	for {
		left, err := leftOf(ctx, c)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			fmt.Println("check clean; no machine, no guest's files and no capacity is left")
			return nil
		}
		if time.Now().After(until) {
			for _, what := range left {
				b.wrong(&b.leaks, "left: %s", what)
			}
			return nil
		}
		time.Sleep(time.Second)
	}
}
