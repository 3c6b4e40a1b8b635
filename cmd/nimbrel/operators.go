package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/operator/stream"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

type tmpOps struct {
	operatorgen.Unsupported
	c *controlPlane
	f *serverFlags
}

func (o tmpOps) GetStatus(ctx context.Context, _ *operatorgen.GetStatusInput) (*operatorgen.GetStatusOutput, error) {
	hosts, _ := o.c.compute.Hosts(ctx)
	sim := true
	d := operatorgen.DriverFake
	for _, h := range hosts {
		if !h.Simulated {
			sim, d = false, operatorgen.DriverQemu
		}
	}
	return &operatorgen.GetStatusOutput{Version: version, Region: o.f.region, Endpoint: "http://" + o.f.listen, Driver: d, Simulated: sim, UptimeMs: time.Since(o.c.started).Milliseconds(), Components: []operatorgen.Component{}}, nil
}
func (o tmpOps) ListHosts(ctx context.Context, _ *operatorgen.ListHostsInput) (*operatorgen.ListHostsOutput, error) {
	hosts, err := o.c.compute.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	out := &operatorgen.ListHostsOutput{Hosts: []operatorgen.Host{}}
	for _, h := range hosts {
		s := operatorgen.HostStateSuspect
		if h.Connected {
			s = operatorgen.HostStateUp
		}
		d := operatorgen.DriverQemu
		if h.Simulated {
			d = operatorgen.DriverFake
		}
		out.Hosts = append(out.Hosts, operatorgen.Host{HostId: string(h.ID), Name: h.Name, Zone: h.Zone, State: s, Driver: d, Address: h.Underlay, Vcpus: int32(h.VCPUs), VcpusFree: int32(h.LeftVCPUs), MemoryMib: int64(h.MemoryMiB), MemoryFreeMib: int64(h.LeftMemoryMiB), Instances: int32(h.Instances)})
	}
	return out, nil
}
func (o tmpOps) ListInstances(ctx context.Context, _ *operatorgen.ListInstancesInput) (*operatorgen.ListInstancesOutput, error) {
	list, err := o.c.compute.AllInstances(ctx)
	if err != nil {
		return nil, err
	}
	out := &operatorgen.ListInstancesOutput{Instances: []operatorgen.Instance{}}
	for _, i := range list {
		out.Instances = append(out.Instances, operatorgen.Instance{InstanceId: string(i.ID), AccountId: string(i.Account), HostId: string(i.Host), Zone: i.Zone, State: operatorgen.InstanceState(i.State.String()), InstanceType: i.Type, ImageId: string(i.Image), VpcId: string(i.VPC), SubnetId: string(i.Subnet), PrivateIp: i.PrivateIP.String(), LaunchedAtMs: i.LaunchTime.UnixMilli(), Reason: i.Reason.Message})
	}
	return out, nil
}
func (o tmpOps) CreateAccount(ctx context.Context, in *operatorgen.CreateAccountInput) (*operatorgen.CreateAccountOutput, error) {
	a, k, secret, err := o.c.accounts.Create(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return &operatorgen.CreateAccountOutput{AccountId: string(a.ID), AccessKeyId: k.ID, SecretAccessKey: secret}, nil
}
func (o tmpOps) CreateJoinToken(ctx context.Context, in *operatorgen.CreateJoinTokenInput) (*operatorgen.CreateJoinTokenOutput, error) {
	j := joiner{o.c, o.f.link}
	t, exp, err := j.CreateToken(ctx, "host", time.Duration(*in.TtlSeconds)*time.Second)
	if err != nil {
		return nil, err
	}
	return &operatorgen.CreateJoinTokenOutput{Token: t, CaFingerprint: j.Fingerprint(), Address: o.f.link, ExpiresAtMs: exp.UnixMilli()}, nil
}
func (o tmpOps) ImportImage(ctx context.Context, in *operatorgen.ImportImageInput) (*operatorgen.ImportImageOutput, error) {
	i, err := o.c.images.RegisterLocal(ctx, image.Registration{Path: in.Path, Owner: ids.Account("100000000000"), Name: in.Name, Public: true, Architecture: "x86_64", BootMode: "legacy-bios"})
	if err != nil {
		return nil, err
	}
	return &operatorgen.ImportImageOutput{ImageId: string(i.ID)}, nil
}
func (o tmpOps) RunCheck(ctx context.Context, _ *operatorgen.RunCheckInput) (*operatorgen.RunCheckOutput, error) {
	r, err := check.Run(ctx, o.c.db, invariants())
	if err != nil {
		return nil, err
	}
	out := &operatorgen.RunCheckOutput{Findings: []operatorgen.Finding{}, Counts: []operatorgen.CheckCount{}}
	for _, n := range r.Checked {
		out.Counts = append(out.Counts, operatorgen.CheckCount{Invariant: n})
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, operatorgen.Finding{Invariant: f.Invariant, Subject: f.Subject, Detail: f.Detail})
	}
	return out, nil
}

func (c *controlPlane) operators(f *serverFlags, log *slog.Logger) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.Handle("/", awsjson.NewHandler("NimbrelOperator", operatorgen.API(tmpOps{c: c, f: f}), operatorgen.Operations, awsjson.Options{}))
	open := func(ctx context.Context, r stream.Request) (io.ReadWriteCloser, error) {
		list, err := c.compute.AllInstances(ctx)
		if err != nil {
			return nil, err
		}
		for _, i := range list {
			if i.ID != r.Instance {
				continue
			}
			if r.Kind == stream.Dial {
				return c.link.OpenStream(ctx, host.DocHost(i.Host), host.StreamDial, host.Encode(host.DialRequest{Instance: r.Instance, Port: r.Port}))
			}
			return c.link.OpenStream(ctx, host.DocHost(i.Host), host.StreamConsole, host.Encode(host.ConsoleRequest{Instance: r.Instance, TailBytes: r.TailBytes, Follow: r.Follow}))
		}
		return nil, fmt.Errorf("no instance %s", r.Instance)
	}
	mux.Handle(stream.Path, stream.Handler(open, func(_ *http.Request, r stream.Request) { log.Info("stream", "kind", r.Kind, "instance", r.Instance) }))
	return mux, nil
}
