package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/compute/computerows"
	computes "github.com/nimbrel/nimbrel/compute/server"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/dispatch/enroll"
	links "github.com/nimbrel/nimbrel/dispatch/server"
	ec2door "github.com/nimbrel/nimbrel/ec2/server"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image/imagerows"
	images "github.com/nimbrel/nimbrel/image/server"
	imagetool "github.com/nimbrel/nimbrel/image/tool"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/svc/obs"
	networks "github.com/nimbrel/nimbrel/vpc/server"
	"github.com/nimbrel/nimbrel/vpc/vpcrows"
)

// storeTenant is the control plane's own tenant of the store.
const storeTenant = "nimbrel"

// controlPlane is every part on one store, wired.
type controlPlane struct {
	engine   *embed.Engine
	db       *store.DB
	accounts *accounts.Service
	networks *networks.Service
	images   *images.Service
	compute  *computes.Service
	link     *links.Server
	signer   *enroll.Authority
	started  time.Time

	// The tenants' door's; the flags replace them before it opens.
	admission *ec2door.Admission
	tenants   *obs.Door
}

// openControlPlane opens or makes a control plane in dir. Of limits only the bounds of images count.
func openControlPlane(dir, region string, zones []string, limits images.Options, log *slog.Logger) (_ *controlPlane, err error) {
	surroundings := env.System()
	if err := openStateDir(dir); err != nil {
		return nil, err
	}
	key, err := rootkey.Open(filepath.Join(dir, "root.key"), surroundings.Random)
	if err != nil {
		return nil, err
	}
	c := &controlPlane{
		started:   surroundings.Clock.Now(),
		admission: ec2door.NewAdmission(ec2door.AdmissionOptions{}), tenants: obs.NewDoor(obs.DoorOptions{}),
	}
	if c.signer, err = enroll.OpenSealedAuthority(filepath.Join(dir, "authority"), surroundings.Clock, key); err != nil {
		return nil, err
	}
	if c.engine, err = embed.Open(filepath.Join(dir, "store"), embed.Options{Log: log}); err != nil {
		return nil, err
	}
	c.db = store.New(c.engine, store.Options{Tenant: storeTenant})
	withNetwork := func(ctx context.Context, tx *store.Tx, a ids.Account) error {
		return c.networks.CreateDefault(ctx, tx, a)
	}
	c.accounts = accounts.New(c.db, key, accounts.Options{
		Env: surroundings, OnCreate: []func(context.Context, *store.Tx, ids.Account) error{withNetwork},
	})
	tags := c.accounts.Tags()
	c.networks, err = networks.New(c.db, networks.Options{Region: region, Zones: zones, Tags: tags, Env: surroundings})
	if err != nil {
		return nil, errors.Join(err, c.engine.Close())
	}
	converter, err := imagetool.WorkerCommand()
	if err != nil {
		return nil, errors.Join(err, c.engine.Close())
	}
	limits.Dir, limits.Converter, limits.Tags, limits.Env, limits.Log = filepath.Join(dir, "images"), converter, tags, surroundings, log
	c.images = images.New(c.db, limits)
	c.compute = computes.New(c.db, computes.Options{
		KeyPairs: c.accounts, Tags: tags, Networks: c.networks, Images: c.images, Region: region, Env: surroundings, Log: log,
	})
	c.registerTags()
	c.link = links.New(c.db, links.Options{
		Observer: c.compute, Authority: c.signer, Streams: map[string]links.StreamHandler{host.StreamImage: serveImages(c.images)},
		Clock: surroundings.Clock, Log: log,
	})
	c.compute.SetLink(c.link)
	c.networks.FollowApplied(c.link.AppliedTopic)
	return c, nil
}

// registerTags tells the tag service which resources exist and who vouches for them.
func (c *controlPlane) registerTags() {
	tags := c.accounts.Tags()
	tags.Register("i", "instance", computerows.ExpectOwned)
	tags.Register("vol", "volume", computerows.ExpectOwned)
	tags.Register("ami", "image", imagerows.ExpectOwned)
	for _, t := range vpcrows.Taggables() {
		tags.Register(t.IDPrefix, string(t.Kind), t.Expect)
	}
}

// run keeps every part going until ctx ends or one of them fails.
func (c *controlPlane) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for name, run := range map[string]func(context.Context) error{
		"accounts": c.accounts.Run, "networks": c.networks.Run, "images": c.images.Run, "compute": c.compute.Run, "host link": c.link.Run,
	} {
		group.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("run %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// invariants are those of every part.
func invariants() []check.Invariant {
	var all []check.Invariant
	for _, part := range [][]check.Invariant{
		accountrows.Invariants(), vpcrows.Invariants(), imagerows.Invariants(), computerows.Invariants(),
	} {
		all = append(all, part...)
	}
	for _, i := range dispatchrows.Invariants() {
		all = append(all, check.Invariant(i))
	}
	return all
}

// joiner makes join tokens for operators.
type joiner struct {
	plane   *controlPlane
	address string // of the host link
}

// CreateToken makes a token for one new host, or for known to take its own place with a new key.
func (j joiner) CreateToken(ctx context.Context, _ string, known ids.Host, ttl time.Duration) (string, time.Time, error) {
	now, target := time.Now(), host.DocHostPrefix()
	if known != "" {
		target = host.DocHost(known)
	}
	token, err := links.CreateToken(ctx, j.plane.db, target, ttl, now)
	if err != nil {
		return "", time.Time{}, err
	}
	return j.plane.signer.Fingerprint() + "." + token, now.Add(ttl), nil
}

// Fingerprint is that of the authority that hosts trust.
func (j joiner) Fingerprint() string { return j.plane.signer.Fingerprint() }

// Address is where hosts dial.
func (j joiner) Address() string { return j.address }
