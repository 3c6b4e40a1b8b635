// Package daemon starts the processes of a one-machine cloud, finds them again, and ends them.
//
// A process is known by its pid together with its start time and the machine's boot id, never by a pid alone: after a
// reboot, or once the kernel has reused the number, a record is stale and its process counts as ended. A daemon has a
// session of its own, so that it outlives the terminal that started it.
//
// Deliberately absent: restarting what has died. `nimbrel dev up` does that when it is run again.
package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Spec says how to start a daemon.
type Spec struct {
	Name string   // names the record and the log file
	Path string   // executable
	Args []string // without the executable's own name
	Env  []string // whole environment
	// Enter runs the start in other surroundings, such as a network namespace; nil starts it here.
	Enter func(start func() error) error
}

// Record identifies a started daemon.
type Record struct {
	Name       string    `json:"name"`
	PID        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"` // field 22 of /proc/PID/stat
	BootID     string    `json:"bootId"`
	Started    time.Time `json:"started"`
	Log        string    `json:"log"`
	Args       []string  `json:"args"`
}

// Dir keeps the records and logs of a cloud's daemons. Callers hold the cloud's lock.
type Dir struct {
	Run string // records
	Log string // logs
}

// logKeepBytes is how much of a log survives the next start of its daemon.
const logKeepBytes = 1 << 20

// Start starts a daemon unless it runs already, and returns its record. started tells which it was.
func (d Dir) Start(s Spec) (rec Record, started bool, err error) {
	if rec, err := d.Lookup(s.Name); err == nil && rec.Running() {
		return rec, false, nil
	}
	for _, dir := range []string{d.Run, d.Log} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return Record{}, false, err
		}
	}
	logPath := filepath.Join(d.Log, s.Name+".log")
	if err := truncateLog(logPath); err != nil {
		return Record{}, false, fmt.Errorf("shorten log %s: %w", logPath, err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Record{}, false, err
	}
	defer log.Close()
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.Env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	enter := s.Enter
	if enter == nil {
		enter = func(start func() error) error { return start() }
	}
	if err := enter(cmd.Start); err != nil {
		return Record{}, false, fmt.Errorf("start %s: %w", s.Name, err)
	}
	rec = Record{Name: s.Name, PID: cmd.Process.Pid, Started: time.Now().UTC(), Log: logPath, Args: append([]string{s.Path}, s.Args...)}
	rec.StartTicks, rec.BootID = startTicks(rec.PID), bootID()
	// Reaping here keeps a daemon that dies early from staying a zombie, which would look alive.
	go func() { _ = cmd.Wait() }()
	if err := writeJSON(filepath.Join(d.Run, s.Name+".json"), rec); err != nil {
		_ = cmd.Process.Kill()
		return Record{}, false, fmt.Errorf("record %s: %w", s.Name, err)
	}
	return rec, true, nil
}

// Lookup reads a daemon's record; os.ErrNotExist when there is none.
func (d Dir) Lookup(name string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(d.Run, name+".json"))
	if err != nil {
		return Record{}, err
	}
	var rec Record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return Record{}, fmt.Errorf("read record of %s: %w", name, err)
	}
	return rec, nil
}

// List returns the records of all daemons, by name.
func (d Dir) List() ([]Record, error) {
	paths, err := filepath.Glob(filepath.Join(d.Run, "*.json"))
	if err != nil {
		return nil, err
	}
	var recs []Record
	for _, p := range paths {
		name := filepath.Base(p)
		rec, err := d.Lookup(name[:len(name)-len(".json")])
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// Stop asks a daemon to end (SIGTERM), kills it when it has not ended within grace, and removes its record. A daemon
// that does not run is no error.
func (d Dir) Stop(name string, grace time.Duration) error {
	rec, err := d.Lookup(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := rec.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if !rec.waitEnd(grace) {
		if err := rec.signal(syscall.SIGKILL); err != nil {
			return err
		}
		if !rec.waitEnd(10 * time.Second) {
			return fmt.Errorf("stop %s: process %d does not end", name, rec.PID)
		}
	}
	return os.Remove(filepath.Join(d.Run, name+".json"))
}

// Running reports whether the recorded process itself still runs.
func (r Record) Running() bool {
	return r.BootID == bootID() && r.StartTicks != 0 && startTicks(r.PID) == r.StartTicks
}

func (r Record) signal(sig syscall.Signal) error {
	if !r.Running() {
		return nil
	}
	if err := syscall.Kill(r.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s (process %d): %w", r.Name, r.PID, err)
	}
	return nil
}

// waitEnd polls, since a daemon of an earlier command is nobody's child here.
func (r Record) waitEnd(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); r.Running(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// truncateLog keeps the last part of an overlong log.
func truncateLog(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() <= 2*logKeepBytes) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	tail := make([]byte, logKeepBytes)
	if _, err := f.ReadAt(tail, info.Size()-logKeepBytes); err != nil {
		return err
	}
	return os.WriteFile(path, tail, 0o600)
}

// writeJSON replaces a file whole: a reader sees the old or the new record.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
