// Package vm is what the host agent asks of a hypervisor: to start a guest, find it again, and end it.
//
// It owns the driver interface, the layout of a guest's directory, and the rules that every driver keeps
// (host/hosttest runs one conformance suite over all of them):
//
//   - A guest is no child of the agent's life. What is needed to find it again is in its directory before it runs, and
//     Adopt takes it over, undisturbed, after the agent died at any moment.
//   - A process is recognized by pid, start time, boot id and a token on its command line together; never by a pid alone.
//   - One handle at a time: a directory is locked while a VM of it is open. The lock dies with the agent, the guest does not.
//   - The guest's own power-off is told from a crash, also when it happened while no agent ran.
//   - Nothing here removes a disk.
//
// Deliberately absent: desired state and decisions (host/internal/reconcile), networks (a NIC arrives as an open tap),
// images (a base disk arrives as a path whose content was verified).
//
// Start at Driver, then Spec. The real driver is vm/qemu, the one without processes vm/fake.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

var (
	// ErrLocked: another handle, in this process or another, holds the guest's directory.
	ErrLocked = errors.New("directory is locked by another manager")
	// ErrRunning: the directory's guest is alive; it must be adopted or killed before a start.
	ErrRunning = errors.New("guest is already running")
	// ErrNoSpec: the directory does not say what was launched from it. Nothing is started or ended on a guess.
	ErrNoSpec = errors.New("launched specification is missing or damaged")
	// ErrNeverRan: a launch was begun in the directory, and its guest never executed an instruction: the agent died before
	// it ran, or the start failed. It may be started as if for the first time.
	ErrNeverRan = errors.New("guest never ran")
	// ErrEnded: the guest has ended; there is nothing to act on.
	ErrEnded = errors.New("guest has ended")
)

// Driver runs guests. Its methods are safe for concurrent use; calls on different directories do not wait for each other.
type Driver interface {
	// Probe says what this machine can do. The first call may take some seconds (it boots a self-test guest); its verdict
	// is kept for as long as the machine stays up.
	Probe(ctx context.Context) (Capabilities, error)
	// Start creates spec.Dir if need be, records the specification there, makes the disk if it is absent, and runs the
	// guest. It returns once the guest's processors run. A previous generation's record in the directory is replaced. On
	// error nothing runs, and Adopt answers ErrNeverRan. The caller keeps the NICs' taps and closes its own copies afterwards.
	Start(ctx context.Context, spec Spec) (VM, error)
	// Adopt opens the guest of a directory that Start was called on before, by this process or another. A guest that has
	// ended meanwhile is returned too, with Done closed. Errors: ErrNoSpec, ErrNeverRan, ErrLocked.
	Adopt(ctx context.Context, dir string) (VM, error)
}

// VM is a handle on one guest. Its methods are safe for concurrent use.
type VM interface {
	// Spec is what the guest was launched with, without the descriptors.
	Spec() Spec
	// Status asks the machine. Once it has ended, the answer is StateEnded.
	Status(ctx context.Context) (Status, error)
	// PowerDown presses the power button and returns; the guest decides. Done tells.
	PowerDown(ctx context.Context) error
	// Reboot presses the power button and starts the machine anew once the guest is off, or resets it when the guest has
	// not gone off after patience. It returns at once and outlives the handle.
	Reboot(ctx context.Context, patience time.Duration) error
	// Reset restarts the machine at once, as a reset button does. Unwritten data of the guest is lost.
	Reset(ctx context.Context) error
	// Kill ends the guest at once and returns when it has ended. It is no error that it had ended before.
	Kill(ctx context.Context) error
	// Done is closed when the guest has ended and its Exit is recorded.
	Done() <-chan struct{}
	// Exit says how the guest ended; it may be read once Done is closed.
	Exit() Exit
	// Changes yields a token when Status may have changed (a reset, a panic). Tokens are merged.
	Changes() <-chan struct{}
	// Console returns the last bytes of the serial console, at most MaxConsoleBytes. It works after the end too, and of a
	// machine that does not answer it returns what was known of it before.
	Console(ctx context.Context, tailBytes int) ([]byte, error)
	// FollowConsole writes the console's tail to w and goes on with what the guest writes, until ctx ends, the guest
	// ends or w fails. The first two are no error.
	FollowConsole(ctx context.Context, tailBytes int, w io.Writer) error
	// Release closes the handle and unlocks the directory. The guest goes on.
	Release() error
}

// MaxConsoleBytes is how much of a console is kept for readers.
const MaxConsoleBytes = 64 << 10

// Capabilities is what a driver found on this machine.
type Capabilities struct {
	Accelerator string // "kvm", "tcg" or "fake"
	Reason      string // why not a better one, for a person; "" when there is none
	CPUModel    string // the model that guests see
	Version     string // of the hypervisor
	Simulated   bool   // no guest really runs
	Degraded    []string
}

// Spec is a guest to start. All of it but the descriptors is kept in the directory, as launched.
type Spec struct {
	Dir        string       `json:"dir"` // absolute, the guest's own
	ID         ids.Instance `json:"id"`
	Generation uint64       `json:"generation"`
	VCPUs      int          `json:"vcpus"`
	MemoryMiB  int          `json:"memoryMib"`
	Disk       Disk         `json:"disk"`
	NICs       []NIC        `json:"nics"`
	Product    string       `json:"product,omitempty"` // the machine's product name: the instance type
	Firmware   Firmware     `json:"firmware,omitempty"`
	Direct     *DirectBoot  `json:"direct,omitempty"` // boots a kernel without firmware or boot loader, for tests
	// Control adds a second serial port on the unix socket ControlPath(dir), for tests that drive the guest.
	Control bool `json:"control,omitempty"`
	// UID is the user that the machine's process runs as, its group likewise. 0 leaves it the agent's own, as it must be
	// when the agent is not root.
	UID int `json:"uid,omitempty"`
	// Token marks the process's command line. Start sets it.
	Token string `json:"token,omitempty"`
}

// Disk is the root disk: a private overlay over a base image that many guests share. A zero Base means no disk.
type Disk struct {
	Base       string `json:"base,omitempty"`       // path of the raw image, absolute; never written
	BaseFormat string `json:"baseFormat,omitempty"` // "raw"; said, never guessed
	SizeBytes  uint64 `json:"sizeBytes,omitempty"`  // what the guest sees, a multiple of 512 and at least the base's
	Serial     string `json:"serial,omitempty"`     // as the guest reads it; at most 20 characters
}

// NIC is one network interface. Tap is inherited by the machine's process and survives the agent with it.
type NIC struct {
	MAC        [6]byte  `json:"mac"`
	Tap        *os.File `json:"-"`
	VnetHeader bool     `json:"vnetHeader"`
	MTU        int      `json:"mtu,omitempty"`
}

// Firmware starts the disk's boot loader.
type Firmware string

const (
	BIOS Firmware = ""
	UEFI Firmware = "uefi"
)

// DirectBoot names a kernel for Spec.Direct. The paths must be readable by the agent only.
type DirectBoot struct {
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`
}

// Validate refuses what no driver may start.
func (s *Spec) Validate() error {
	_, err := ids.Parse[ids.Instance](string(s.ID))
	switch {
	case err != nil:
	case !filepath.IsAbs(s.Dir):
		err = fmt.Errorf("directory %q is not absolute", s.Dir)
	case s.Generation == 0:
		err = errors.New("generation is 0")
	case s.VCPUs < 1 || s.MemoryMiB < 16:
		err = fmt.Errorf("%d vCPUs and %d MiB: want at least 1 and 16", s.VCPUs, s.MemoryMiB)
	case s.Disk.Base == "" && s.Direct == nil:
		err = errors.New("neither a disk nor a kernel to boot")
	case s.Disk.Base != "" && s.Disk.BaseFormat != "raw":
		err = fmt.Errorf("base image format %q: want raw", s.Disk.BaseFormat)
	case s.Disk.SizeBytes%512 != 0:
		err = fmt.Errorf("disk of %d bytes: want a multiple of 512", s.Disk.SizeBytes)
	case s.Firmware != BIOS && s.Firmware != UEFI:
		err = fmt.Errorf("firmware %q is unknown", s.Firmware)
	}
	if err != nil {
		return fmt.Errorf("validate guest %s: %w", s.ID, err)
	}
	return nil
}

// State is what a machine is doing.
type State string

const (
	StateRunning State = "running"
	StatePaused  State = "paused" // stopped by the hypervisor: an internal or I/O error
	StateEnded   State = "ended"
)

// Status is a machine's state at one moment.
type Status struct {
	State    State
	Detail   string    // the hypervisor's own word
	PID      int       // 0 when there is no process
	Started  time.Time // when this generation's machine was started
	Resets   int       // times that the guest restarted itself, as far as this handle saw
	Panicked bool      // the guest's kernel said that it gave up
	Reboots  int       // times that Reboot finished, as far as this handle saw
}

// Cause is why a guest ended.
type Cause string

const (
	CausePowerOff Cause = "power-off" // the guest switched itself off, asked or not
	CauseKilled   Cause = "killed"    // by Kill
	CauseCrashed  Cause = "crashed"   // the machine's process ended by itself or by another's hand
	CauseHost     Cause = "host"      // the host booted anew under it
)

// Exit is how a guest ended.
type Exit struct {
	Generation uint64    `json:"generation"`
	Cause      Cause     `json:"cause"`
	Status     int       `json:"status"` // exit status; -n for signal n; StatusUnknown when nobody saw it
	Reason     string    `json:"reason"` // for a person
	At         time.Time `json:"at"`     // when it was noticed
}

// StatusUnknown is the exit status of a process that ended while no agent was its parent.
const StatusUnknown = -1000
