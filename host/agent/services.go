package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/datapath"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/host/internal/guest/dhcp"
	"github.com/nimbrel/nimbrel/host/internal/guest/metadata"
	"github.com/nimbrel/nimbrel/host/internal/guest/ntp"
	"github.com/nimbrel/nimbrel/host/internal/guest/resolver"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// DataPath says where the host's own data path lives. Device and address are of the underlay, in the agent's own network
// namespace.
type DataPath struct {
	UnderlayDevice  string
	UnderlayAddress netip.Addr
	// Namespace holds the taps and has no address: a name below /run/netns, or a path. The services' is named after it.
	Namespace string
	MTU       int // of guests; 0 is the underlay's less host.EncapsulationCost
	// Forwarders are DNS servers ("address:port") for names that are not of the guests' VPCs.
	Forwarders []string
}

// options are the data path's own. Its pins are under the state directory.
func (d DataPath) options(stateDir string) datapath.Options {
	namespace := d.Namespace
	if !filepath.IsAbs(namespace) {
		namespace = filepath.Join("/run/netns", namespace)
	}
	return datapath.Options{
		UnderlayDevice: d.UnderlayDevice, UnderlayAddress: d.UnderlayAddress, Dataplane: namespace, Service: namespace + "-svc",
		PinDir: filepath.Join(stateDir, "bpf"), MTU: d.MTU,
	}
}

// kernelNetwork is the Network of a real data path.
type kernelNetwork struct{ *datapath.Datapath }

var _ Network = kernelNetwork{}

// Apply implements Network.
func (n kernelNetwork) Apply(ctx context.Context, s NetworkState) error {
	state := datapath.State{Orphans: s.Orphans, Hosts: s.Hosts}
	for _, p := range s.Ports {
		state.Ports = append(state.Ports, datapath.Port(p))
	}
	for _, v := range s.VPCs {
		state.VPCs = append(state.VPCs, datapath.VPCState{VNI: v.VNI, Mappings: v.Mappings, Identities: v.Identities, Groups: v.Groups})
	}
	return n.Datapath.Apply(ctx, state)
}

// CloseTap implements Network.
func (n kernelNetwork) CloseTap(ctx context.Context, id ids.Interface) error {
	err := n.Datapath.CloseTap(ctx, id)
	if errors.Is(err, datapath.ErrNoPort) {
		return nil
	}
	return err
}

// LastHeard implements Network.
func (n kernelNetwork) LastHeard(id ids.Interface) (time.Time, error) {
	seen, err := n.LastSeen(id)
	if errors.Is(err, datapath.ErrNoPort) {
		return time.Time{}, nil
	}
	heard := seen.ARP
	for _, at := range []time.Time{seen.DHCP, seen.IP} {
		if at.After(heard) {
			heard = at
		}
	}
	return heard, err
}

// Probe implements Network.
func (n kernelNetwork) Probe() error { return n.ProbeGuests() }

// Drops implements dropCounter.
func (n kernelNetwork) Drops() (map[string]uint64, error) {
	total, err := n.Datapath.Drops()
	if err != nil {
		return nil, err
	}
	drops := map[string]uint64{}
	for _, reason := range datapath.Reasons() {
		drops[reason.String()] = total.Dropped(reason)
	}
	return drops, nil
}

// openNetwork opens the data path and the services on it. close leaves the data path working.
func (a *agent) openNetwork(ctx context.Context) (closeAll func(), err error) {
	if a.o.DataPath == nil {
		return func() {}, nil
	}
	d, err := datapath.Open(ctx, a.o.DataPath.options(a.o.StateDir))
	if err != nil {
		return nil, fmt.Errorf("open data path: %w", err)
	}
	a.o.Network = kernelNetwork{d}
	a.table = guest.NewTable(d.InterfaceBySource, d.MTU())
	if err := a.serveGuests(ctx, d); err != nil {
		d.Close()
		return nil, err
	}
	return func() { d.Close() }, nil
}

// serveGuests answers DHCP, DNS, time and metadata until ctx ends.
func (a *agent) serveGuests(ctx context.Context, d *datapath.Datapath) (err error) {
	var streams []net.Listener
	var packets []net.PacketConn
	listen := func(network string, port int) {
		if err != nil {
			return
		}
		if network == "tcp4" {
			var l net.Listener
			l, err = d.ListenService(ctx, network, port)
			streams = append(streams, l)
			return
		}
		var c net.PacketConn
		c, err = d.ListenServicePacket(ctx, network, port)
		packets = append(packets, c)
	}
	listen("tcp4", 80)
	listen("tcp4", 53)
	listen("udp4", 67)
	listen("udp4", 53)
	listen("udp4", 123)
	if err != nil {
		return fmt.Errorf("serve guests: %w", err)
	}
	key, err := tokenKey(a.o.StateDir)
	if err != nil {
		return fmt.Errorf("serve guests: %w", err)
	}
	clock := env.System().Clock
	data, err := metadata.New(a.table, clock, key)
	if err != nil {
		return fmt.Errorf("serve guests: %w", err)
	}
	names := resolver.New(resolver.Options{Directory: a.table, Forwarders: a.o.DataPath.Forwarders})
	a.serve(ctx, "metadata", func() error { return data.Serve(ctx, streams[0]) })
	a.serve(ctx, "dhcp", func() error { dhcp.New(a.table).Serve(ctx, packets[0]); return nil })
	a.serve(ctx, "dns", func() error { return names.Serve(ctx, packets[1], streams[1]) })
	a.serve(ctx, "ntp", func() error { ntp.Serve(ctx, packets[2], clock); return nil })
	return nil
}

// serve runs one service. One that ends by itself is an error that a person must see; the others go on.
func (a *agent) serve(ctx context.Context, name string, run func() error) {
	a.running.Go(func() {
		if err := run(); err != nil && ctx.Err() == nil {
			a.o.Log.Error("guest service ended", "service", name, "err", err)
		}
	})
}

// tokenKey is the host's key for metadata tokens: kept, so that a token outlives the agent that gave it. One that is
// damaged is made anew: a power loss may leave a file of zeros, with which anybody could make tokens.
func tokenKey(stateDir string) ([]byte, error) {
	key, err := os.ReadFile(filepath.Join(stateDir, tokenKeyFile))
	if err == nil && len(key) == metadata.KeyBytes && !bytes.Equal(key, make([]byte, metadata.KeyBytes)) {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, metadata.KeyBytes)
	rand.Read(key)
	return key, vm.WriteFile(stateDir, tokenKeyFile, key)
}

// showGuests gives the services the newest state.
func (a *agent) showGuests(s *snapshot) {
	if a.table == nil {
		return
	}
	instances := make([]host.Instance, 0, len(s.instances))
	for _, item := range s.instances {
		instances = append(instances, item.Instance)
	}
	interfaces := make([]host.Interface, 0, len(s.network.Ports))
	for _, p := range s.network.Ports {
		interfaces = append(interfaces, p.Interface)
	}
	mappings := map[ids.VPC][]host.Mapping{}
	for _, v := range s.network.VPCs {
		mappings[v.ID] = v.Mappings
	}
	a.table.Set(instances, interfaces, mappings)
}
