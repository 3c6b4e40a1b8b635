package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	blockBytes = 4 << 10
	diskBlocks = 1 << 10
	// recentSyncs bounds how many syncs are remembered.
	recentSyncs = 100
	// judgedSyncs decide whether a disk is worth measuring on.
	judgedSyncs = 200
	// stallBound is the slowest 99th percentile of a sync on a disk whose figures are worth reporting.
	stallBound = 50 * time.Millisecond
)

// disk times syncs.
type disk struct {
	file   *os.File
	next   int64
	recent []time.Duration // the last ones; at most recentSyncs
}

// openDisk refuses a disk that stalls.
func openDisk(dir string) (*disk, error) {
	file, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return nil, err
	}
	d := &disk{file: file}
	if err := d.judge(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return d, nil
}

func (d *disk) judge() error {
	if _, err := d.file.Write(make([]byte, diskBlocks*blockBytes)); err != nil {
		return err
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	taken, err := d.sync(judgedSyncs)
	if err != nil {
		return err
	}
	Progress("disk: a write and sync of 4 KiB takes %v, p99 %v", Median(taken), Quantile(taken, 0.99))
	return refuseStalls(filepath.Dir(d.file.Name()), taken)
}

// refuseStalls judges by the times of syncs.
func refuseStalls(dir string, taken []time.Duration) error {
	if p99 := Quantile(taken, 0.99); p99 > stallBound {
		return fmt.Errorf("the 99th percentile of a sync in %s is %v, beyond %v: try when the disk is calmer, or name another with --dir", dir, p99, stallBound)
	}
	return nil
}

func (d *disk) sync(n int) ([]time.Duration, error) {
	block, taken := make([]byte, blockBytes), make([]time.Duration, n)
	for i := range taken {
		begin := time.Now()
		if _, err := d.file.WriteAt(block, d.next%diskBlocks*blockBytes); err != nil {
			return nil, err
		}
		if err := SyncData(d.file); err != nil {
			return nil, err
		}
		taken[i] = time.Since(begin)
		d.next++
	}
	d.recent = append(d.recent, taken...)
	d.recent = d.recent[max(0, len(d.recent)-recentSyncs):]
	return taken, nil
}

// GiveToInvoker hands files to the person behind sudo; without one, they stay root's.
func GiveToInvoker(paths ...string) error {
	uid, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	gid, errGroup := strconv.Atoi(os.Getenv("SUDO_GID"))
	if err != nil || errGroup != nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}
