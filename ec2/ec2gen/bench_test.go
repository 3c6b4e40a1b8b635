package ec2gen

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"
)

// fleet answers DescribeInstances with instances as full as the API makes them.
type fleet struct {
	Unsupported
	launches []*Reservation
}

func (f fleet) DescribeInstances(context.Context, *DescribeInstancesInput) (*DescribeInstancesOutput, error) {
	return &DescribeInstancesOutput{Reservations: slices.Values(f.launches)}, nil
}

func newFleet(n int) (f fleet) {
	for i := range n {
		f.launches = append(f.launches, &Reservation{OwnerId: new("123456789012"), ReservationId: new(fmt.Sprintf("r-%017x", i)), Instances: []Instance{{
			InstanceId: new(fmt.Sprintf("i-%017x", i)), ImageId: new("ami-00000000000000001"), InstanceType: new("t3.micro"),
			LaunchTime: new(time.Now()), State: &InstanceState{Code: new(int32(16)), Name: new(InstanceStateNameRunning)},
			Placement: &Placement{AvailabilityZone: new("us-nimbrel-1a"), Tenancy: new(TenancyDefault)}, PrivateIpAddress: new("10.0.0.4"),
			SubnetId: new("subnet-00000000000000001"), VpcId: new("vpc-00000000000000001"), SecurityGroups: []GroupIdentifier{{GroupId: new("sg-1"), GroupName: new("web")}},
			NetworkInterfaces: []InstanceNetworkInterface{{NetworkInterfaceId: new("eni-00000000000000001"), PrivateIpAddress: new("10.0.0.4"), SourceDestCheck: new(true)}},
			Tags:              []Tag{{Key: new("Name"), Value: new("web")}, {Key: new("team"), Value: new("a & b")}},
		}}})
	}
	return f
}

// BenchmarkDescribe1000 prints the cost of one instance, decode and encode, and of encoding/xml on the same value.
func BenchmarkDescribe1000(b *testing.B) {
	api := newFleet(1000)
	params := url.Values{"MaxResults": {"1000"}, "Filter.1.Name": {"vpc-id"}, "Filter.1.Value.1": {"vpc-1"}}
	b.Run("generated", func(b *testing.B) {
		var answer []byte
		for b.Loop() {
			var err error
			if answer, err = Actions["DescribeInstances"].Serve(b.Context(), api, params, "r", answer[:0]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/instance")
	})
	b.Run("encoding-xml", func(b *testing.B) {
		for b.Loop() {
			if _, err := xml.Marshal(api.launches); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/instance")
	})
}
