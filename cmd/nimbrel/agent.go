package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/agent"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/svc/obs"
)

// agentFlags are the flags of `nimbrel agent` and its subcommands.
type agentFlags struct {
	stateDir, name, zone, region, server, join, driver string
	imageSource                                        string
	underlay, underlayDevice, dataPlane                string
	forwarders                                         []string
	vcpus, memoryMiB, uidBase                          int
	logLevel, metrics                                  string
	imageUnusedFor                                     time.Duration
	settings                                           *settings
}

// uidsPerHost is how many guests of one host have a user of their own.
const uidsPerHost = 1000

func agentCommand() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use: "agent", Short: "Run this machine as a host", Args: cobra.NoArgs,
		Long: "Agent joins the cloud with a token of `nimbrel token`, once, and then runs what the cloud asks of this host. Guests and their network\noutlive it: stop, upgrade and start it at will.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if done, err := f.settings.printed(cmd); done || err != nil {
				return err
			}
			return f.run(cmd.Context())
		},
	}
	p := cmd.PersistentFlags()
	p.StringVar(&f.stateDir, "state-dir", "/var/lib/nimbrel-agent", "`directory` of the host's identity, documents and guests")
	p.StringVar(&f.driver, "driver", agent.DriverQEMU, "how guests run: qemu, or fake for none at all")
	p.StringVar(&f.underlay, "underlay", "", "this host's IPv4 `address` on the network between hosts")
	p.StringVar(&f.underlayDevice, "underlay-device", "", "the `link` that has it")
	p.StringVar(&f.dataPlane, "data-plane-namespace", "nimbrel", "`name` of the network namespace of guests' links; the services' one is named after it")
	p.IntVar(&f.uidBase, "uid-base", 0x10000000, "first of the `users` that guests run as; 0 runs them as this user")
	p.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&f.name, "name", "", "this host's `name` for people")
	cmd.Flags().StringVar(&f.zone, "zone", "", "availability `zone`")
	cmd.Flags().StringVar(&f.region, "region", "us-nimbrel-1", "region of the zone")
	cmd.Flags().StringVar(&f.server, "server", "", "`address:port` of the server's host link")
	cmd.Flags().StringVar(&f.join, "join", "", "join `token`, needed once; arguments are seen by every user of the machine, the variable is not")
	cmd.Flags().StringVar(&f.imageSource, "image-source", "", "`directory` to take images from, when the server's is on this machine")
	cmd.Flags().DurationVar(&f.imageUnusedFor, "image-unused-for", agent.DefaultImageUnusedFor, "how `long` an image is kept that no guest or kept disk needs, at least 10m; below 0 for ever")
	cmd.Flags().StringSliceVar(&f.forwarders, "dns-forwarder", nil, "DNS `server` for names outside the VPC, address:port")
	cmd.Flags().IntVar(&f.vcpus, "vcpus", 0, "vCPUs to offer; 0 measures")
	cmd.Flags().IntVar(&f.memoryMiB, "memory-mib", 0, "memory to offer, in MiB; 0 measures")
	cmd.Flags().StringVar(&f.metrics, "metrics", "", "loopback `address` of metrics, health and profiles; empty serves none")
	note(cmd.Flags(), "join", secretNote, "")
	note(p, "state-dir", variableNote, "NIMBREL_AGENT_STATE_DIR") // NIMBREL_STATE_DIR is the cloud's, on the same machine
	f.settings = configurable(cmd)
	cmd.AddCommand(purgeCommand(&f))
	return cmd
}

func purgeCommand(f *agentFlags) *cobra.Command {
	return &cobra.Command{
		Use: "purge", Short: "End every guest of this host and remove its network, for taking the host away", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options("")
			if err != nil {
				return err
			}
			return agent.Purge(cmd.Context(), o)
		},
	}
}

func (f *agentFlags) run(ctx context.Context) error {
	id, err := hostID(f.stateDir)
	if err != nil {
		return err
	}
	o, err := f.options(id)
	if err != nil {
		return err
	}
	f.settings.record(o.Log)
	if err := f.preflight(); err != nil {
		return err
	}
	if o.Identity, err = f.identity(ctx, id); err != nil {
		return err
	}
	if f.metrics == "" {
		return agent.Run(ctx, o)
	}
	return f.runObserved(ctx, o)
}

// preflight refuses a machine that cannot run real guests before a join token is spent on it.
func (f *agentFlags) preflight() error {
	if f.driver != agent.DriverQEMU {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("real guests need root, for users, limits and networks of their own: run the agent as root, or with --driver fake for simulated guests")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return fmt.Errorf("real guests need QEMU: %w: run `apt-get install qemu-system-x86 qemu-utils`; `nimbrel doctor` says what else is missing", err)
	}
	return nil
}

// runObserved runs the agent with its metrics. An address that cannot be listened on is an error before anything runs.
func (f *agentFlags) runObserved(ctx context.Context, o agent.Options) error {
	if err := loopback(f.metrics); err != nil {
		return fmt.Errorf("--metrics %w", err)
	}
	l, err := net.Listen("tcp", f.metrics)
	if err != nil {
		return err
	}
	var read atomic.Pointer[func() agent.Stats]
	o.Started = func(stats func() agent.Stats) { read.Store(&stats) }
	registry := agentRegistry(func() (agent.Stats, bool) {
		if stats := read.Load(); stats != nil {
			return (*stats)(), true
		}
		return agent.Stats{}, false
	})
	ready := func() error {
		if read.Load() == nil {
			return errors.New("the agent is starting")
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return obs.Serve(ctx, l, obs.Handler(registry, ready)) })
	group.Go(func() error {
		defer cancel()
		return agent.Run(ctx, o)
	})
	return group.Wait()
}

func (f *agentFlags) options(id ids.Host) (agent.Options, error) {
	if f.driver != agent.DriverQEMU && f.driver != agent.DriverFake { // before a token is spent on it
		return agent.Options{}, fmt.Errorf("--driver %q: want %s or %s", f.driver, agent.DriverQEMU, agent.DriverFake)
	}
	log, err := obs.NewLogger(os.Stderr, f.logLevel)
	if err != nil {
		return agent.Options{}, err
	}
	stateDir, err := filepath.Abs(f.stateDir)
	if err != nil {
		return agent.Options{}, err
	}
	o := agent.Options{
		ID: id, Name: f.name, Zone: f.zone, StateDir: stateDir, ImageSource: f.imageSource, Driver: f.driver,
		VCPUs: f.vcpus, MemoryMiB: f.memoryMiB, ImageUnusedFor: f.imageUnusedFor, Version: version, Log: log,
	}
	if f.server != "" {
		o.ServerAddrs = strings.Split(f.server, ",")
	}
	if f.driver == agent.DriverQEMU && os.Geteuid() == 0 && f.uidBase != 0 {
		o.UIDBase, o.UIDCount = f.uidBase, uidsPerHost
	}
	if f.underlayDevice != "" {
		address, err := netip.ParseAddr(f.underlay)
		if err != nil {
			return agent.Options{}, fmt.Errorf("--underlay %q: want the IPv4 address of %s: %w", f.underlay, f.underlayDevice, err)
		}
		o.DataPath = &agent.DataPath{
			UnderlayDevice: f.underlayDevice, UnderlayAddress: address, Namespace: f.dataPlane, Forwarders: f.forwarders,
		}
	}
	return o, nil
}

// identity returns the host's certificate, joining first when there is none. A token is the authority's fingerprint, a
// dot, and the secret.
func (f *agentFlags) identity(ctx context.Context, id ids.Host) (*enroll.Identity, error) {
	dir := filepath.Join(f.stateDir, "identity")
	identity, err := enroll.LoadIdentity(dir)
	if err == nil {
		return identity, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the identity of this host cannot be read: repair %s, or remove it and join anew with a --join token from `nimbrel token --host HOST`: %w", dir, err)
	}
	if f.join == "" || f.server == "" {
		return nil, fmt.Errorf("this host has not joined: give it --server and a --join token from `nimbrel token`")
	}
	fingerprint, token, ok := strings.Cut(f.join, ".")
	if !ok {
		return nil, fmt.Errorf("--join: this is no token: want the fingerprint, a dot and the secret, whole, as `nimbrel token` prints them")
	}
	if err := enroll.Join(ctx, f.server, token, fingerprint, dir, host.DocHost(id)); err != nil {
		return nil, adviseJoin(err, f.server)
	}
	return enroll.LoadIdentity(dir)
}

// adviseJoin says what to do about a server that did not take this host in.
func adviseJoin(err error, server string) error {
	unreachable := (*net.OpError)(nil)
	switch {
	case errors.Is(err, dispatch.ErrTargetExists):
		return fmt.Errorf("%w: a host that has joined before joins again with a token of `nimbrel token --host HOST`", err)
	case errors.Is(err, dispatch.ErrTokenInvalid):
		return fmt.Errorf("%w: make a new token with `nimbrel token`; one lasts an hour and works once", err)
	case errors.As(err, &unreachable) && unreachable.Op == "dial":
		return fmt.Errorf("%w: --server wants the address of the server's host link, which `nimbrel token` prints; is the server up, its --link more than loopback, and no firewall between? (%s)", err, server)
	case strings.Contains(err.Error(), "fingerprint"):
		return fmt.Errorf("%w: the token is of another cloud, or something between answers for the server: make the token on the server that --server names", err)
	}
	return err
}

// hostID reads this host's id, or makes it at the first start.
func hostID(stateDir string) (ids.Host, error) {
	if err := os.MkdirAll(stateDir, 0o711); err != nil {
		return "", err
	}
	path := filepath.Join(stateDir, "host-id")
	raw, err := os.ReadFile(path)
	if err == nil {
		return ids.Parse[ids.Host](strings.TrimSpace(string(raw)))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := ids.New[ids.Host](rand.Reader)
	return id, writeDurably(path, []byte(string(id)+"\n"))
}

// writeDurably replaces a file whole. After a power loss there is the old or the new one.
func writeDurably(path string, b []byte) error {
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
