package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/computetest"
	computes "github.com/nimbrel/nimbrel/compute/server"
	"github.com/nimbrel/nimbrel/ec2/server"
	images "github.com/nimbrel/nimbrel/image/server"
	networks "github.com/nimbrel/nimbrel/vpc/server"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// second is another door on the same store: its own parts, with views of their own.
func (d *door) second() *door {
	d.t.Helper()
	key, err := rootkey.New(make([]byte, 32), d.Env.Random)
	if err != nil {
		d.t.Fatal(err)
	}
	people := accounts.New(d.DB, key, accounts.Options{Env: d.Env})
	tags := people.Tags()
	nets, err := networks.New(d.DB, networks.Options{Region: computetest.Region, Zones: []string{computetest.Zone}, Tags: tags, Env: d.Env})
	if err != nil {
		d.t.Fatal(err)
	}
	pictures := images.New(d.DB, images.Options{Dir: d.t.TempDir(), Tags: tags, Env: d.Env})
	machines := computes.New(d.DB, computes.Options{
		KeyPairs: people, Tags: tags, Networks: nets, Images: pictures, Region: computetest.Region, Env: d.Env, Log: slog.New(slog.DiscardHandler),
	})
	tags.Register("i", "instance", computerows.ExpectOwned)
	for _, t := range vpcrows.Taggables() {
		tags.Register(t.IDPrefix, string(t.Kind), t.Expect)
	}
	ctx, cancel := context.WithCancel(d.ctx)
	done := make(chan error, 4)
	for _, run := range []func(context.Context) error{people.Run, nets.Run, pictures.Run, machines.Run} {
		go func() { done <- run(ctx) }()
	}
	d.t.Cleanup(func() {
		cancel()
		for range 4 {
			<-done
		}
	})
	other := *d
	other.url = d.serve(func(o *server.Options) {
		o.Account, o.Tags, o.VPC, o.Image, o.Compute = people, tags, nets, pictures, machines
	})
	return &other
}

// TestReadYourWriteAcrossFrontEnds holds that what one front end has answered is there for the next request, whichever
// front end of the process that goes to.
func TestReadYourWriteAcrossFrontEnds(t *testing.T) {
	d := openDoor(t, 2)
	doors := []*door{d, d.second()} // hosts are connected to the first, which therefore launches
	var all []string
	for round := range 20 {
		writer, reader := doors[round%2], doors[(round+1)%2]
		tag := fmt.Sprint("round-", round)
		launched := d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet),
			"TagSpecification.1.ResourceType", "instance", "TagSpecification.1.Tag.1.Key", "round", "TagSpecification.1.Tag.1.Value", tag)
		id, address := launched.one("instanceId"), launched.all("privateIpAddress")[0]
		all = append(all, id)
		for _, filter := range [][]string{
			{"tag:round", tag}, {"private-ip-address", address}, {"instance-id", id}, {"tag:round", strings.Replace(tag, "round", "r?und", 1)},
		} {
			if got := doors[1].ok("DescribeInstances", "Filter.1.Name", filter[0], "Filter.1.Value.1", filter[1]).all("instanceId"); !slices.Equal(got, []string{id}) {
				t.Fatalf("round %d: by %v: %v, want %s", round, filter, got, id)
			}
		}
		if got := doors[1].ok("DescribeInstances").all("instanceId"); len(got) != len(all) {
			t.Fatalf("round %d: %d instances, want %d", round, len(got), len(all))
		}
		writer.ok("CreateTags", "ResourceId.1", id, "Tag.1.Key", "round", "Tag.1.Value", "seen")
		if got := reader.ok("DescribeInstances", "Filter.1.Name", "tag:round", "Filter.1.Value.1", "seen").all("instanceId"); len(got) != len(all) {
			t.Fatalf("round %d: %d are tagged, want %d", round, len(got), len(all))
		}
		group := writer.ok("CreateSecurityGroup", "GroupName", tag, "GroupDescription", "x", "VpcId", string(d.VPC)).one("groupId")
		reader.ok("DescribeSecurityGroups", "GroupId.1", group)
	}
	doors[0].ok("TerminateInstances", "InstanceId.1", all[0])
	for _, gone := range doors[1].ok("DescribeInstances", "Filter.1.Name", "instance-state-name", "Filter.1.Value.1", "pending", "Filter.1.Value.2", "running").all("instanceId") {
		if gone == all[0] {
			t.Errorf("%s is shown as it was before it was terminated", gone)
		}
	}
}
