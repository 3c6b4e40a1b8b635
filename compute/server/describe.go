package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/lifecycle"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

func itoa(n int) string { return strconv.Itoa(n) }

// fresh waits until rows and the tags of volumes show everything committed before the call.
func (s *Service) fresh(ctx context.Context) error {
	if err := s.current(ctx); err != nil {
		return err
	}
	return s.options.Tags.WaitTags(ctx)
}

// visible selects an account's visible rows: the named ones, or all.
func (s *Service) visible(a ids.Account, named []ids.Instance) ([]*computerows.Instance, error) {
	now := s.options.Env.Clock.Now()
	if len(named) == 0 {
		return slices.DeleteFunc(s.view.of(a), func(i *computerows.Instance) bool { return !i.Visible(now) }), nil
	}
	found := map[ids.Instance]*computerows.Instance{}
	missing := &compute.NotFoundError{Kind: "instance"}
	for _, id := range named {
		row := s.view.instance(id)
		if row == nil || row.Account != a || !row.Visible(now) {
			missing.IDs = append(missing.IDs, string(id))
			continue
		}
		found[id] = row
	}
	if len(missing.IDs) > 0 {
		return nil, missing
	}
	return sorted(found), nil
}

// nameAllMissing makes a NotFoundError name every missing id, as EC2's does. Other errors pass.
func (s *Service) nameAllMissing(ctx context.Context, a ids.Account, list []ids.Instance, err error) error {
	var missing *compute.NotFoundError
	if !errors.As(err, &missing) || s.current(ctx) != nil {
		return err
	}
	if _, all := s.visible(a, list); all != nil {
		return all
	}
	return err
}

// DescribeInstances implements compute.Viewer.
func (s *Service) DescribeInstances(ctx context.Context, a ids.Account, named []ids.Instance, keep func(*compute.Instance) bool) ([]*compute.Instance, error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	rows, err := s.visible(a, named)
	if err != nil {
		return nil, err
	}
	return s.showAll(rows, keep), nil
}

func (s *Service) showAll(rows []*computerows.Instance, keep func(*compute.Instance) bool) []*compute.Instance {
	out := make([]*compute.Instance, 0, len(rows))
	for _, row := range rows {
		if i := s.view.show(row); keep == nil || keep(i) {
			out = append(out, i)
		}
	}
	return out
}

// AllInstances implements compute.Operator.
func (s *Service) AllInstances(ctx context.Context) ([]*compute.Instance, error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	now := s.options.Env.Clock.Now()
	return s.showAll(slices.DeleteFunc(s.view.all(), func(i *computerows.Instance) bool { return !i.Visible(now) }), nil), nil
}

// DescribeInstanceStatus implements compute.Viewer.
func (s *Service) DescribeInstanceStatus(ctx context.Context, a ids.Account, named []ids.Instance, keep func(*compute.Status) bool) ([]*compute.Status, error) {
	instances, err := s.DescribeInstances(ctx, a, named, nil)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(s.Statuses(instances), func(i *compute.Status) bool { return keep != nil && !keep(i) }), nil
}

// Statuses implements compute.Viewer.
func (s *Service) Statuses(instances []*compute.Instance) []*compute.Status {
	out := make([]*compute.Status, len(instances))
	for n, i := range instances {
		out[n] = s.status(i)
	}
	return out
}

func (s *Service) status(i *compute.Instance) *compute.Status {
	r, known := s.links.report(i.Host, i.ID)
	up := s.believed(i.Host)
	known = known && r.Generation == i.Generation
	out := &compute.Status{
		Instance: i, System: lifecycle.SystemCheck(i.State, up, known, r), Reachability: lifecycle.ReachCheck(i.State, up, known, r),
	}
	if out.System == compute.CheckImpaired {
		s.links.read(i.Host, func(h *hostLink) { out.ImpairedSince = h.heard })
	}
	return out
}

// DescribeVolumes implements compute.Viewer.
func (s *Service) DescribeVolumes(ctx context.Context, a ids.Account, named []ids.Volume, keep func(*compute.Volume) bool) ([]*compute.Volume, error) {
	if err := s.fresh(ctx); err != nil {
		return nil, err
	}
	rows, err := s.volumes(a, named)
	if err != nil {
		return nil, err
	}
	var out []*compute.Volume
	for _, row := range rows {
		v := row.View()
		v.Tags = s.options.Tags.Tags(a, string(v.ID))
		if keep == nil || keep(v) {
			out = append(out, v)
		}
	}
	return out, nil
}

func (s *Service) volumes(a ids.Account, named []ids.Volume) ([]*computerows.Volume, error) {
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	var out []*computerows.Volume
	missing := &compute.NotFoundError{Kind: "volume"}
	for _, id := range named {
		if row := s.view.volumes[id]; row == nil || row.Account != a {
			missing.IDs = append(missing.IDs, string(id))
		} else if !slices.Contains(out, row) {
			out = append(out, row)
		}
	}
	for _, row := range s.view.volumes {
		if len(named) == 0 && row.Account == a {
			out = append(out, row)
		}
	}
	if len(missing.IDs) > 0 {
		return nil, missing
	}
	slices.SortFunc(out, func(x, y *computerows.Volume) int {
		return cmp.Or(cmp.Compare(x.CreatedMs, y.CreatedMs), cmp.Compare(x.ID, y.ID))
	})
	return out, nil
}

// ConsoleOutput implements compute.Viewer.
func (s *Service) ConsoleOutput(ctx context.Context, a ids.Account, id ids.Instance) ([]byte, time.Time, error) {
	if err := s.current(ctx); err != nil {
		return nil, time.Time{}, err
	}
	rows, err := s.visible(a, []ids.Instance{id})
	if err != nil {
		return nil, time.Time{}, err
	}
	now := s.options.Env.Clock.Now()
	if rows[0].State == compute.Terminated {
		return nil, now, nil
	}
	if s.link == nil {
		return nil, now, compute.ErrHostUnreachable
	}
	header := host.Encode(host.ConsoleRequest{Instance: id, TailBytes: compute.ConsoleTailBytes})
	stream, err := s.link.OpenStream(ctx, host.DocHost(rows[0].Host), host.StreamConsole, header)
	if err != nil {
		return nil, now, fmt.Errorf("open console of %s: %w: %w", id, compute.ErrHostUnreachable, err)
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	out, err := io.ReadAll(io.LimitReader(stream, compute.ConsoleTailBytes))
	if err != nil {
		return nil, now, fmt.Errorf("read console of %s: %w: %w", id, compute.ErrHostUnreachable, err)
	}
	return out, now, nil
}

// Zones implements compute.Viewer.
func (s *Service) Zones(ctx context.Context) ([]compute.Zone, error) {
	hosts, err := s.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	zones := map[string]compute.Zone{}
	for _, h := range hosts {
		z := zones[h.Zone]
		z.Name, z.ID = h.Zone, ZoneID(s.options.Region, h.Zone)
		z.Hosts++
		if h.Connected || h.Awaited {
			z.Up++
		}
		zones[h.Zone] = z
	}
	out := make([]compute.Zone, 0, len(zones))
	for _, z := range zones {
		out = append(out, z)
	}
	slices.SortFunc(out, func(a, b compute.Zone) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// ZoneID is the zone's id in EC2's form: "us-nimbrel-1b" is "usn1-az2".
func ZoneID(region, zone string) string {
	letter := strings.TrimPrefix(zone, region)
	if len(letter) != 1 || letter[0] < 'a' || letter[0] > 'z' {
		return zone
	}
	var short strings.Builder
	for i, part := range strings.Split(region, "-") {
		switch {
		case i == 0:
			short.WriteString(part)
		case part != "":
			short.WriteByte(part[0])
		}
	}
	return short.String() + "-az" + itoa(int(letter[0]-'a')+1)
}

// Hosts implements compute.Operator.
func (s *Service) Hosts(ctx context.Context) ([]compute.Host, error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	var out []compute.Host
	for id, h := range s.view.hosts {
		if h.row == nil {
			continue
		}
		shown := showHost(h.row, h.left)
		shown.Instances = len(s.view.placements[id])
		heard := s.links.read(id, func(l *hostLink) { shown.Connected, shown.LastHeard = l.up, l.heard })
		shown.Awaited = !heard && s.awaited(id)
		out = append(out, shown)
	}
	slices.SortFunc(out, func(a, b compute.Host) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func showHost(row *computerows.Host, left fit.Size) compute.Host {
	info := row.Info
	return compute.Host{
		ID: info.ID, Name: info.Name, Zone: info.Zone, Underlay: info.Underlay, Accelerator: info.Accelerator, Simulated: info.Simulated,
		AgentVersion: info.AgentVersion, Kernel: info.Kernel, VCPUs: info.VCPUs, MemoryMiB: info.MemoryMiB, DiskGiB: info.DiskGiB,
		LeftVCPUs: int(left.VCPUs), LeftMemoryMiB: int(left.MemoryMiB), LeftDiskGiB: int(left.DiskGiB), Draining: row.Draining,
	}
}
