package server

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/operator/stream"
)

// targetOf is a host's name on the host link.
func targetOf(id ids.Host) string { return host.DocHost(id) }

// instance finds an instance, whoever owns it.
func (a *api) instance(ctx context.Context, id ids.Instance) (*compute.Instance, error) {
	all, err := a.Compute.AllInstances(ctx)
	if err != nil {
		return nil, explain(err)
	}
	for _, i := range all {
		if i.ID == id {
			return i, nil
		}
	}
	return nil, operatorgen.NewNotFound("instance %s does not exist", id)
}

func (a *api) DescribeInstanceConsole(ctx context.Context, in *operatorgen.DescribeInstanceConsoleInput) (*operatorgen.DescribeInstanceConsoleOutput, error) {
	id, err := ids.Parse[ids.Instance](in.InstanceId)
	if err != nil {
		return nil, operatorgen.NewInvalidInput("%v", err)
	}
	i, err := a.instance(ctx, id)
	if err != nil {
		return nil, err
	}
	output, at, err := a.Compute.ConsoleOutput(ctx, i.Account, id)
	if err != nil {
		return nil, explain(err)
	}
	return &operatorgen.DescribeInstanceConsoleOutput{Output: output, UpdatedAtMs: at.UnixMilli(), Truncated: len(output) >= compute.ConsoleTailBytes}, nil
}

// openStream joins a stream to the host that runs the instance.
func (a *api) openStream(ctx context.Context, r stream.Request) (io.ReadWriteCloser, error) {
	i, err := a.instance(ctx, r.Instance)
	if err != nil {
		return nil, err
	}
	name, header, err := streamOf(i, r)
	if err != nil {
		return nil, err
	}
	far, err := a.OpenStream(ctx, targetOf(i.Host), name, header)
	if err != nil {
		return nil, fmt.Errorf("open %s of %s on %s: %w", r.Kind, r.Instance, i.Host, err)
	}
	return far, nil
}

// streamOf says what to ask the host for. A console outlives its guest; a port does not.
func streamOf(i *compute.Instance, r stream.Request) (name string, header []byte, err error) {
	switch {
	case i.Host == "" || i.State == compute.Terminated:
		return "", nil, fmt.Errorf("instance %s is %s and on no host", i.ID, i.State)
	case r.Kind == stream.Console:
		return host.StreamConsole, host.Encode(host.ConsoleRequest{Instance: i.ID, TailBytes: min(r.TailBytes, host.MaxConsoleBytes), Follow: r.Follow}), nil
	case i.State != compute.Running:
		return "", nil, fmt.Errorf("instance %s is %s: only a running one can be dialled", i.ID, i.State)
	}
	return host.StreamDial, host.Encode(host.DialRequest{Instance: i.ID, Port: r.Port}), nil
}

func (a *api) auditStream(r *http.Request, s stream.Request) {
	a.Log.InfoContext(r.Context(), "audit", "action", "OpenStream", "kind", string(s.Kind), "subject", string(s.Instance), "port", s.Port, "peer", r.RemoteAddr)
}
