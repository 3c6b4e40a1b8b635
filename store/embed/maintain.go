package embed

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

// maintain collects history and watches the disk's free space until the engine closes.
func (e *Engine) maintain() {
	tick := time.NewTicker(e.options.CollectEvery)
	defer tick.Stop()
	for {
		e.checkDisk()
		e.collect()
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
	}
}

// collect removes history until none is beyond the bounds.
func (e *Engine) collect() {
	for {
		more, err := e.collectSome()
		e.must(err)
		if !more {
			return
		}
		select {
		case <-e.stop:
			return
		default:
		}
	}
}

// collectSome removes a bounded part of it.
func (e *Engine) collectSome() (more bool, err error) {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	now := e.options.Env.Clock.Now()
	v, written := e.durable.size()
	return e.state.Collect(mvcc.Retention{
		OldestMs: now.Add(-e.options.History).UnixMilli(),
		Bytes:    e.options.HistoryBytes,
		Written:  written,
		Keep:     e.leases.oldest(v, now),
	})
}

// checkDisk tells the transactor whether there is room.
func (e *Engine) checkDisk() {
	usage, err := e.options.FS.GetDiskUsage(e.dir)
	if err != nil {
		if !errors.Is(err, vfs.ErrUnsupported) {
			e.options.Log.Warn("disk usage unknown", "path", e.dir, "err", err)
		}
		return
	}
	full := usage.AvailBytes < e.options.ReserveBytes
	select {
	case <-e.diskFull: // an older reading that nobody took
	default:
	}
	e.diskFull <- full
}
