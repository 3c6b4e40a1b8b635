package convert

import (
	"bytes"
	"context"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

var update = flag.Bool("update", false, "write the golden answers anew")

// shows answers DescribeInstances with views, one reservation for each.
type shows struct {
	ec2gen.Unsupported
	views []View
}

func (s shows) DescribeInstances(context.Context, *ec2gen.DescribeInstancesInput) (*ec2gen.DescribeInstancesOutput, error) {
	var arena Arena
	each := func(yield func(*ec2gen.Reservation) bool) {
		for _, v := range s.views {
			arena.Reset()
			if !yield(arena.Reservation(v.Reservation, v.Account, []*View{&v})) {
				return
			}
		}
	}
	return &ec2gen.DescribeInstancesOutput{Reservations: each, NextToken: new("next")}, nil
}

// instanceViews are instances in all their states, with everything set and with nothing set.
func instanceViews() []View {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_999_999, time.UTC)
	full := func(s compute.State) View {
		address := netip.MustParseAddr("10.0.0.4")
		return View{
			Instance: &compute.Instance{
				ID: "i-1", Account: "123456789012", Reservation: "r-1", LaunchIndex: 3, LaunchTime: at, CreateTime: at.Add(-time.Hour), Type: "t3.micro",
				Architecture: "x86_64", Image: "ami-1", Zone: "us-nimbrel-1a", Host: "h-1", State: s, Reason: compute.ReasonUserShutdown,
				TransitionReason: "User initiated (2026-11-23 17:57:34 GMT)", VPC: "vpc-1", Subnet: "subnet-1", Interface: "eni-1", Attachment: "eni-attach-1",
				Groups: []ids.SecurityGroup{"sg-1", "sg-2"}, PrivateIP: address, PrivateDNSName: "ip-10-0-0-4.us-nimbrel-1.compute.internal", KeyName: "key & <co>",
				Metadata: compute.MetadataOptions{TokensRequired: true, HopLimit: 3, Disabled: true}, RootDeviceName: "/dev/xvda", RootVolume: "vol-1",
				DeleteRootOnTerminate: true, ClientToken: "token", Tags: map[string]string{"b": "2", "a": "1", "Name": "ö \"<&>'\r\n", "": ""},
			},
			Interface: &vpc.Interface{
				ID: "eni-1", Account: "123456789012", VPC: "vpc-1", Subnet: "subnet-1", Address: address, MAC: vpc.MAC{2, 0, 0, 0xab, 0, 1},
				PrivateDNSName: "ip-10-0-0-4.us-nimbrel-1.compute.internal", Groups: []ids.SecurityGroup{"sg-1", "sg-2"}, State: vpc.InterfaceInUse, Instance: "i-1",
				Attachment: "eni-attach-1", DeleteOnTermination: true, SourceDestCheck: true, Description: "primary", Created: at.Add(-time.Hour),
			},
			Names: GroupNames{"sg-1": "default"},
		}
	}
	var views []View
	for _, s := range []compute.State{compute.Pending, compute.Running, compute.ShuttingDown, compute.Terminated, compute.Stopping, compute.Stopped} {
		views = append(views, full(s))
	}
	leaving, without := full(compute.ShuttingDown), full(compute.Stopped)
	leaving.Interface.State, leaving.Interface.SourceDestCheck, leaving.Interface.DeviceIndex = vpc.InterfaceReleasing, false, 1
	without.Interface = nil
	return append(views, leaving, without, View{Instance: &compute.Instance{State: compute.Running}, Interface: &vpc.Interface{}}, View{Instance: &compute.Instance{}})
}

// TestInstanceAnswers holds what clients see of instances, byte for byte.
func TestInstanceAnswers(t *testing.T) {
	got, err := ec2gen.Actions["DescribeInstances"].Serve(t.Context(), shows{views: instanceViews()}, url.Values{}, "request", nil)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/instances.xml"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the answer is not that of %s (%v):\n%s", golden, err, got)
	}
}
