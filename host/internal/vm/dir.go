package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Files of a guest's directory. It belongs to the agent's user with mode 0700; the machine's process gets what it needs
// of it as open descriptors, so that a machine that was taken over can neither reach nor replace any of these.
const (
	specFile    = "spec.json"    // Spec as launched
	processFile = "process.json" // Process, written before the guest runs
	exitFile    = "exit.json"    // Exit, once it has ended
	rebootFile  = "reboot"       // present while Reboot is under way
	lockFile    = "lock"
	consoleFile = "console.log"
	logFile     = "machine.log" // the machine process's own output
	diskFile    = "root.qcow2"
	nvramFile   = "nvram.fd" // UEFI variables
	agentSocket = "qmp.sock"
	humanSocket = "qmp-human.sock"
	controlSock = "control.sock"
)

// ConsolePath is the guest's serial console log.
func ConsolePath(dir string) string { return filepath.Join(dir, consoleFile) }

// LogPath is what the machine's process itself had to say.
func LogPath(dir string) string { return filepath.Join(dir, logFile) }

// DiskPath is the guest's private overlay.
func DiskPath(dir string) string { return filepath.Join(dir, diskFile) }

// NVRAMPath is the guest's private copy of the UEFI variables.
func NVRAMPath(dir string) string { return filepath.Join(dir, nvramFile) }

// AgentSocketPath is the monitor that the agent uses.
func AgentSocketPath(dir string) string { return filepath.Join(dir, agentSocket) }

// HumanSocketPath is a second monitor, for a person.
func HumanSocketPath(dir string) string { return filepath.Join(dir, humanSocket) }

// ControlPath is the socket of the second serial port of a guest started with Spec.Control.
func ControlPath(dir string) string { return filepath.Join(dir, controlSock) }

// A directory that is still locked after lockPatience has another manager.
const (
	lockPatience = time.Second
	lockPoll     = 2 * time.Millisecond
)

// Lock takes the directory for one handle. The kernel drops it when the process dies. Errors: ErrLocked, after a second.
func Lock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// A process between fork and exec holds a copy of every lock of its parent's: one that this program has just let go of
	// looks taken while it starts something else, and no event tells the end of that.
	for limit := time.Now().Add(lockPatience); ; time.Sleep(lockPoll) {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(limit) {
			break
		}
	}
	if err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return file, nil
}

// WriteSpec records what is about to be launched.
func WriteSpec(spec Spec) error { return WriteJSON(spec.Dir, specFile, spec) }

// ReadSpec reads what was launched from dir. Errors: ErrNoSpec.
func ReadSpec(dir string) (Spec, error) {
	var spec Spec
	err := readJSON(dir, specFile, &spec)
	if err == nil {
		err = spec.Validate()
	}
	if err == nil && spec.Dir != dir {
		err = fmt.Errorf("it is of %s", spec.Dir)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("read specification in %s: %w: %w", dir, ErrNoSpec, err)
	}
	return spec, nil
}

// StartedAt is when the guest was launched: the time of its specification. It is zero when there is none.
func StartedAt(dir string) time.Time {
	info, err := os.Stat(filepath.Join(dir, specFile))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// WriteExit records how the guest ended.
func WriteExit(dir string, exit Exit) error { return WriteJSON(dir, exitFile, exit) }

// ReadExit reads how a generation ended; found is false when that is not recorded.
func ReadExit(dir string, generation uint64) (exit Exit, found bool) {
	err := readJSON(dir, exitFile, &exit)
	return exit, err == nil && exit.Generation == generation
}

// SetRebooting and Rebooting keep the intent of a reboot across the agent's death.
func SetRebooting(dir string, on bool) error {
	path := filepath.Join(dir, rebootFile)
	if on {
		return os.WriteFile(path, nil, 0o600)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Rebooting says whether a reboot was under way.
func Rebooting(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, rebootFile))
	return err == nil
}

// ClearRecords forgets the previous generation's process and exit, keeping its disk and console.
func ClearRecords(dir string) error {
	for _, name := range []string{processFile, exitFile, rebootFile, agentSocket, humanSocket, controlSock} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// MakeDir makes a guest's directory unless it is there. Its name is on disk when it returns.
func MakeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// WriteJSON replaces a record whole: a reader finds the old or the new one, and after WriteJSON returned the new one, also
// after a power loss.
func WriteJSON(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(dir, name, append(b, '\n'))
}

// WriteFile replaces a file as WriteJSON does. Its mode is 0600.
func WriteFile(dir, name string, b []byte) error {
	file, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone already when the rename succeeded
	if _, err = file.Write(b); err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func readJSON(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
