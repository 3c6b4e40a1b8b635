package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/test/devcloud"
)

const (
	instanceType = "nb1.tiny"
	openPort     = "8080" // where guests echo
	closedPort   = "8083" // where they serve pages, to nobody whom no rule lets in
	callLimit    = time.Minute
)

// door is a client of the EC2 API.
type door struct{ *devcloud.API }

func openDoor(ctx context.Context, c *cloud) (*door, error) {
	api, err := c.API(ctx, callLimit)
	return &door{api}, err
}

// answer is the part of answers that is looked at.
type answer struct {
	Key   string   `xml:"keyMaterial"`
	Group string   `xml:"groupId"`
	Zones []string `xml:"availabilityZoneInfo>item>zoneName"`
	VPCs  []string `xml:"vpcSet>item>vpcId"`
	devcloud.Launched
}

// call sends one action.
func (d *door) call(ctx context.Context, action string, parameters ...string) (out answer, err error) {
	_, err = d.Call(ctx, &out, action, parameters...)
	return out, err
}

// launch starts a guest on each host, in one group that lets in pings, ssh and openPort, and returns when they run.
func (d *door) launch(ctx context.Context, b *run) (guests []devcloud.Instance, key string, err error) {
	made, err := d.call(ctx, "CreateKeyPair", "KeyName", "bench", "KeyType", "ed25519")
	if err != nil {
		return nil, "", err
	}
	key = filepath.Join(b.Dir(), "key.pem")
	if err := os.WriteFile(key, []byte(made.Key), 0o600); err != nil {
		return nil, "", err
	}
	group, err := d.group(ctx)
	if err != nil {
		return nil, "", err
	}
	image, imageErr := d.Image(ctx)
	zones, zonesErr := d.call(ctx, "DescribeAvailabilityZones")
	if err := errors.Join(imageErr, zonesErr); err != nil {
		return nil, "", err
	}
	if len(zones.Zones) < len(hosts) {
		return nil, "", fmt.Errorf("zones %v: want one a host", zones.Zones)
	}
	for i := range hosts {
		out, err := d.call(ctx, "RunInstances", "ImageId", image, "InstanceType", instanceType, "MinCount", "1", "MaxCount", "1",
			"KeyName", "bench", "SecurityGroupId.1", group, "Placement.AvailabilityZone", zones.Zones[i])
		if err != nil {
			return nil, "", err
		}
		if len(out.Instances) != 1 {
			return nil, "", fmt.Errorf("RunInstances: %d instances, want 1", len(out.Instances))
		}
		b.guests = append(b.guests, out.Instances[0].ID)
		guests = append(guests, out.Instances[0])
	}
	for _, v := range guests {
		if err := d.Await(ctx, v.ID, "running", pollEvery, waitLimit); err != nil {
			return nil, "", err
		}
	}
	return guests, key, nil
}

func (d *door) group(ctx context.Context) (string, error) {
	vpcs, err := d.call(ctx, "DescribeVpcs")
	if err != nil || len(vpcs.VPCs) == 0 {
		return "", fmt.Errorf("default VPC: %w", errors.Join(err, errors.New("none found")))
	}
	out, err := d.call(ctx, "CreateSecurityGroup", "GroupName", "bench", "GroupDescription", "bench", "VpcId", vpcs.VPCs[0])
	if err != nil {
		return "", err
	}
	for _, rule := range [][3]string{{"icmp", "-1", "-1"}, {"tcp", openPort, openPort}, {"tcp", "22", "22"}} {
		_, err := d.call(ctx, "AuthorizeSecurityGroupIngress", "GroupId", out.Group, "IpPermissions.1.IpProtocol", rule[0],
			"IpPermissions.1.FromPort", rule[1], "IpPermissions.1.ToPort", rule[2], "IpPermissions.1.IpRanges.1.CidrIp", "0.0.0.0/0")
		if err != nil {
			return "", err
		}
	}
	return out.Group, nil
}
