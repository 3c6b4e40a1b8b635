package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/svc/obs"
)

// serverFlags are the flags of `nimbrel server`.
type serverFlags struct {
	stateDir, region, listen, link, metrics, logLevel string
	zones, operatorUID                                int
	insecure                                          bool
	limits                                            limits
	images                                            imageLimits
	settings                                          *settings
}

func serverCommand() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use: "server", Short: "Run the control plane", Args: cobra.NoArgs,
		Long: "Server keeps the cloud's state, speaks EC2 to tenants, the operators' API on a unix socket, and the host link to hosts.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if done, err := f.settings.printed(cmd); done || err != nil {
				return err
			}
			return f.run(cmd.Context())
		},
	}
	p := cmd.Flags()
	p.StringVar(&f.stateDir, "state-dir", statedir.Default(), "`directory` of store, keys, images and socket")
	p.StringVar(&f.region, "region", "us-nimbrel-1", "the cloud's `region`, shaped like AWS's")
	p.IntVar(&f.zones, "zones", 3, "how `many` availability zones: region + a, b, …")
	p.StringVar(&f.listen, "listen", "127.0.0.1:8773", "`address` of the EC2 API")
	p.BoolVar(&f.insecure, "insecure", false, "allow the EC2 API beyond loopback without TLS")
	p.StringVar(&f.link, "link", "127.0.0.1:8774", "`address` of the host link (mutual TLS)")
	p.StringVar(&f.metrics, "metrics", "127.0.0.1:8775", "`address` of metrics, health and profiles")
	p.IntVar(&f.operatorUID, "operator-uid", -1, "`user` that may use the operator socket besides root")
	p.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.limits.register(p)
	f.images.register(p)
	f.settings = configurable(cmd)
	return cmd
}

// Validate reports the first flag that cannot be.
func (f *serverFlags) Validate() error {
	if f.zones < 1 || f.zones > 16 {
		return fmt.Errorf("--zones %d: want 1 to 16", f.zones)
	}
	if !regionShape.MatchString(f.region) {
		return fmt.Errorf("--region %q: want a name of AWS's shape, such as us-nimbrel-1: clients make zones and signatures of it", f.region)
	}
	if err := loopback(f.listen); errors.Is(err, errBeyond) && !f.insecure {
		return fmt.Errorf("--listen %w: put a TLS proxy in front of it, or agree with --insecure", err)
	} else if err != nil && !errors.Is(err, errBeyond) {
		return fmt.Errorf("--listen %w", err)
	}
	if err := loopback(f.metrics); err != nil {
		return fmt.Errorf("--metrics %w: profiles and metrics are for this machine; give 127.0.0.1 and a port", err)
	}
	return errors.Join(f.limits.Validate(), f.images.Validate())
}

// regionShape is what clients take for a region.
var regionShape = regexp.MustCompile(`^[a-z]{2,}(-[a-z0-9]+)*-[a-z]+-[0-9]+$`)

// errBeyond says that other machines reach an address.
var errBeyond = errors.New("is not a loopback address")

func loopback(address string) error {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q: want address:port, such as 127.0.0.1:8773 (%w)", address, err)
	}
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s %w", address, errBeyond)
}

func (f *serverFlags) zoneNames() []string {
	names := make([]string, f.zones)
	for i := range names {
		names[i] = f.region + string(rune('a'+i))
	}
	return names
}

func (f *serverFlags) run(ctx context.Context) error {
	if err := f.Validate(); err != nil {
		return err
	}
	log, err := obs.NewLogger(os.Stderr, f.logLevel)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	f.settings.record(log)
	plane, err := openControlPlane(statedir.Server(f.stateDir), f.region, f.zoneNames(), f.images.options(), log)
	if err != nil {
		return err
	}
	defer plane.close(log)
	return f.serve(ctx, plane, log)
}

// serve opens every door before it serves any, so that a port in use is an error at once.
func (f *serverFlags) serve(ctx context.Context, plane *controlPlane, log *slog.Logger) error {
	api, errAPI := listen("--listen", f.listen)
	link, errLink := listen("--link", f.link)
	metrics, errMetrics := listen("--metrics", f.metrics)
	operators, errOperators := f.listenOperators()
	if err := errors.Join(errAPI, errLink, errMetrics, errOperators); err != nil {
		return err
	}
	plane.admission, plane.tenants = f.limits.admission(), f.limits.door()
	registry, requests := plane.registry()
	tenantDoor, err := plane.ec2(f, requests, log)
	if err != nil {
		return err
	}
	operatorDoor, err := plane.operators(f, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return plane.run(ctx) })
	group.Go(func() error { return plane.link.Serve(ctx, link) })
	group.Go(func() error { return obs.Serve(ctx, metrics, obs.Handler(registry, plane.ready)) })
	group.Go(func() error { return plane.tenants.Serve(ctx, api, tenantDoor) })
	group.Go(func() error { return obs.Serve(ctx, operators, operatorDoor) })
	return group.Wait()
}

func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	missing := (*net.DNSError)(nil)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%w: stop what uses it, or choose another with %s (`nimbrel dev up`: --port)", err, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &missing):
		err = fmt.Errorf("%w: %s wants an address that this machine has: `ip -brief address` lists them", err, flag)
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w: ports below 1024 need root: choose a higher one with %s", err, flag)
	}
	return l, err
}

// listenOperators opens the operators' socket for root and one more user. A socket that another server still answers on
// is left alone; one that a dead server left is replaced.
func (f *serverFlags) listenOperators() (net.Listener, error) {
	path := statedir.OperatorSocket(f.stateDir)
	if err := makeRunDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("another server answers at %s: stop it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return f.listenPrivately(path)
}

// makeRunDir makes the socket's folder, which others may pass through and not list: a unit's umask would close it to the
// user of --operator-uid.
func makeRunDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return os.Chmod(dir, 0o711)
}

// listenPrivately makes a unix socket that nobody else can connect to at any moment: it gets its owner and mode in a
// folder that others cannot enter, whatever this process's umask is, and appears at path as it is to stay.
func (f *serverFlags) listenPrivately(path string) (net.Listener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	l, err := net.Listen("unix", hidden)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it would unlink the name that the socket leaves
	err = os.Chmod(hidden, 0o600)
	if err == nil && f.operatorUID >= 0 {
		err = os.Chown(hidden, f.operatorUID, -1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("give %s to user %s: %w", path, strconv.Itoa(f.operatorUID), err), l.Close())
	}
	if err := os.Rename(hidden, path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return unlinking{l, path}, nil
}

// unlinking removes a socket's name when its listener closes.
type unlinking struct {
	net.Listener
	path string
}

func (u unlinking) Close() error {
	if err := os.Remove(u.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, u.Listener.Close())
	}
	return u.Listener.Close()
}
