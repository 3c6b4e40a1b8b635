package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/compute/internal/place"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/svc/op"
	"github.com/nimbrel/nimbrel/vpc"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// launch is a RunInstances on its way: the request with what it refers to looked up.
type launch struct {
	account ids.Account
	request compute.RunRequest
	kind    compute.InstanceType
	image   *image.Image
	key     account.KeyPair
	network vpc.Prepared
	diskGiB int
	need    fit.Size
	dry     bool // nothing is to be made
}

// RunInstances implements compute.Launcher.
func (s *Service) RunInstances(ctx context.Context, a ids.Account, r compute.RunRequest) (compute.Reservation, error) {
	if err := validate(r); err != nil {
		return compute.Reservation{}, err
	}
	token, print := computerows.TokenScope(a, r.ClientToken), fingerprint(r)
	if r.ClientToken != "" {
		if err := token.Validate(); err != nil {
			return compute.Reservation{}, err
		}
		record, found, err := s.findToken(ctx, token)
		if err != nil {
			return compute.Reservation{}, err
		}
		if found {
			return s.replay(ctx, a, token, print, record)
		}
	}
	l, err := s.lookUp(ctx, a, r, false)
	if err != nil {
		return compute.Reservation{}, err
	}
	out, err := s.launchAnywhere(ctx, l, token, print)
	if record, claimed := idem.FromError(err); claimed {
		return s.replay(ctx, a, token, print, record)
	}
	return out, err
}

// CheckLaunch implements compute.Launcher.
func (s *Service) CheckLaunch(ctx context.Context, a ids.Account, r compute.RunRequest) error {
	err := validate(r)
	if err == nil {
		_, err = s.lookUp(ctx, a, r, true)
	}
	return err
}

// fingerprint covers everything that a client asked for, but for the token itself.
func fingerprint(r compute.RunRequest) idem.Fingerprint {
	r.ClientToken = ""
	return idem.Print(r)
}

func (s *Service) findToken(ctx context.Context, token idem.Scope) (record idem.Record, found bool, err error) {
	err = s.db.View(ctx, func(r store.Reader) (err error) {
		record, found, err = idem.Find(ctx, r, token)
		return err
	})
	return record, found, err
}

// replay answers a repeated request with what the first one made, in its present state.
func (s *Service) replay(ctx context.Context, a ids.Account, token idem.Scope, print idem.Fingerprint, record idem.Record) (compute.Reservation, error) {
	if err := record.Check(token, print); err != nil {
		return compute.Reservation{}, err
	}
	if err := s.current(ctx); err != nil {
		return compute.Reservation{}, err
	}
	out := compute.Reservation{ID: ids.Reservation(record.Resource), Account: a}
	for _, row := range s.view.launch(out.ID) {
		out.Instances = append(out.Instances, s.view.show(row))
	}
	return out, nil
}

// validate checks what needs no look at anything else.
func validate(r compute.RunRequest) error {
	refuse := func(parameter string, value any, reason string) error {
		return &compute.RequestError{Parameter: parameter, Value: fmt.Sprint(value), Reason: reason}
	}
	_, known := compute.TypeNamed(r.Type)
	switch {
	case r.MinCount < 1:
		return refuse("MinCount", r.MinCount, "it must be at least 1")
	case r.MaxCount < r.MinCount:
		return refuse("MaxCount", r.MaxCount, "it must be at least MinCount")
	case r.MaxCount > compute.MaxPerRequest:
		return refuse("MaxCount", r.MaxCount, "one request launches at most "+strconv.Itoa(compute.MaxPerRequest)+" instances; send several")
	case !known:
		return refuse("InstanceType", r.Type, "no such type; DescribeInstanceTypes lists them")
	case len(r.UserData) > compute.MaxUserDataBytes:
		return refuse("UserData", fmt.Sprintf("%d bytes", len(r.UserData)), "it is limited to 16384 bytes before encoding; fetch the rest from the guest")
	case r.PrivateIP.IsValid() && r.MaxCount > 1:
		return refuse("PrivateIpAddress", r.PrivateIP, "one address serves one instance; set MaxCount to 1")
	case r.RootDisk.SizeGiB < 0 || r.RootDisk.SizeGiB > compute.MaxRootDiskGiB:
		return refuse("BlockDeviceMapping.Ebs.VolumeSize", r.RootDisk.SizeGiB, "a root volume has 1 to "+strconv.Itoa(compute.MaxRootDiskGiB)+" GiB")
	case r.Metadata.HopLimit < 0 || r.Metadata.HopLimit > 64:
		return refuse("MetadataOptions.HttpPutResponseHopLimit", r.Metadata.HopLimit, "it is 1 to 64")
	case len(r.InterfaceDescription) > 255 || !utf8.ValidString(r.InterfaceDescription):
		return refuse("NetworkInterface.Description", len(r.InterfaceDescription), "it is text of at most 255 bytes")
	}
	for _, tags := range []map[string]string{r.InstanceTags, r.VolumeTags, r.InterfaceTags} {
		if err := account.ValidateTags("", tags); err != nil {
			return err
		}
	}
	return nil
}

// lookUp resolves what the request names. The commit checks again that all of it still exists.
func (s *Service) lookUp(ctx context.Context, a ids.Account, r compute.RunRequest, dry bool) (*launch, error) {
	l := &launch{account: a, request: r, dry: dry}
	l.kind, _ = compute.TypeNamed(r.Type)
	images, err := s.options.Images.DescribeImages(ctx, a, []ids.Image{r.Image}, nil)
	if err != nil {
		return nil, err
	}
	l.image = images[0]
	if r.KeyName != "" {
		keys, err := s.options.KeyPairs.DescribeKeyPairs(ctx, a, account.KeyPairSelection{Names: []string{r.KeyName}}, nil)
		if err != nil {
			return nil, err
		}
		l.key = keys[0]
	}
	l.diskGiB = cmp.Or(r.RootDisk.SizeGiB, l.image.DiskGiB())
	if least := l.image.MinDiskGiB(); l.diskGiB < least {
		return nil, &compute.RequestError{Parameter: "BlockDeviceMapping.Ebs.VolumeSize", Value: strconv.Itoa(l.diskGiB),
			Reason: fmt.Sprintf("it is smaller than the image %s, which needs %d GiB", l.image.ID, least)}
	}
	l.need = fit.Of(l.kind, l.diskGiB)
	return l, s.prepare(ctx, l, false)
}

// prepare resolves where the launch attaches; again says that the last answer turned out to be stale.
func (s *Service) prepare(ctx context.Context, l *launch, again bool) (err error) {
	r := &l.request
	l.network, err = s.options.Networks.Prepare(ctx, vpc.PrepareRequest{Account: l.account, Subnet: r.Subnet, Zone: r.Zone, Address: r.PrivateIP, Groups: r.Groups, Retry: again, DryRun: l.dry})
	if err != nil {
		return err
	}
	if zone := l.network.Subnet.Zone; r.Zone != "" && r.Zone != zone {
		return &compute.RequestError{Parameter: "Placement.AvailabilityZone", Value: r.Zone,
			Reason: fmt.Sprintf("subnet %s is in zone %s", l.network.Subnet.ID, zone)}
	}
	return nil
}

// launchAnywhere launches and, where the request leaves the zone to the cloud, tries the other zones' default subnets when
// the first zone is full. All instances of a launch are in one zone. When no zone has room, the answer is the first zone's.
func (s *Service) launchAnywhere(ctx context.Context, l *launch, token idem.Scope, print idem.Fingerprint) (compute.Reservation, error) {
	out, err := s.launch(ctx, l, token, print)
	if r := &l.request; r.Subnet != "" || r.Zone != "" || r.PrivateIP.IsValid() {
		return out, err
	}
	var full *compute.CapacityError
	if !errors.As(err, &full) {
		return out, err
	}
	for _, zone := range s.view.zones(s.counts) {
		if zone == l.network.Subnet.Zone {
			continue
		}
		there := *l
		there.request.Zone = zone
		var missing *vpc.NotFoundError
		if err := s.prepare(ctx, &there, false); errors.As(err, &missing) && missing.Kind == vpc.KindDefaultSubnet {
			continue
		} else if err != nil {
			return out, err
		}
		other, otherErr := s.launch(ctx, &there, token, print)
		if !errors.As(otherErr, new(*compute.CapacityError)) {
			return other, otherErr
		}
	}
	return out, err
}

// launch chooses hosts and commits. When the truth had less room than the view, it looks once more at a view that has
// caught up; when the network was edited meanwhile, it resolves it once more.
func (s *Service) launch(ctx context.Context, l *launch, token idem.Scope, print idem.Fingerprint) (compute.Reservation, error) {
	out, err := s.attempt(ctx, l, token, print)
	var full *compute.CapacityError
	switch {
	case errors.As(err, &full):
		if err := s.current(ctx); err != nil {
			return out, err
		}
	case errors.Is(err, vpc.ErrStale):
		if err := s.prepare(ctx, l, true); err != nil {
			return out, err
		}
	default:
		return out, err
	}
	return s.attempt(ctx, l, token, print)
}

func (s *Service) attempt(ctx context.Context, l *launch, token idem.Scope, print idem.Fingerprint) (compute.Reservation, error) {
	plan := s.plan(l)
	plan.Token, plan.Print = token, print
	var launched []computerows.Launched
	result, err := s.db.Transact(ctx, func(tx *store.Tx) (err error) {
		launched, err = plan.Launch(tx)
		return err
	})
	if err != nil {
		return compute.Reservation{}, err
	}
	out := compute.Reservation{ID: plan.Instances[0].Instance.Reservation, Account: l.account}
	for k, slots := range launched {
		if result.Ran(slots.Ran) {
			out.Instances = append(out.Instances, s.launched(l, &plan.Instances[k].Instance, slots, result))
		}
	}
	return out, nil
}

// launched is a new instance as clients see it, before the view does.
func (s *Service) launched(l *launch, row *computerows.Instance, slots computerows.Launched, result *store.Result) *compute.Instance {
	row.Host = ids.Host(result.Label(slots.Host))
	n := vpc.Interface{State: vpc.InterfaceInUse, Groups: l.network.Identity.Groups, Address: slots.Attached.Address(result)}
	shown := row.View(&n)
	shown.Tags = l.request.InstanceTags
	s.view.mu.RLock()
	defer s.view.mu.RUnlock()
	shown.Simulated = s.view.simulated(row.Host)
	return shown
}

// plan decides everything about each instance but its host and address.
func (s *Service) plan(l *launch) *computerows.Launch {
	m, r := s.moment(), &l.request
	zone := l.network.Subnet.Zone
	hosts := s.view.candidates(zone, s.counts)
	plan := &computerows.Launch{
		Now: m.Now, Min: r.MinCount, KeyPair: l.key.ID, Network: l.network,
		NoRoom: &compute.CapacityError{Type: r.Type, Zone: zone, Reason: place.Explain(hosts, l.need)},
	}
	chooser := place.New(hosts, newRand())
	reservation := ids.New[ids.Reservation](m.Random)
	for k := range r.MaxCount {
		row := l.row(m, reservation, k, s.options.Region)
		plan.Instances = append(plan.Instances, computerows.Planned{
			Instance: row, Candidates: chooser.Choose(l.need, computerows.CandidatesFor(r.MaxCount)),
			Attach: l.attach(m, &row), Tags: r.InstanceTags, VolumeTags: r.VolumeTags,
		})
	}
	return plan
}

// row is one instance as it begins.
func (l *launch) row(m *computerows.Moment, reservation ids.Reservation, index int, region string) computerows.Instance {
	r, nowMs := &l.request, m.Now.UnixMilli()
	return computerows.Instance{
		ID: ids.New[ids.Instance](m.Random), Account: l.account, Reservation: reservation, LaunchIndex: index,
		CreatedMs: nowMs, LaunchedMs: nowMs, AttemptMs: nowMs, TransitionMs: nowMs, Attempt: 1, Generation: 1,
		Type: r.Type, VCPUs: l.kind.VCPUs, Size: l.need, Zone: l.network.Subnet.Zone, Region: region,
		State: compute.Pending, Reason: computerows.Reason(compute.ReasonPending), Power: host.PowerRun,
		Operation: op.NewID(m.Now, m.Random),
		VPC:       l.network.VPC.ID, Subnet: l.network.Subnet.ID,
		Interface: ids.New[ids.Interface](m.Random), Attachment: ids.New[ids.InterfaceAttachment](m.Random),
		GroupNames: l.network.Names,
		KeyName:    l.key.Name, PublicKey: l.key.PublicKey, UserData: r.UserData,
		Metadata:  computerows.Metadata{TokensRequired: r.Metadata.TokensRequired, HopLimit: max(r.Metadata.HopLimit, 1), Disabled: r.Metadata.Disabled},
		Protected: r.DisableAPITermination, OnShutdown: r.ShutdownBehavior,
		Image: l.image.ID, ImageSHA256: l.image.SHA256, ImageBytes: l.image.Bytes, Architecture: l.image.Architecture, UEFI: l.image.UEFI(),
		RootDevice: l.image.RootDeviceName, RootVolume: ids.New[ids.Volume](m.Random), RootDiskGiB: l.diskGiB, KeepRoot: r.RootDisk.Keep,
		Token: r.ClientToken,
	}
}

// attach asks for the instance's interface.
func (l *launch) attach(m *computerows.Moment, i *computerows.Instance) vpcrows.AttachRequest {
	return vpcrows.AttachRequest{
		Interface: i.Interface, Attachment: i.Attachment, Instance: i.ID, Address: l.request.PrivateIP,
		DeleteOnTermination: true, Description: l.request.InterfaceDescription, Created: m.Now, Tags: l.request.InterfaceTags,
	}
}
