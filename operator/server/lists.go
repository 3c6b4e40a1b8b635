package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/op"
)

// defaultResults is the size of a page when a request does not say.
const defaultResults = 100

func pageSize(maxResults *int32) int {
	if maxResults == nil {
		return defaultResults
	}
	return int(*maxResults)
}

// cut sorts items by key and returns the page after token, with the token of the next: the last key of this one.
func cut[T any](items []T, key func(T) string, maxResults *int32, token string) (page []T, next string) {
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	if token != "" {
		start, found := slices.BinarySearchFunc(items, token, func(item T, token string) int { return strings.Compare(key(item), token) })
		if found {
			start++
		}
		items = items[start:]
	}
	if size := pageSize(maxResults); len(items) > size {
		items = items[:size]
		next = key(items[size-1])
	}
	return items, next
}

// ms is a time on the wire; absent when zero.
func ms(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return new(t.UnixMilli())
}

func (a *api) ListHosts(ctx context.Context, in *operatorgen.ListHostsInput) (*operatorgen.ListHostsOutput, error) {
	hosts, err := a.Compute.Hosts(ctx)
	if err != nil {
		return nil, explain(err)
	}
	targets := a.targets()
	hosts, next := cut(hosts, func(h compute.Host) string { return string(h.ID) }, in.MaxResults, in.NextToken)
	out := &operatorgen.ListHostsOutput{NextToken: next}
	for _, h := range hosts {
		out.Hosts = append(out.Hosts, convertHost(h, targets))
	}
	return out, nil
}

func (a *api) targets() map[string]dispatch.TargetStatus {
	byName := make(map[string]dispatch.TargetStatus)
	if a.Targets != nil {
		for _, t := range a.Targets() {
			byName[t.Target] = t
		}
	}
	return byName
}

func convertHost(h compute.Host, targets map[string]dispatch.TargetStatus) operatorgen.Host {
	out := operatorgen.Host{
		HostId: string(h.ID), Name: h.Name, Zone: h.Zone, State: hostState(h, targets), Driver: driverOf([]compute.Host{h}), Address: h.Underlay,
		AgentVersion: h.AgentVersion, LastSeenAtMs: ms(h.LastHeard), Vcpus: int32(h.VCPUs), VcpusFree: int32(h.LeftVCPUs),
		MemoryMib: int64(h.MemoryMiB), MemoryFreeMib: int64(h.LeftMemoryMiB), Instances: int32(h.Instances),
	}
	if h.Draining {
		out.Draining = new(true)
	}
	if t, known := targets[targetOf(h.ID)]; known && !t.LastHeartbeat.IsZero() {
		out.LastSeenAtMs = ms(t.LastHeartbeat)
	}
	return out
}

// hostState is what the link believes; without a word of the link, what compute saw.
func hostState(h compute.Host, targets map[string]dispatch.TargetStatus) operatorgen.HostState {
	if t, known := targets[targetOf(h.ID)]; known {
		switch t.Liveness {
		case dispatch.Up:
			return upState(h)
		case dispatch.Dead:
			return operatorgen.HostStateDead
		}
		return operatorgen.HostStateSuspect
	}
	if h.Connected {
		return upState(h)
	}
	return operatorgen.HostStateSuspect
}

// upState is the state of a host that is heard. That one which is not heard drains too shows beside its state.
func upState(h compute.Host) operatorgen.HostState {
	if h.Draining {
		return operatorgen.HostStateDraining
	}
	return operatorgen.HostStateUp
}

func (a *api) ListInstances(ctx context.Context, in *operatorgen.ListInstancesInput) (*operatorgen.ListInstancesOutput, error) {
	instances, err := a.Compute.AllInstances(ctx)
	if err != nil {
		return nil, explain(err)
	}
	instances = slices.DeleteFunc(slices.Clone(instances), func(i *compute.Instance) bool {
		return (in.AccountId != "" && in.AccountId != string(i.Account)) || (in.HostId != "" && in.HostId != string(i.Host)) ||
			(in.State != "" && string(in.State) != i.State.String())
	})
	instances, next := cut(instances, func(i *compute.Instance) string { return string(i.ID) }, in.MaxResults, in.NextToken)
	out := &operatorgen.ListInstancesOutput{NextToken: next}
	for _, i := range instances {
		out.Instances = append(out.Instances, convertInstance(i))
	}
	return out, nil
}

func convertInstance(i *compute.Instance) operatorgen.Instance {
	out := operatorgen.Instance{
		InstanceId: string(i.ID), AccountId: string(i.Account), HostId: string(i.Host), Zone: i.Zone, State: operatorgen.InstanceState(i.State.String()),
		Reason: i.Reason.Message, InstanceType: i.Type, ImageId: string(i.Image), VpcId: string(i.VPC), SubnetId: string(i.Subnet),
		LaunchedAtMs: i.LaunchTime.UnixMilli(), Simulated: i.Simulated,
	}
	if i.PrivateIP.IsValid() {
		out.PrivateIp = i.PrivateIP.String()
	}
	return out
}

// ListOperations lists the newest first: a token is the id of the last one seen, and ids are in order of time.
func (a *api) ListOperations(ctx context.Context, in *operatorgen.ListOperationsInput) (*operatorgen.ListOperationsOutput, error) {
	size := pageSize(in.MaxResults)
	var found []op.Operation
	err := a.DB.View(ctx, func(r store.Reader) (err error) {
		found, err = op.Latest(ctx, r, size+1, func(o *op.Operation) bool {
			return (in.NextToken == "" || string(o.ID) < in.NextToken) && (in.Subject == "" || o.Target == in.Subject) &&
				(in.Unfinished == nil || *in.Unfinished == (o.State == op.Running))
		})
		return err
	})
	if err != nil {
		return nil, explain(err)
	}
	out := &operatorgen.ListOperationsOutput{}
	if len(found) > size {
		found = found[:size]
		out.NextToken = string(found[size-1].ID)
	}
	for _, o := range found {
		out.Operations = append(out.Operations, convertOperation(o))
	}
	return out, nil
}

func convertOperation(o op.Operation) operatorgen.Operation {
	out := operatorgen.Operation{
		OperationId: string(o.ID), AccountId: string(o.Account), Kind: o.Kind, Subject: o.Target, StartedAtMs: o.BeganMs, Detail: o.Error,
		State: operatorgen.OperationState(o.State.String()),
	}
	if o.State != op.Running {
		out.EndedAtMs = new(o.EndedMs)
	}
	if out.Detail == "" && len(o.Steps) > 0 {
		out.Detail = o.Steps[len(o.Steps)-1].Name
	}
	return out
}

func (a *api) ListAccounts(ctx context.Context, in *operatorgen.ListAccountsInput) (*operatorgen.ListAccountsOutput, error) {
	accounts, err := a.Account.Accounts(ctx)
	if err != nil {
		return nil, explain(err)
	}
	accounts, next := cut(slices.Clone(accounts), func(a account.Account) string { return string(a.ID) }, in.MaxResults, in.NextToken)
	out := &operatorgen.ListAccountsOutput{NextToken: next}
	for _, one := range accounts {
		converted, err := a.convertAccount(ctx, one)
		if err != nil {
			return nil, explain(err)
		}
		out.Accounts = append(out.Accounts, converted)
	}
	return out, nil
}

func (a *api) convertAccount(ctx context.Context, one account.Account) (operatorgen.Account, error) {
	out := operatorgen.Account{AccountId: string(one.ID), Name: one.Name, CreatedAtMs: one.Created.UnixMilli()}
	keys, err := a.Account.AccessKeys(ctx, one.ID)
	if err != nil {
		return out, err
	}
	for _, key := range keys {
		out.AccessKeyIds = append(out.AccessKeyIds, key.ID)
	}
	quotas, err := a.Account.Quotas(ctx, one.ID)
	for _, q := range quotas {
		out.Quotas = append(out.Quotas, operatorgen.Quota{Name: string(q.Quota), Limit: q.Limit, Left: q.Left})
	}
	return out, err
}

// ListImages gathers what each account may launch, since the catalog answers by account.
func (a *api) ListImages(ctx context.Context, in *operatorgen.ListImagesInput) (*operatorgen.ListImagesOutput, error) {
	accounts, err := a.Account.Accounts(ctx)
	if err != nil {
		return nil, explain(err)
	}
	owners := []ids.Account{a.Operator}
	for _, one := range accounts {
		owners = append(owners, one.ID)
	}
	var all []*image.Image
	for _, owner := range owners {
		own, err := a.Image.DescribeImages(ctx, owner, nil, func(i *image.Image) bool { return i.Owner == owner })
		if err != nil {
			return nil, explain(err)
		}
		all = append(all, own...)
	}
	key := func(i *image.Image) string { return string(i.ID) }
	slices.SortFunc(all, func(x, y *image.Image) int { return strings.Compare(key(x), key(y)) })
	all = slices.CompactFunc(all, func(x, y *image.Image) bool { return x.ID == y.ID })
	all, next := cut(all, key, in.MaxResults, in.NextToken)
	out := &operatorgen.ListImagesOutput{NextToken: next}
	for _, i := range all {
		out.Images = append(out.Images, operatorgen.Image{
			ImageId: string(i.ID), Name: i.Name, State: i.State.String(), Public: i.Public, AccountId: string(i.Owner),
			Architecture: operatorgen.Architecture(i.Architecture), SizeBytes: int64(i.Bytes), StoredBytes: int64(i.Bytes), CreatedAtMs: i.CreateTime.UnixMilli(),
		})
	}
	return out, nil
}
