package server

import (
	"strings"
	"sync"
	"time"

	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// links is what hosts last said. It is memory only: a host says it again in every session.
type links struct {
	mu    sync.RWMutex
	hosts map[ids.Host]*hostLink
}

type hostLink struct {
	info    host.Info
	up      bool
	heard   time.Time
	reports map[ids.Instance]host.InstanceStatus
	applied computerows.Applied
	failed  map[string]map[string]bool // by section: items that the host could not apply
}

func (l *links) reset() { l.hosts = map[ids.Host]*hostLink{} }

// edit calls fn with a host's link, making it if need be.
func (l *links) edit(id ids.Host, fn func(*hostLink)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[id]
	if h == nil {
		h = &hostLink{reports: map[ids.Instance]host.InstanceStatus{}, failed: map[string]map[string]bool{}}
		l.hosts[id] = h
	}
	fn(h)
}

// read calls fn with a host's link under the lock, unless nothing was ever heard of it.
func (l *links) read(id ids.Host, fn func(*hostLink)) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h := l.hosts[id]
	if h != nil {
		fn(h)
	}
	return h != nil
}

// up says whether the host has a session, or lost it less than compute.HostDownAfter ago. heard is whether this server
// knows anything of it.
func (l *links) up(id ids.Host) (up, heard bool) {
	heard = l.read(id, func(h *hostLink) { up = h.up })
	return up, heard
}

// report is what the host says of an instance.
func (l *links) report(id ids.Host, i ids.Instance) (r host.InstanceStatus, known bool) {
	l.read(id, func(h *hostLink) { r, known = h.reports[i] })
	return r, known
}

// hostOf is the host that a target is, if it is one.
func hostOf(target string) (ids.Host, bool) {
	id, found := strings.CutPrefix(target, host.DocHostPrefix())
	return ids.Host(id), found
}

// TargetUp implements dispatch.Observer: the host's row, capacity and zone follow its own description.
func (s *Service) TargetUp(target string, info []byte) {
	id, ok := hostOf(target)
	if !ok {
		return
	}
	described, err := host.Decode[host.Info](info)
	if err != nil || described.ID != id {
		s.log.Warn("host describes itself wrongly; it takes no instances", "host", id, "claimed", described.ID, "err", err)
		return
	}
	s.links.edit(id, func(h *hostLink) { h.info, h.up, h.heard = described, true, s.options.Env.Clock.Now() })
	s.queue.add(work{host: id})
}

// TargetDown implements dispatch.Observer.
func (s *Service) TargetDown(target string, since time.Time) {
	if id, ok := hostOf(target); ok {
		s.links.edit(id, func(h *hostLink) { h.up, h.heard = false, since })
	}
}

// Applied implements dispatch.Observer: placements that the host has ended may be released.
func (s *Service) Applied(target, section string, seq uint64, failures []dispatch.Failure) {
	id, ok := hostOf(target)
	if !ok {
		return
	}
	s.links.edit(id, func(h *hostLink) {
		switch section {
		case host.SectionInstances:
			h.applied.Instances = seq
		case host.SectionInterfaces:
			h.applied.Interfaces = seq
		default:
			return
		}
		failed := map[string]bool{}
		for _, f := range failures {
			failed[f.Key] = true
		}
		h.failed[section] = failed
	})
	s.queue.add(work{host: id})
}

// Actual implements dispatch.Observer: what the host says of its instances.
func (s *Service) Actual(target, section string, full bool, upserts []dispatch.Item, deletes []string) {
	id, ok := hostOf(target)
	if !ok || section != host.SectionInstances {
		return
	}
	changed := make([]work, 0, len(upserts))
	s.links.edit(id, func(h *hostLink) {
		if full {
			clear(h.reports)
		}
		for _, d := range deletes {
			delete(h.reports, ids.Instance(d))
		}
		for _, item := range upserts {
			r, err := host.Decode[host.InstanceStatus](item.Payload)
			if err != nil || string(r.ID) != item.Key {
				s.log.Warn("host's report is unreadable", "host", id, "instance", item.Key, "err", err)
				continue
			}
			h.reports[r.ID] = r
			changed = append(changed, work{instance: r.ID})
		}
	})
	s.queue.add(changed...)
}
