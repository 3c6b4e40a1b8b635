package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/convert"
	"github.com/nimbrel/nimbrel/ec2/internal/filter"
	"github.com/nimbrel/nimbrel/ec2/internal/page"
	"github.com/nimbrel/nimbrel/vpc"
)

func (a *api) DescribeRegions(_ context.Context, in *ec2gen.DescribeRegionsInput) (*ec2gen.DescribeRegionsOutput, error) {
	region := ec2gen.Region{RegionName: new(a.Region), Endpoint: new(a.Endpoint), OptInStatus: new("opt-in-not-required")}
	match, err := filter.Compile(regionFilters, in.Filters)
	if err != nil {
		return nil, err
	}
	for _, name := range in.RegionNames {
		if name != a.Region {
			return nil, errs.New(errs.InvalidParameterValue, "Invalid region provided: '%.64s'. This cloud's region is %s.", name, a.Region)
		}
	}
	out := &ec2gen.DescribeRegionsOutput{}
	if match(&region) {
		out.Regions = []ec2gen.Region{region}
	}
	return out, nil
}

var regionFilters = filter.Table[*ec2gen.Region]{
	Values: map[string]func(*ec2gen.Region) []string{
		"endpoint":      one(func(r *ec2gen.Region) string { return *r.Endpoint }),
		"opt-in-status": one(func(r *ec2gen.Region) string { return *r.OptInStatus }),
		"region-name":   one(func(r *ec2gen.Region) string { return *r.RegionName }),
	},
}

func (a *api) zoneFilters() filter.Table[*compute.Zone] {
	type item = *compute.Zone
	return filter.Table[item]{
		Values: map[string]func(item) []string{
			"group-name":           always[item](a.Region),
			"message":              never[item],
			"opt-in-status":        always[item]("opt-in-not-required"),
			"parent-zone-id":       never[item],
			"parent-zone-name":     never[item],
			"region-name":          always[item](a.Region),
			"network-border-group": always[item](a.Region),
			"state":                one(func(z item) ec2gen.AvailabilityZoneState { return *convert.Zone(*z, a.Region).State }),
			"zone-id":              one(func(z item) string { return z.ID }),
			"zone-type":            always[item]("availability-zone"),
			"zone-name":            one(func(z item) string { return z.Name }),
		},
	}
}

func (a *api) DescribeAvailabilityZones(ctx context.Context, in *ec2gen.DescribeAvailabilityZonesInput) (*ec2gen.DescribeAvailabilityZonesOutput, error) {
	match, err := filter.Compile(a.zoneFilters(), in.Filters)
	if err != nil {
		return nil, err
	}
	zones, err := a.Compute.Zones(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkZones(zones, in.ZoneNames, in.ZoneIds); err != nil {
		return nil, err
	}
	out := &ec2gen.DescribeAvailabilityZonesOutput{}
	for i, z := range zones {
		wanted := len(in.ZoneNames)+len(in.ZoneIds) == 0 || slices.Contains(in.ZoneNames, z.Name) || slices.Contains(in.ZoneIds, z.ID)
		if wanted && match(&zones[i]) {
			out.AvailabilityZones = append(out.AvailabilityZones, convert.Zone(z, a.Region))
		}
	}
	return out, nil
}

func checkZones(zones []compute.Zone, names, zoneIDs []string) error {
	known := func(same func(compute.Zone) bool) bool { return slices.ContainsFunc(zones, same) }
	for _, name := range names {
		if !known(func(z compute.Zone) bool { return z.Name == name }) {
			return errs.New(errs.InvalidParameterValue, "Invalid availability zone: [%.64s]", name)
		}
	}
	for _, id := range zoneIDs {
		if !known(func(z compute.Zone) bool { return z.ID == id }) {
			return errs.New(errs.InvalidParameterValue, "Invalid availability zone-id: [%.64s]", id)
		}
	}
	return nil
}

func (a *api) DescribeAccountAttributes(ctx context.Context, in *ec2gen.DescribeAccountAttributesInput) (*ec2gen.DescribeAccountAttributesOutput, error) {
	network, err := a.VPC.DescribeVPCs(ctx, caller(ctx), nil, func(v *vpc.VPC) bool { return v.Default })
	if err != nil {
		return nil, err
	}
	quotas, err := a.Account.Quotas(ctx, caller(ctx))
	if err != nil {
		return nil, err
	}
	defaultVPC := "none"
	if len(network) > 0 {
		defaultVPC = string(network[0].ID)
	}
	values := [][2]string{
		{"supported-platforms", "VPC"}, {"default-vpc", defaultVPC}, {"max-instances", strconv.FormatInt(limitOf(quotas, account.QuotaInstances), 10)},
		{"vpc-max-security-groups-per-interface", strconv.Itoa(vpc.MaxGroupsPerInterface)}, {"max-elastic-ips", "0"}, {"vpc-max-elastic-ips", "0"},
	}
	out := &ec2gen.DescribeAccountAttributesOutput{}
	for _, v := range values {
		if len(in.AttributeNames) == 0 || slices.Contains(in.AttributeNames, ec2gen.AccountAttributeName(v[0])) {
			out.AccountAttributes = append(out.AccountAttributes, ec2gen.AccountAttribute{
				AttributeName: new(v[0]), AttributeValues: []ec2gen.AccountAttributeValue{{AttributeValue: new(v[1])}},
			})
		}
	}
	return out, nil
}

func limitOf(quotas []account.QuotaStatus, q account.Quota) int64 {
	for _, status := range quotas {
		if status.Quota == q {
			return status.Limit
		}
	}
	return 0
}

var typeFilters = filter.Table[*compute.InstanceType]{
	Values: map[string]func(*compute.InstanceType) []string{
		"instance-type":                                one(func(t *compute.InstanceType) string { return t.Name }),
		"vcpu-info.default-vcpus":                      count(func(t *compute.InstanceType) int { return t.VCPUs }),
		"vcpu-info.default-cores":                      count(func(t *compute.InstanceType) int { return t.Cores }),
		"vcpu-info.default-threads-per-core":           count(func(t *compute.InstanceType) int { return t.ThreadsPerCore() }),
		"vcpu-info.valid-cores":                        count(func(t *compute.InstanceType) int { return t.Cores }),
		"vcpu-info.valid-threads-per-core":             count(func(t *compute.InstanceType) int { return t.ThreadsPerCore() }),
		"memory-info.size-in-mib":                      count(func(t *compute.InstanceType) int { return t.MemoryMiB }),
		"burstable-performance-supported":              yes(func(t *compute.InstanceType) bool { return t.Burstable }),
		"free-tier-eligible":                           yes(func(t *compute.InstanceType) bool { return t.Free }),
		"current-generation":                           always[*compute.InstanceType]("true"),
		"bare-metal":                                   always[*compute.InstanceType]("false"),
		"hypervisor":                                   always[*compute.InstanceType]("nitro"),
		"auto-recovery-supported":                      always[*compute.InstanceType]("false"),
		"dedicated-hosts-supported":                    always[*compute.InstanceType]("false"),
		"hibernation-supported":                        always[*compute.InstanceType]("false"),
		"instance-storage-supported":                   always[*compute.InstanceType]("false"),
		"ebs-info.ebs-optimized-support":               always[*compute.InstanceType]("default"),
		"ebs-info.encryption-support":                  always[*compute.InstanceType]("unsupported"),
		"ebs-info.nvme-support":                        always[*compute.InstanceType]("unsupported"),
		"network-info.efa-supported":                   always[*compute.InstanceType]("false"),
		"network-info.ena-support":                     always[*compute.InstanceType]("unsupported"),
		"network-info.ipv6-supported":                  always[*compute.InstanceType]("false"),
		"network-info.ipv4-addresses-per-interface":    count(func(t *compute.InstanceType) int { return t.AddressesPerInterface }),
		"network-info.maximum-network-interfaces":      count(func(t *compute.InstanceType) int { return t.MaxInterfaces }),
		"network-info.maximum-network-cards":           always[*compute.InstanceType]("1"),
		"network-info.encryption-in-transit-supported": always[*compute.InstanceType]("false"),
		"nitro-enclaves-support":                       always[*compute.InstanceType]("unsupported"),
		"processor-info.supported-architecture":        always[*compute.InstanceType]("x86_64"),
		"supported-boot-mode":                          func(*compute.InstanceType) []string { return []string{"legacy-bios", "uefi"} },
		"supported-root-device-type":                   always[*compute.InstanceType]("ebs"),
		"supported-usage-class":                        always[*compute.InstanceType]("on-demand"),
		"supported-virtualization-type":                always[*compute.InstanceType]("hvm"),
	},
}

func (a *api) DescribeInstanceTypes(ctx context.Context, in *ec2gen.DescribeInstanceTypesInput) (*ec2gen.DescribeInstanceTypesOutput, error) {
	match, err := filter.Compile(typeFilters, in.Filters)
	if err != nil {
		return nil, err
	}
	var unknown []string
	for _, name := range in.InstanceTypes {
		if _, found := compute.TypeNamed(name); !found {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return nil, errs.New(errs.InvalidInstanceType, "The following supplied instance types do not exist: [%.256s]", strings.Join(unknown, ", "))
	}
	var found []compute.InstanceType
	order := make(map[string]string)
	for i, t := range compute.Types() {
		order[t.Name] = fmt.Sprintf("%04d", i)
		if (len(in.InstanceTypes) == 0 || slices.Contains(in.InstanceTypes, t.Name)) && match(&t) {
			found = append(found, t)
		}
	}
	s := selection{
		Filters: in.Filters, IDs: in.InstanceTypes, IDsName: "instanceTypes", MaxResults: in.MaxResults, NextToken: in.NextToken, Limits: page.Limits{Min: 5, Max: 100},
	}
	found, next, err := page.Cut(found, func(t compute.InstanceType) string { return order[t.Name] }, s.page(ctx))
	if err != nil {
		return nil, err
	}
	return &ec2gen.DescribeInstanceTypesOutput{InstanceTypes: each(found, convert.InstanceType), NextToken: next}, nil
}
