package agent

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/host"
)

const (
	// baseFile, in a guest's directory, pins the image that its disk is over; a kept disk takes it along.
	baseFile = "base.raw"
	// minImageUnused is longer than any start is under way.
	minImageUnused = 2 * imageTimeout
	trimEvery      = time.Hour
)

// keepImages removes images that nobody needs, now and then.
func (a *agent) keepImages(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.trimImages(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// trimImages removes old images without a disk over them, once it is known what is wanted and what is there.
func (a *agent) trimImages(now time.Time) {
	a.mu.Lock()
	s, adopting := a.desired, a.adopting
	a.mu.Unlock()
	if a.o.ImageUnusedFor < 0 || s == nil || !s.known || adopting > 0 {
		return
	}
	needed := map[string]bool{}
	for _, item := range s.instances {
		needed[item.ImageSHA256] = true
	}
	removed, err := a.images.Trim(now, a.o.ImageUnusedFor, func(digest string) bool { return needed[digest] })
	if err != nil {
		a.o.Log.Warn("images are not trimmed", "err", err)
	}
	for _, digest := range removed {
		a.o.Log.Info("unused image removed", "image", digest)
	}
}

// pinImage keeps the image under an adopted guest: one that an agent launched before images were pinned, too.
func (w *worker) pinImage() {
	digest := filepath.Base(w.machine.Spec().Disk.Base)
	if w.agent.o.Driver == DriverFake || !host.IsDigest(digest) {
		return
	}
	if err := w.agent.images.Pin(digest, filepath.Join(w.dir, baseFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.log.Warn("image is not pinned", "err", err)
	}
}
