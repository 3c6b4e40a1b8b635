// Package network is a host's network as its agent sees it: the data path, and the services that guests find on it.
//
// The agent hands over the whole state each time; this package gives it to the kernel programs and to the servers of
// metadata, DHCP, names and time. The programs and devices go on without it. The servers end with the agent, but their
// namespace stays: what guests send meanwhile waits, and is answered by the next agent.
//
// Deliberately absent: decisions. What a host is to do comes from its documents.
package network

import (
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

	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/agent"
	"github.com/nimbrel/nimbrel/host/internal/datapath"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/host/internal/guest/dhcp"
	"github.com/nimbrel/nimbrel/host/internal/guest/metadata"
	"github.com/nimbrel/nimbrel/host/internal/guest/ntp"
	"github.com/nimbrel/nimbrel/host/internal/guest/resolver"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// namespaceDir is where named network namespaces are, by the custom of ip-netns(8).
const namespaceDir = "/run/netns"

// Options say where the network is. Namespace names are those of ip-netns(8); both are made when absent.
type Options struct {
	StateDir        string // token key, BPF pins
	DataPlane       string // namespace of taps, tunnel and programs: no address, forwards nothing
	Service         string // namespace of the servers
	UnderlayDevice  string
	UnderlayAddress netip.Addr
	Forwarders      []string // DNS servers for names outside the VPC, "address:port"
}

func (o Options) datapath() datapath.Options {
	return datapath.Options{
		UnderlayDevice:  o.UnderlayDevice,
		UnderlayAddress: o.UnderlayAddress,
		Dataplane:       filepath.Join(namespaceDir, o.DataPlane),
		Service:         filepath.Join(namespaceDir, o.Service),
		PinDir:          filepath.Join(o.StateDir, "bpf"),
	}
}

// Network implements agent.Network. Make one with Open and keep Serve going.
type Network struct {
	path  *datapath.Datapath
	table *guest.Table
	key   []byte
	o     Options
}

var _ agent.Network = (*Network)(nil)

// Open makes the host's network, or takes over the running one.
func Open(ctx context.Context, o Options) (*Network, error) {
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, err
	}
	key, err := tokenKey(filepath.Join(o.StateDir, "metadata.key"))
	if err != nil {
		return nil, fmt.Errorf("read metadata token key: %w", err)
	}
	path, err := datapath.Open(ctx, o.datapath())
	if err != nil {
		return nil, err
	}
	return &Network{path: path, table: guest.NewTable(path.InterfaceBySource, path.MTU()), key: key, o: o}, nil
}

// tokenKey keeps tokens valid over restarts of the agent.
func tokenKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == metadata.KeyBytes {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, metadata.KeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	// A torn file is replaced by a new key, which costs guests one new token.
	return key, os.WriteFile(path, key, 0o600)
}

// Serve runs the guests' services until ctx ends or one of them fails.
func (n *Network) Serve(ctx context.Context) error {
	servers, err := n.listen(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, serve := range servers {
		group.Go(func() error { return serve(ctx) })
	}
	return group.Wait()
}

func (n *Network) listen(ctx context.Context) ([]func(context.Context) error, error) {
	meta, err := metadata.New(n.table, env.Real{}, n.key)
	if err != nil {
		return nil, err
	}
	web, errWeb := n.path.ListenService(ctx, "tcp4", 80)
	names, errNames := n.path.ListenService(ctx, "tcp4", 53)
	namePackets, errNamePackets := n.path.ListenServicePacket(ctx, "udp4", 53)
	leases, errLeases := n.path.ListenServicePacket(ctx, "udp4", 67)
	times, errTimes := n.path.ListenServicePacket(ctx, "udp4", 123)
	if err := errors.Join(errWeb, errNames, errNamePackets, errLeases, errTimes); err != nil {
		return nil, err
	}
	dns := resolver.New(resolver.Options{Directory: n.table, Forwarders: n.o.Forwarders})
	return []func(context.Context) error{
		func(ctx context.Context) error { return meta.Serve(ctx, web) },
		func(ctx context.Context) error { return dns.Serve(ctx, namePackets, names) },
		func(ctx context.Context) error { return dhcp.New(n.table).Serve(ctx, leases) },
		func(ctx context.Context) error { return ntp.Serve(ctx, times, env.Real{}) },
	}, nil
}

// Apply implements agent.Network. Services learn of a guest before its packets can arrive.
func (n *Network) Apply(ctx context.Context, s agent.NetworkState) error {
	state := datapath.State{Hosts: s.Hosts}
	var instances []host.Instance
	var interfaces []host.Interface
	for _, p := range s.Ports {
		instances = append(instances, p.Instance)
		interfaces = append(interfaces, p.Interface)
		state.Ports = append(state.Ports, datapath.Port{Interface: p.Interface, HopLimit: p.HopLimit})
	}
	mappings := map[ids.VPC][]host.Mapping{}
	for _, v := range s.VPCs {
		mappings[v.ID] = v.Mappings
		state.VPCs = append(state.VPCs, datapath.VPCState{VNI: v.VNI, Mappings: v.Mappings, Identities: v.Identities, Groups: v.Groups})
	}
	n.table.Set(instances, interfaces, mappings)
	return n.path.Apply(ctx, state)
}

// OpenTap implements agent.Network.
func (n *Network) OpenTap(ctx context.Context, in host.Interface, vnetHeader bool) (*os.File, error) {
	return n.path.OpenTap(ctx, in, vnetHeader)
}

// CloseTap implements agent.Network.
func (n *Network) CloseTap(ctx context.Context, id ids.Interface) error {
	return n.path.CloseTap(ctx, id)
}

// LastHeard implements agent.Network.
func (n *Network) LastHeard(id ids.Interface) (time.Time, error) {
	seen, err := n.path.LastSeen(id)
	last := seen.ARP
	for _, t := range []time.Time{seen.DHCP, seen.IP} {
		if t.After(last) {
			last = t
		}
	}
	return last, err
}

// Probe implements agent.Network.
func (n *Network) Probe() error { return n.path.ProbeGuests() }

// DialGuest implements agent.Network.
func (n *Network) DialGuest(ctx context.Context, id ids.Interface, port int) (net.Conn, error) {
	return n.path.DialGuest(ctx, id, port)
}

// MTU implements agent.Network.
func (n *Network) MTU() int { return n.path.MTU() }

// Close lets go of the network and leaves it running.
func (n *Network) Close() error { return n.path.Close() }

// Destroy removes a host's network: programs, devices, pins and the two namespaces. Guests that run lose theirs.
func Destroy(o Options) error { return datapath.Destroy(o.datapath()) }
