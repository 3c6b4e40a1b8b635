package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// The demo's two VPCs have the same range, and their instances the same addresses, on the same hosts.
const (
	vpcRange     = "10.0.0.0/16"
	instanceType = "nb1.tiny"
	tokenPrefix  = "demo-"
)

var subnetRanges = []string{"10.0.0.0/24", "10.0.1.0/24"}

// members are the instances: two in each VPC, one in each zone. The name's letter is its VPC.
var members = []struct {
	name, address string
	zone          int
	groups        []string
}{
	{"a1", "10.0.0.10", 0, []string{"client"}},
	{"a2", "10.0.1.10", 1, []string{"app"}},
	{"b1", "10.0.0.10", 0, []string{"open"}},
	{"b2", "10.0.1.10", 1, []string{"open"}},
}

// userData serves each guest's name and instance id over HTTP, so that a peer can tell who answered.
const userData = `#!/bin/sh
mkdir -p /tmp/www
hostname > /tmp/www/name
probe imds meta-data/instance-id | sed 's/.*"body":"\(i-[0-9a-f]*\)".*/\1/' > /tmp/www/id
httpd -p 8083 -h /tmp/www
echo serving as $(hostname)
`

// network finds or makes key pair, VPCs, subnets and groups.
func (d *demo) network(ctx context.Context) error {
	if err := d.findPlaces(ctx); err != nil {
		return err
	}
	if err := d.keyPair(ctx); err != nil {
		return err
	}
	d.networks = map[string]*network{}
	for _, name := range []string{"a", "b"} {
		n, err := d.ensureNetwork(ctx, name)
		if err != nil {
			return fmt.Errorf("VPC %s: %w", name, err)
		}
		d.networks[name] = n
	}
	return nil
}

func (d *demo) findPlaces(ctx context.Context) error {
	var zones struct{ AvailabilityZones []struct{ ZoneName string } }
	if err := d.aws(ctx, &zones, "ec2", "describe-availability-zones"); err != nil {
		return err
	}
	for _, z := range zones.AvailabilityZones {
		d.zones = append(d.zones, z.ZoneName)
	}
	if len(d.zones) < 2 {
		return fmt.Errorf("%d zones: want two", len(d.zones))
	}
	var images struct{ Images []struct{ ImageId string } }
	if err := d.aws(ctx, &images, "ec2", "describe-images", "--filters", "Name=name,Values=nimbrel-guest", "Name=state,Values=available"); err != nil {
		return err
	}
	if len(images.Images) == 0 {
		return fmt.Errorf("no image named nimbrel-guest: run `make image` and `nimbrel dev up --image build/image/…`")
	}
	d.image = images.Images[0].ImageId
	return nil
}

// keyPair makes the key pair, again when its private key is no longer here.
func (d *demo) keyPair(ctx context.Context) error {
	if _, err := os.Stat(d.keyPath()); err == nil {
		if err := d.aws(ctx, nil, "ec2", "describe-key-pairs", "--key-names", "demo"); err == nil {
			return nil
		}
	}
	if err := d.aws(ctx, nil, "ec2", "delete-key-pair", "--key-name", "demo"); err != nil {
		return err
	}
	var key struct{ KeyMaterial string }
	if err := d.aws(ctx, &key, "ec2", "create-key-pair", "--key-name", "demo", "--key-type", "ed25519"); err != nil {
		return err
	}
	if err := os.Remove(d.keyPath()); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(d.keyPath(), []byte(key.KeyMaterial), 0o400)
}

func (d *demo) ensureNetwork(ctx context.Context, name string) (*network, error) {
	n := &network{Groups: map[string]string{}}
	var found struct{ Vpcs []struct{ VpcId string } }
	if err := d.aws(ctx, &found, "ec2", "describe-vpcs", "--filters", "Name=tag:Name,Values=demo-"+name); err != nil {
		return nil, err
	}
	if len(found.Vpcs) > 0 {
		n.VPC = found.Vpcs[0].VpcId
	} else {
		var made struct{ Vpc struct{ VpcId string } }
		if err := d.aws(ctx, &made, "ec2", "create-vpc", "--cidr-block", vpcRange, "--tag-specifications", nameTag("vpc", "demo-"+name)); err != nil {
			return nil, err
		}
		n.VPC = made.Vpc.VpcId
		if err := d.aws(ctx, nil, "ec2", "wait", "vpc-available", "--vpc-ids", n.VPC); err != nil && !strings.Contains(err.Error(), "read answer") {
			return nil, err
		}
	}
	for i, block := range subnetRanges {
		id, err := d.ensureSubnet(ctx, n.VPC, block, d.zones[i])
		if err != nil {
			return nil, err
		}
		n.Subnets = append(n.Subnets, id)
	}
	return n, d.ensureGroups(ctx, name, n)
}

func nameTag(kind, name string) string {
	return fmt.Sprintf("ResourceType=%s,Tags=[{Key=Name,Value=%s}]", kind, name)
}

func (d *demo) ensureSubnet(ctx context.Context, vpc, block, zone string) (string, error) {
	var found struct{ Subnets []struct{ SubnetId string } }
	err := d.aws(ctx, &found, "ec2", "describe-subnets", "--filters", "Name=vpc-id,Values="+vpc, "Name=cidr-block,Values="+block)
	if err != nil || len(found.Subnets) > 0 {
		if err != nil {
			return "", err
		}
		return found.Subnets[0].SubnetId, nil
	}
	var made struct{ Subnet struct{ SubnetId string } }
	err = d.aws(ctx, &made, "ec2", "create-subnet", "--vpc-id", vpc, "--cidr-block", block, "--availability-zone", zone)
	return made.Subnet.SubnetId, err
}

// ensureGroups makes VPC a's groups "client" (nothing in) and "app" (8080 from the VPC, 8081 from clients, 8083 and bulk
// from the VPC), and VPC b's group "open" (everything from the VPC).
func (d *demo) ensureGroups(ctx context.Context, name string, n *network) error {
	names := map[string][]string{"a": {"client", "app"}, "b": {"open"}}[name]
	fresh := map[string]bool{}
	for _, g := range names {
		id, made, err := d.ensureGroup(ctx, n.VPC, g)
		if err != nil {
			return err
		}
		n.Groups[g], fresh[g] = id, made
	}
	rules := map[string][]string{
		"app": {
			"IpProtocol=tcp,FromPort=8080,ToPort=8080,IpRanges=[{CidrIp=" + vpcRange + "}]",
			"IpProtocol=tcp,FromPort=8083,ToPort=8083,IpRanges=[{CidrIp=" + vpcRange + "}]",
			"IpProtocol=tcp,FromPort=9000,ToPort=9000,IpRanges=[{CidrIp=" + vpcRange + "}]",
			"IpProtocol=udp,FromPort=7,ToPort=7,IpRanges=[{CidrIp=" + vpcRange + "}]",
			"IpProtocol=tcp,FromPort=8081,ToPort=8081,UserIdGroupPairs=[{GroupId=" + n.Groups["client"] + "}]",
		},
		"open": {"IpProtocol=-1,IpRanges=[{CidrIp=" + vpcRange + "}]"},
	}
	for _, g := range names {
		if !fresh[g] || len(rules[g]) == 0 {
			continue
		}
		args := append([]string{"ec2", "authorize-security-group-ingress", "--group-id", n.Groups[g], "--ip-permissions"}, rules[g]...)
		if err := d.aws(ctx, nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// ensureGroup finds a group with rules, or makes it. A group without rules is one that an interrupted run made.
func (d *demo) ensureGroup(ctx context.Context, vpc, name string) (id string, needsRules bool, err error) {
	var found struct {
		SecurityGroups []struct {
			GroupId       string
			IpPermissions []json.RawMessage
		}
	}
	err = d.aws(ctx, &found, "ec2", "describe-security-groups", "--filters", "Name=vpc-id,Values="+vpc, "Name=group-name,Values="+name)
	if err != nil {
		return "", false, err
	}
	if len(found.SecurityGroups) > 0 {
		return found.SecurityGroups[0].GroupId, len(found.SecurityGroups[0].IpPermissions) == 0, nil
	}
	var made struct{ GroupId string }
	err = d.aws(ctx, &made, "ec2", "create-security-group", "--vpc-id", vpc, "--group-name", name, "--description", "demo group "+name)
	return made.GroupId, true, err
}

// launch starts the instances all at once, each under a client token of its own, and waits with the CLI's own waiters.
func (d *demo) launch(ctx context.Context) error {
	d.instances = map[string]*instance{}
	started, launched := time.Now(), 0
	for _, m := range members {
		v, made, err := d.runInstance(ctx, m.name)
		if err != nil {
			return fmt.Errorf("launch %s: %w", m.name, err)
		}
		d.instances[m.name] = v
		if made {
			launched++
		}
	}
	fmt.Printf("launched %d instances, found %d of an earlier run; waiting for them to run\n", launched, len(members)-launched)
	if err := d.wait(ctx, "instance-running"); err != nil {
		return err
	}
	if launched == len(members) {
		figure("launch_to_running_s", time.Since(started).Seconds(), "s")
	}
	if d.simulated {
		return nil
	}
	return d.wait(ctx, "instance-status-ok")
}

// wait runs one of the CLI's waiters for each instance at once.
func (d *demo) wait(ctx context.Context, waiter string) error {
	errs := make(chan error, len(d.instances))
	var group sync.WaitGroup
	for _, v := range d.instances {
		group.Add(1)
		go func() {
			defer group.Done()
			err := d.aws(ctx, nil, "ec2", "wait", waiter, "--instance-ids", v.ID)
			errs <- err
		}()
	}
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) token(name string, attempt int) string {
	return fmt.Sprintf("%s%s-%s-%d", tokenPrefix, name, d.networks[name[:1]].VPC, attempt)
}

// runInstance launches a member, or finds it by its token and starts it when it was stopped. A token whose instance has
// ended since gives way to the next. made says whether this call launched it.
func (d *demo) runInstance(ctx context.Context, name string) (v *instance, made bool, err error) {
	for attempt := 0; attempt < 20; attempt++ {
		v, state, err := d.runOnce(ctx, name, d.token(name, attempt))
		if err != nil {
			return nil, false, err
		}
		switch state {
		case "pending", "running":
			return v, state == "pending", nil
		case "stopping", "stopped":
			return v, false, d.restart(ctx, v.ID)
		case "shutting-down": // its address is free afterwards
			if err := d.aws(ctx, nil, "ec2", "wait", "instance-terminated", "--instance-ids", v.ID); err != nil {
				return nil, false, err
			}
		}
	}
	return nil, false, fmt.Errorf("token %s: %w that runs", d.token(name, 0), errNone)
}

// restart starts an instance that a person has stopped.
func (d *demo) restart(ctx context.Context, id string) error {
	if err := d.aws(ctx, nil, "ec2", "wait", "instance-stopped", "--instance-ids", id); err != nil {
		return err
	}
	return d.aws(ctx, nil, "ec2", "start-instances", "--instance-ids", id)
}

func (d *demo) runOnce(ctx context.Context, name, token string) (*instance, string, error) {
	var m = members[0]
	for _, candidate := range members {
		if candidate.name == name {
			m = candidate
		}
	}
	n := d.networks[name[:1]]
	args := []string{
		"ec2", "run-instances", "--image-id", d.image, "--instance-type", instanceType, "--key-name", "demo", "--client-token", token,
		"--subnet-id", n.Subnets[m.zone], "--private-ip-address", m.address, "--user-data", userData,
		"--tag-specifications", nameTag("instance", "demo-"+name), "--security-group-ids",
	}
	for _, g := range m.groups {
		args = append(args, n.Groups[g])
	}
	var out struct {
		Instances []struct {
			InstanceId, PrivateIpAddress string
			State                        struct{ Name string }
		}
	}
	if err := d.aws(ctx, &out, args...); err != nil {
		return nil, "", err
	}
	if len(out.Instances) != 1 {
		return nil, "", fmt.Errorf("%d instances, want 1", len(out.Instances))
	}
	v := out.Instances[0]
	return &instance{ID: v.InstanceId, Address: v.PrivateIpAddress}, v.State.Name, nil
}
