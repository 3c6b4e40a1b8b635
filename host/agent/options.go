package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/nimbrel/nimbrel/dispatch/enroll"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/imagecache"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Drivers that Options.Driver names.
const (
	DriverQEMU = "qemu"
	DriverFake = "fake"
)

// DefaultImageUnusedFor is how long an image is kept that nobody needs, unless Options say otherwise.
const DefaultImageUnusedFor = 24 * time.Hour

// Options says what this host is. ID, StateDir and Identity are required.
type Options struct {
	ID       ids.Host
	Name     string // for people; default the id
	Zone     string
	StateDir string // guests, desired documents, verdicts; made with mode 0700 and held by one agent at a time
	// ImageDir keeps base images by digest; default "images" in StateDir. Several hosts of a machine may share it.
	ImageDir string
	// ImageSource is a directory to take absent images from, and FetchImage, if set, is asked instead. With neither they
	// are fetched from the server.
	ImageSource string
	// ImageUnusedFor is how long an image is kept that no guest or kept disk of the host needs; default DefaultImageUnusedFor, negative is
	// for ever.
	ImageUnusedFor time.Duration
	FetchImage     imagecache.Fetch

	ServerAddrs []string // host:port of the host link; none means that the agent works from disk alone
	Identity    *enroll.Identity
	Cell        uint32

	Driver string // DriverQEMU (default) or DriverFake
	// FakeStartDelay is how long a fake guest takes to start.
	FakeStartDelay time.Duration
	// DataPath joins guests to their VPCs; nil starts them without interfaces, as fake hosts do.
	DataPath *DataPath
	// Network replaces DataPath, for tests.
	Network Network

	// Capacity to offer; a zero field is measured. See capacity.go.
	VCPUs, MemoryMiB, DiskGiB int
	// UIDBase is the first of UIDCount users, one a guest, that machines run as. 0: the agent's own user, as it must be
	// when the agent is not root. Ranges of the hosts of one machine must not overlap.
	UIDBase, UIDCount int
	// ParallelStarts bounds how many machines are started at once; default half the processors, at least 2.
	ParallelStarts int
	Version        string
	// Started is called once when the agent has begun, with what reads its counts from then on.
	Started func(read func() Stats)
	Log     *slog.Logger

	reached func(stage string) // for tests: called as a start gets to each stage, see also qemu.Options.Reached
}

// Validate reports what is missing or contradictory.
func (o Options) Validate() error {
	_, err := ids.Parse[ids.Host](string(o.ID))
	errs := []error{err}
	if !filepath.IsAbs(o.StateDir) {
		errs = append(errs, fmt.Errorf("state directory %q: want an absolute path", o.StateDir))
	}
	if o.Driver != DriverQEMU && o.Driver != DriverFake && o.Driver != "" {
		errs = append(errs, fmt.Errorf("driver %q: want %s or %s", o.Driver, DriverQEMU, DriverFake))
	}
	if len(o.ServerAddrs) > 0 && o.Identity == nil {
		errs = append(errs, errors.New("no identity: join a cluster first"))
	}
	if o.Identity != nil && o.Identity.Target() != host.DocHost(o.ID) {
		errs = append(errs, fmt.Errorf("identity is of %s, not of %s", o.Identity.Target(), host.DocHost(o.ID)))
	}
	if o.DataPath != nil && o.Driver == DriverFake {
		errs = append(errs, errors.New("fake guests have no use for a data path"))
	}
	if o.UIDBase != 0 && (os.Geteuid() != 0 || o.UIDCount < 1) {
		errs = append(errs, errors.New("users of their own for guests need root and a count"))
	}
	if o.ImageUnusedFor > 0 && o.ImageUnusedFor < minImageUnused {
		errs = append(errs, fmt.Errorf("images unused for %v: want at least %v, or a negative time to keep them", o.ImageUnusedFor, minImageUnused))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("validate agent options: %w", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = string(o.ID)
	}
	if o.ImageDir == "" {
		o.ImageDir = filepath.Join(o.StateDir, "images")
	}
	if o.FetchImage == nil && o.ImageSource != "" {
		o.FetchImage = imagecache.FromDirectory(o.ImageSource)
	}
	if o.ImageUnusedFor == 0 {
		o.ImageUnusedFor = DefaultImageUnusedFor
	}
	if o.Driver == "" {
		o.Driver = DriverQEMU
	}
	if o.reached == nil {
		o.reached = func(string) {}
	}
	if o.ParallelStarts <= 0 {
		o.ParallelStarts = max(2, runtime.NumCPU()/2)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// dial connects to a server, or says that there is none.
func (o Options) dial() func(context.Context) (net.Conn, error) {
	if len(o.ServerAddrs) == 0 {
		return func(context.Context) (net.Conn, error) { return nil, errors.New("no server is configured") }
	}
	return o.Identity.Dial(o.ServerAddrs...)
}
