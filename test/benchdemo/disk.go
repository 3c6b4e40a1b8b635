package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	blockBytes = 4 << 10
	diskBlocks = 1 << 10
	// stallBound is the slowest 99th percentile of a sync on a disk whose figures are worth reporting.
	stallBound = 50 * time.Millisecond
)

// disk times writes of 4 KiB, each followed by a sync, to a file that has all its blocks already: the least that a
// durable answer costs on this file system now. A file that grows would cost more, and flatter what is divided by it.
type disk struct {
	file *os.File
	next int64
}

// openDisk refuses a directory in memory and a disk that stalls.
func openDisk(dir string) (*disk, error) {
	if err := onDisk(dir); err != nil {
		return nil, err
	}
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
	taken, err := d.sync(200)
	if err != nil {
		return err
	}
	p99 := quantile(taken, 0.99)
	progress("disk: a write and sync of 4 KiB takes %v, p99 %v", median(taken), p99)
	if p99 > stallBound {
		return fmt.Errorf("the 99th percentile of a sync in %s is %v, beyond %v: try when the disk is calmer, or name another with --dir", d.file.Name(), p99, stallBound)
	}
	return nil
}

// sync times n writes and syncs.
func (d *disk) sync(n int) ([]time.Duration, error) {
	block, taken := make([]byte, blockBytes), make([]time.Duration, n)
	for i := range taken {
		begin := time.Now()
		if _, err := d.file.WriteAt(block, d.next%diskBlocks*blockBytes); err != nil {
			return nil, err
		}
		if err := syncData(d.file); err != nil {
			return nil, err
		}
		taken[i] = time.Since(begin)
		d.next++
	}
	return taken, nil
}

func (d *disk) close() { _ = d.file.Close() } // nothing in it is wanted any more
