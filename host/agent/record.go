package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Folders of a state directory.
const (
	guestsFolder   = "guests"  // one directory a guest, by instance id
	volumesFolder  = "volumes" // disks that outlive their instance
	documentFolder = "desired" // the host link's
	recordFile     = "agent.json"
	tokenKeyFile   = "metadata.key"
)

// record is what the agent itself keeps of a guest, beside the driver's files. That it exists says that a document
// named the guest.
type record struct {
	RebootID   string          `json:"rebootId,omitempty"` // the last reboot executed, or overtaken by a start
	Interfaces []ids.Interface `json:"interfaces,omitempty"`
	DeleteRoot bool            `json:"deleteRoot"`
	RootVolume ids.Volume      `json:"rootVolume,omitempty"`
	UID        int             `json:"uid,omitempty"`
}

func recordOf(i *host.Instance, uid int) record {
	return record{RebootID: i.RebootID, Interfaces: i.Interfaces, DeleteRoot: i.DeleteRootOnTermination, RootVolume: i.RootVolume, UID: uid}
}

func readRecord(dir string) (r record, found bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("read record of %s: %w", filepath.Base(dir), err)
	}
	return r, true, nil
}

// write replaces the record whole and durably, making the directory if need be.
func (r record) write(dir string) error {
	if err := vm.MakeDir(dir); err != nil {
		return fmt.Errorf("write record of %s: %w", filepath.Base(dir), err)
	}
	if err := vm.WriteJSON(dir, recordFile, r); err != nil {
		return fmt.Errorf("write record of %s: %w", filepath.Base(dir), err)
	}
	return nil
}

// removeGuest removes a guest's directory. A disk that is to be kept is moved to the volumes first.
func removeGuest(stateDir, dir string, r record) error {
	if !r.DeleteRoot && r.RootVolume != "" {
		if err := keepDisk(stateDir, dir, r.RootVolume); err != nil {
			return fmt.Errorf("remove guest %s: %w", filepath.Base(dir), err)
		}
	}
	// Renamed first: a removal that is cut short must not leave a directory that looks like a guest's.
	doomed := filepath.Join(filepath.Dir(dir), ".removing-"+filepath.Base(dir))
	err := os.Rename(dir, doomed)
	if err == nil {
		err = os.RemoveAll(doomed)
	}
	if err != nil {
		return fmt.Errorf("remove guest %s: %w", filepath.Base(dir), err)
	}
	return nil
}

func keepDisk(stateDir, dir string, volume ids.Volume) error {
	if _, err := ids.Parse[ids.Volume](string(volume)); err != nil {
		return err
	}
	folder := filepath.Join(stateDir, volumesFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	// Its image first: a disk must not be without one for a moment.
	err := os.Rename(filepath.Join(dir, baseFile), filepath.Join(folder, string(volume)+".base"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = os.Rename(vm.DiskPath(dir), filepath.Join(folder, string(volume)+".qcow2"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never started, or moved by an attempt before
	}
	return err
}
