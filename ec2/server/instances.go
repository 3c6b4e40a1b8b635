package server

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// views joins instances with the names of their groups, and those that come from a launch with their interfaces. One that
// went away meanwhile is not an error: its instance is on its way out.
func (a *api) views(ctx context.Context, instances []*compute.Instance) ([]convert.View, error) {
	if len(instances) == 0 {
		return nil, nil
	}
	var wanted []ids.Interface
	var groups []ids.SecurityGroup
	want := func(list []ids.SecurityGroup) {
		for _, id := range list {
			if !slices.Contains(groups, id) {
				groups = append(groups, id)
			}
		}
	}
	for _, i := range instances {
		want(i.Groups)
		if i.Network == nil {
			wanted = append(wanted, i.Interface)
			continue
		}
		want(i.Network.Groups)
	}
	interfaces, names, err := a.VPC.Attached(ctx, caller(ctx), wanted, groups)
	if err != nil {
		return nil, err
	}
	return each(instances, func(i *compute.Instance) convert.View {
		return convert.View{Instance: i, Interface: cmp.Or(i.Network, interfaces[i.Interface]), Names: names}
	}), nil
}

func (a *api) oneInstance(ctx context.Context, id ids.Instance) (convert.View, error) {
	found, err := a.Compute.DescribeInstances(ctx, caller(ctx), []ids.Instance{id}, nil)
	if err != nil || len(found) == 0 {
		return convert.View{}, orNotFound(err, id)
	}
	views, err := a.views(ctx, found)
	if err != nil {
		return convert.View{}, err
	}
	return views[0], nil
}

func (a *api) DescribeInstances(ctx context.Context, in *ec2gen.DescribeInstancesInput) (*ec2gen.DescribeInstancesOutput, error) {
	s := selection{Filters: in.Filters, IDs: in.InstanceIds, IDsName: "instancesSet", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual}
	items := shown[convert.View]{table: instanceFilters, of: a.pointers, place: func(v *convert.View) string { return v.Place() }}
	found, next, err := items.describe(ctx, a, s)
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeInstancesOutput{Reservations: reservations(found), NextToken: next}, nil
}

// arenas are for one page each. What is in one is as large as a reservation.
var arenas = sync.Pool{New: func() any { return new(convert.Arena) }}

// yieldEvery is after how many instances a page lets others run. Fifty take some 0.3 ms; a page that keeps its processor for
// the scheduler's 10 ms holds up what another account asks meanwhile.
const yieldEvery = 50

// reservations groups instances, which are in order of their launch. They are made while they are written.
func reservations(views []*convert.View) iter.Seq[*ec2gen.Reservation] {
	return func(yield func(*ec2gen.Reservation) bool) {
		arena := arenas.Get().(*convert.Arena)
		defer arenas.Put(arena)
		made := 0
		for rest := views; len(rest) > 0; {
			first := rest[0]
			if made >= yieldEvery {
				runtime.Gosched()
				made = 0
			}
			n := slices.IndexFunc(rest, func(v *convert.View) bool { return v.Reservation != first.Reservation })
			if n < 0 {
				n = len(rest)
			}
			arena.Reset()
			if !yield(arena.Reservation(first.Reservation, first.Account, rest[:n])) {
				return
			}
			rest, made = rest[n:], made+n
		}
	}
}

var instanceFilters = makeInstanceFilters()

func makeInstanceFilters() filter.Table[*convert.View] {
	type item = *convert.View
	values := map[string]func(item) []string{
		"affinity":                         never[item],
		"architecture":                     one(func(v item) string { return v.Architecture }),
		"availability-zone":                one(func(v item) string { return v.Zone }),
		"block-device-mapping.attach-time": one(func(v item) string { return v.CreateTime.UTC().Format(filterTime) }),
		"block-device-mapping.delete-on-termination": yes(func(v item) bool { return v.DeleteRootOnTerminate }),
		"block-device-mapping.device-name":           one(func(v item) string { return v.RootDeviceName }),
		"block-device-mapping.status":                always[item]("attached"),
		"block-device-mapping.volume-id":             one(func(v item) ids.Volume { return v.RootVolume }),
		"boot-mode":                                  never[item],
		"client-token":                               one(func(v item) string { return v.ClientToken }),
		"dns-name":                                   never[item],
		"ebs-optimized":                              always[item]("false"),
		"ena-support":                                always[item]("true"),
		"enclave-options.enabled":                    always[item]("false"),
		"hibernation-options.configured":             always[item]("false"),
		"host-id":                                    never[item],
		"hypervisor":                                 always[item]("xen"),
		"iam-instance-profile.arn":                   never[item],
		"image-id":                                   one(func(v item) ids.Image { return v.Image }),
		"instance-id":                                one(func(v item) ids.Instance { return v.ID }),
		"instance-lifecycle":                         never[item],
		"instance-state-code":                        count(func(v item) int { return int(v.State) }),
		"instance-state-name":                        one(func(v item) string { return v.State.String() }),
		"instance-type":                              one(func(v item) string { return v.Type }),
		"instance.group-id":                          texts(func(v item) []ids.SecurityGroup { return v.Groups() }),
		"instance.group-name":                        texts(func(v item) []string { return v.Names.Of(v.Groups()) }),
		"group-id":                                   never[item],
		"group-name":                                 never[item],
		"ip-address":                                 never[item],
		"kernel-id":                                  never[item],
		"key-name":                                   one(func(v item) string { return v.KeyName }),
		"launch-index":                               count(func(v item) int { return v.LaunchIndex }),
		"launch-time":                                one(func(v item) string { return v.LaunchTime.UTC().Format(filterTime) }),
		"metadata-options.http-tokens":               one(func(v item) ec2gen.HttpTokensState { return *convert.Tokens(v.Metadata) }),
		"metadata-options.http-endpoint":             one(func(v item) ec2gen.InstanceMetadataEndpointState { return *convert.Endpoint(v.Metadata) }),
		"metadata-options.http-put-response-hop-limit": count(func(v item) int { return max(v.Metadata.HopLimit, 1) }),
		"monitoring-state":           always[item]("disabled"),
		"owner-id":                   one(func(v item) ids.Account { return v.Account }),
		"placement-group-name":       never[item],
		"placement-partition-number": never[item],
		"platform":                   never[item],
		"platform-details":           always[item]("Linux/UNIX"),
		"private-dns-name":           one(func(v item) string { return v.PrivateDNSName }),
		"private-ip-address":         one(privateAddress),
		"product-code":               never[item],
		"product-code.type":          never[item],
		"ramdisk-id":                 never[item],
		"reason":                     one(func(v item) string { return v.TransitionReason }),
		"requester-id":               never[item],
		"reservation-id":             one(func(v item) ids.Reservation { return v.Reservation }),
		"root-device-name":           one(func(v item) string { return v.RootDeviceName }),
		"root-device-type":           always[item]("ebs"),
		"source-dest-check":          yes(func(v item) bool { return v.SourceDestCheck() }),
		"spot-instance-request-id":   never[item],
		"state-reason-code":          one(func(v item) string { return v.Reason.Code }),
		"state-reason-message":       one(func(v item) string { return v.Reason.Message }),
		"subnet-id":                  one(func(v item) ids.Subnet { return v.Subnet }),
		"tenancy":                    always[item]("default"),
		"virtualization-type":        always[item]("hvm"),
		"vpc-id":                     one(func(v item) ids.VPC { return v.VPC }),
	}
	addInterfaceFilters(values)
	return filter.Table[item]{Values: values, Tags: func(v item) map[string]string { return v.Tags }}
}

func privateAddress(v *convert.View) string {
	if !v.PrivateIP.IsValid() || v.Gone() {
		return ""
	}
	return v.PrivateIP.String()
}

// addInterfaceFilters adds the filters of DescribeNetworkInterfaces as DescribeInstances names them.
func addInterfaceFilters(values map[string]func(*convert.View) []string) {
	unnamed := interfaceFilters(nil) // all but the groups' names are the same for every account
	for _, name := range []string{
		"addresses.private-ip-address", "addresses.primary", "addresses.association.public-ip", "addresses.association.ip-owner-id",
		"association.public-ip", "association.ip-owner-id", "association.allocation-id", "association.association-id",
		"attachment.attachment-id", "attachment.instance-id", "attachment.instance-owner-id", "attachment.device-index", "attachment.status",
		"attachment.attach-time", "attachment.delete-on-termination", "availability-zone", "description", "group-id",
		"ipv6-addresses.ipv6-address", "mac-address", "network-interface-id", "owner-id", "private-dns-name", "private-ip-address",
		"requester-id", "requester-managed", "status", "source-dest-check", "subnet-id", "vpc-id",
	} {
		get := unnamed.Values[name]
		values["network-interface."+name] = func(v *convert.View) []string {
			if v.Interface == nil || get == nil {
				return nil
			}
			return get(v.Interface)
		}
	}
	values["network-interface.group-name"] = texts(func(v *convert.View) []string { return v.Names.Of(v.Groups()) })
	values["network-interface.network-interface-id"] = one(func(v *convert.View) ids.Interface { return v.Instance.Interface })
}

// statusFilters are those of DescribeInstanceStatus. No instance has scheduled events.
func statusFilters() filter.Table[*compute.Status] {
	type item = *compute.Status
	values := map[string]func(item) []string{
		"availability-zone":            one(func(s item) string { return s.Instance.Zone }),
		"instance-state-code":          count(func(s item) int { return int(s.Instance.State) }),
		"instance-state-name":          one(func(s item) string { return s.Instance.State.String() }),
		"instance-status.reachability": one(func(s item) ec2gen.StatusType { return convert.CheckDetail(s.Reachability) }),
		"instance-status.status":       one(func(s item) string { return s.Reachability.String() }),
		"system-status.reachability":   one(func(s item) ec2gen.StatusType { return convert.CheckDetail(s.System) }),
		"system-status.status":         one(func(s item) string { return s.System.String() }),
	}
	for _, name := range []string{"code", "description", "instance-event-id", "not-after", "not-before", "not-before-deadline"} {
		values["event."+name] = never[item]
	}
	return filter.Table[item]{Values: values}
}

func (a *api) DescribeInstanceStatus(ctx context.Context, in *ec2gen.DescribeInstanceStatusInput) (*ec2gen.DescribeInstanceStatusOutput, error) {
	all := deref(in.IncludeAllInstances)
	s := selection{
		Filters: in.Filters, IDs: in.InstanceIds, IDsName: "instancesSet", Flags: []string{fmt.Sprint(all)},
		MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Usual,
	}
	items := shown[compute.Status]{
		table: statusFilters(),
		of: func(_ context.Context, list []*compute.Instance) ([]*compute.Status, error) {
			return a.Compute.Statuses(list), nil
		},
		place: func(s *compute.Status) string { return s.Instance.Place() },
	}
	if !all {
		items.where = []compute.Condition{{Property: compute.ByState, Values: []string{compute.Running.String()}}}
	}
	found, next, err := items.describe(ctx, a, s)
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeInstanceStatusOutput{InstanceStatuses: each(found, convert.Status), NextToken: next}, nil
}

func (a *api) GetConsoleOutput(ctx context.Context, in *ec2gen.GetConsoleOutputInput) (*ec2gen.GetConsoleOutputOutput, error) {
	id, err := requireID[ids.Instance](in.InstanceId, "InstanceId")
	if err != nil {
		return nil, err
	}
	if dryRun(ctx) != nil {
		_, err := a.oneInstance(ctx, id)
		return nil, orDryRun(err)
	}
	output, at, err := a.Compute.ConsoleOutput(ctx, caller(ctx), id)
	if err != nil {
		return nil, err
	}
	return convert.Console(string(id), output, at), nil
}

// orDryRun is err, or the end of a dry run.
func orDryRun(err error) error {
	if err != nil {
		return err
	}
	return errs.DryRun
}
