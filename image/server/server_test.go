package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/account/rootkey"
	accounts "github.com/nimbrel/nimbrel/account/server"
	"github.com/nimbrel/nimbrel/check"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/imagerows"
	"github.com/nimbrel/nimbrel/internal/env"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

const (
	owner    = ids.Account("111111111111")
	stranger = ids.Account("222222222222")
)

type catalog struct {
	*Service
	t    *testing.T
	ctx  context.Context
	tags *accounts.Tags
	dir  string // of sources
}

func newCatalog(t *testing.T) *catalog {
	t.Helper()
	engine := storetest.NewMemory()
	db := store.New(engine, store.Options{Tenant: "t"})
	key, err := rootkey.New(make([]byte, 32), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	people := accounts.New(db, key, accounts.Options{})
	people.Tags().Register("ami", "image", imagerows.ExpectOwned)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c := &catalog{t: t, ctx: ctx, tags: people.Tags(), dir: t.TempDir()}
	c.Service = New(db, Options{Dir: filepath.Join(t.TempDir(), "images"), Tags: people.Tags(), Env: env.System()})
	done := make(chan struct{}, 2)
	go func() { people.Run(ctx); done <- struct{}{} }()    //nolint:errcheck // ends with ctx
	go func() { c.Service.Run(ctx); done <- struct{}{} }() //nolint:errcheck // ends with ctx
	t.Cleanup(func() {
		report, err := check.Run(ctx, db, imagerows.Invariants())
		if err != nil || !report.Clean() {
			t.Errorf("check: %v, %+v", err, report.Findings)
		}
		cancel()
		<-done
		<-done
		engine.Close()
	})
	return c
}

// source writes a raw disk: data, then a hole, then data.
func (c *catalog) source(name, data string, holeBytes int) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	content := append([]byte(data), make([]byte, holeBytes)...)
	content = append(content, "end"...)
	content = append(content, make([]byte, 512-len(content)%512)...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *catalog) register(path string, edit ...func(*image.Registration)) *image.Image {
	c.t.Helper()
	r := image.Registration{Path: path, Owner: owner, Name: "debian", Public: true, Architecture: "x86_64"}
	for _, fn := range edit {
		fn(&r)
	}
	i, err := c.RegisterLocal(c.ctx, r)
	if err != nil {
		c.t.Fatalf("register %s: %v", path, err)
	}
	return i
}

func (c *catalog) describe(a ids.Account, named ...ids.Image) []*image.Image {
	c.t.Helper()
	out, err := c.DescribeImages(c.ctx, a, named, nil)
	if err != nil {
		c.t.Fatalf("describe %v: %v", named, err)
	}
	return out
}

func TestRegisterKeepsContentByDigest(t *testing.T) {
	c := newCatalog(t)
	path := c.source("disk.raw", "begin", 5<<20)
	i := c.register(path)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(want)
	if i.SHA256 != hex.EncodeToString(sum[:]) || i.Bytes != uint64(len(want)) || i.RootDeviceName != "/dev/xvda" || i.MinDiskGiB() != 1 {
		t.Errorf("registered %+v", i)
	}
	kept := filepath.Join(c.options.Dir, i.SHA256)
	got, err := os.ReadFile(kept)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("kept content differs: %v", err)
	}
	if err := os.WriteFile(path, []byte("overwritten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(kept); err != nil || !bytes.Equal(got, want) {
		t.Errorf("kept content changed with its source: %v", err)
	}
	entries, err := os.ReadDir(c.options.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v (%v)", entries, err)
	}
}

func TestRegisterAgain(t *testing.T) {
	c := newCatalog(t)
	first := c.register(c.source("a", "one", 0))
	if again := c.register(c.source("b", "one", 0)); again.ID != first.ID {
		t.Errorf("same content under the same name is %s, was %s", again.ID, first.ID)
	}
	if err := c.tags.CreateTags(c.ctx, owner, []string{string(first.ID)}, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	if got := c.describe(owner)[0].Tags["k"]; got != "v" {
		t.Errorf("tag is %q", got)
	}
	next := c.register(c.source("c", "two", 0))
	if all := c.describe(owner); next.ID == first.ID || len(all) != 1 || all[0].ID != next.ID {
		t.Errorf("after new content: %+v", all)
	}
	var missing *image.NotFoundError
	if _, err := c.DescribeImages(c.ctx, owner, []ids.Image{first.ID, next.ID}, nil); !errors.As(err, &missing) || len(missing.IDs) != 1 {
		t.Errorf("describe of the replaced image: %v", err)
	}
	expect := func(id ids.Image) error {
		_, err := c.db.Transact(c.ctx, func(tx *store.Tx) error { imagerows.Expect(tx, id); return nil })
		return err
	}
	if err := expect(first.ID); !errors.As(err, &missing) {
		t.Errorf("launch of the replaced image: %v", err)
	}
	if err := expect(next.ID); err != nil {
		t.Errorf("launch of the new image: %v", err)
	}
}

func TestVisibility(t *testing.T) {
	c := newCatalog(t)
	public := c.register(c.source("a", "public", 0))
	private := c.register(c.source("b", "private", 0), func(r *image.Registration) { r.Name, r.Public = "mine", false })
	if got := c.describe(owner); len(got) != 2 {
		t.Errorf("owner sees %d images", len(got))
	}
	if got := c.describe(stranger); len(got) != 1 || got[0].ID != public.ID {
		t.Errorf("stranger sees %+v", got)
	}
	var missing *image.NotFoundError
	if _, err := c.DescribeImages(c.ctx, stranger, []ids.Image{private.ID}, nil); !errors.As(err, &missing) {
		t.Errorf("stranger asks for a private image: %v", err)
	}
	if err := c.tags.CreateTags(c.ctx, stranger, []string{string(public.ID)}, map[string]string{"k": "v"}); err == nil {
		t.Error("a stranger tagged another's image")
	}
}

// TestRegisterFrom makes images of content that is in the catalog: private, under names of their own, by snapshot and by
// location, and never of what the account may not launch.
func TestRegisterFrom(t *testing.T) {
	c := newCatalog(t)
	public := c.register(c.source("a", "public", 0))
	private := c.register(c.source("b", "private", 0), func(r *image.Registration) { r.Name, r.Public = "mine", false })
	from := func(a ids.Account, name string, edit ...func(*image.Request)) (*image.Image, error) {
		r := image.Request{Account: a, Name: name, Source: image.Source{Snapshot: public.RootSnapshot}, Tags: map[string]string{"k": "v"}}
		for _, fn := range edit {
			fn(&r)
		}
		return c.Register(c.ctx, r, false)
	}
	made, err := from(stranger, "copy", func(r *image.Request) { r.RootDiskGiB, r.BootMode, r.Description = 7, "uefi", "d" })
	if err != nil {
		t.Fatal(err)
	}
	got := c.describe(stranger, made.ID)[0]
	if got.Public || got.Owner != stranger || got.SHA256 != public.SHA256 || got.DiskGiB() != 7 || got.BootMode != "uefi" || got.Description != "d" || got.Tags["k"] != "v" || got.RootSnapshot != public.RootSnapshot {
		t.Errorf("got %+v", got)
	}
	if _, err := c.DescribeImages(c.ctx, owner, []ids.Image{made.ID}, nil); !errors.As(err, new(*image.NotFoundError)) {
		t.Errorf("another account sees a new image: %v", err)
	}
	if again, err := from(stranger, "located", func(r *image.Request) { r.Source = image.Source{Location: string(owner) + "/debian"} }); err != nil || again.SHA256 != public.SHA256 {
		t.Errorf("by location: %v, %v", again, err)
	}
	for name, edit := range map[string]func(*image.Request){
		"duplicate":          func(r *image.Request) { r.Name = "copy" },
		"name":               func(r *image.Request) { r.Name = "a;b" },
		"short name":         func(r *image.Request) { r.Name = "ab" },
		"architecture":       func(r *image.Request) { r.Architecture = "arm64" },
		"boot mode":          func(r *image.Request) { r.BootMode = "tape" },
		"volume size":        func(r *image.Request) { r.RootDiskGiB = maxDiskGiB + 1 },
		"private snapshot":   func(r *image.Request) { r.Source.Snapshot = private.RootSnapshot },
		"private location":   func(r *image.Request) { r.Source = image.Source{Location: string(owner) + "/mine"} },
		"no source at all":   func(r *image.Request) { r.Source = image.Source{} },
		"too many tags":      func(r *image.Request) { r.Tags = map[string]string{"aws:x": ""} },
		"description length": func(r *image.Request) { r.Description = strings.Repeat("x", 256) },
	} {
		if i, err := from(stranger, "other", edit); err == nil {
			t.Errorf("%s: made %+v", name, i)
		}
	}
	version, err := c.db.Version(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := c.Register(c.ctx, image.Request{Account: stranger, Name: "dry", Source: image.Source{Snapshot: public.RootSnapshot}}, true); i != nil || err != nil {
		t.Errorf("dry run: %v, %v", i, err)
	}
	if _, err := c.Register(c.ctx, image.Request{Account: stranger, Name: "copy", Source: image.Source{Snapshot: public.RootSnapshot}}, true); !errors.As(err, new(*image.DuplicateError)) {
		t.Errorf("dry run of a duplicate: %v", err)
	}
	if after, err := c.db.Version(c.ctx); err != nil || after != version {
		t.Errorf("dry runs moved the store: %v", err)
	}
}

// TestPermissions shares an image, takes it back, and lets nobody but the owner do so.
func TestPermissions(t *testing.T) {
	c := newCatalog(t)
	i := c.register(c.source("a", "x", 0), func(r *image.Registration) { r.Public = false })
	const third = ids.Account("333333333333")
	sees := func(a ids.Account) bool { return len(c.describe(a)) == 1 }
	modify := func(change image.Change) {
		t.Helper()
		if err := c.Modify(c.ctx, owner, i.ID, change, false); err != nil {
			t.Fatal(err)
		}
	}
	var missing *image.NotFoundError
	if err := c.Modify(c.ctx, stranger, i.ID, image.Change{Public: new(true)}, false); !errors.As(err, &missing) {
		t.Errorf("stranger modifies what it cannot see: %v", err)
	}
	modify(image.Change{Add: []ids.Account{third, stranger, stranger, owner}, Description: new("shared")})
	if got := c.describe(owner)[0]; len(got.Users) != 2 || got.Users[0] != stranger || got.Description != "shared" {
		t.Errorf("owner sees %+v", got)
	}
	if got := c.describe(stranger); len(got) != 1 || len(got[0].Users) != 1 || got[0].Users[0] != stranger {
		t.Errorf("stranger sees %+v", got)
	}
	var notOwner *image.OwnerError
	if err := c.Modify(c.ctx, stranger, i.ID, image.Change{Add: []ids.Account{"444444444444"}}, false); !errors.As(err, &notOwner) {
		t.Errorf("guest modifies: %v", err)
	}
	if err := c.Deregister(c.ctx, stranger, i.ID, false); !errors.As(err, &notOwner) {
		t.Errorf("guest deregisters: %v", err)
	}
	modify(image.Change{Remove: []ids.Account{stranger, "555555555555"}})
	if sees(stranger) || !sees(third) {
		t.Error("one of two is to see it")
	}
	modify(image.Change{Public: new(true)})
	if !sees(stranger) || !sees("666666666666") {
		t.Error("a public image is seen by all")
	}
	modify(image.Change{Public: new(false), ClearUsers: true})
	if sees(stranger) || sees(third) || !sees(owner) || c.describe(owner)[0].Description != "shared" {
		t.Error("after a reset only the owner sees it")
	}
	many := make([]ids.Account, image.MaxUsers+1)
	for k := range many {
		many[k] = ids.Account(fmt.Sprintf("%012d", k))
	}
	if err := c.Modify(c.ctx, owner, i.ID, image.Change{Add: many}, false); !errors.As(err, new(*image.LimitError)) {
		t.Errorf("too many users: %v", err)
	}
	if err := c.Deregister(c.ctx, owner, i.ID, true); err != nil || !sees(owner) {
		t.Errorf("dry run: %v", err)
	}
	if err := c.Deregister(c.ctx, owner, i.ID, false); err != nil || sees(owner) {
		t.Errorf("deregister: %v", err)
	}
	if err := c.Deregister(c.ctx, owner, i.ID, false); !errors.As(err, &missing) {
		t.Errorf("deregister again: %v", err)
	}
	if _, _, err := c.Open(i.SHA256); err != nil {
		t.Errorf("content is gone with its image: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	c := newCatalog(t)
	good := c.source("good", "x", 0)
	odd := filepath.Join(c.dir, "odd")
	if err := os.WriteFile(odd, []byte("no whole sector"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*image.Registration){
		"name":         func(r *image.Registration) { r.Name = "x" },
		"description":  func(r *image.Registration) { r.Description = strings.Repeat("x", 256) },
		"architecture": func(r *image.Registration) { r.Architecture = "pdp11" },
		"boot mode":    func(r *image.Registration) { r.BootMode = "tape" },
		"owner":        func(r *image.Registration) { r.Owner = "" },
		"content":      func(r *image.Registration) { r.Path = odd },
	} {
		r := image.Registration{Path: good, Owner: owner, Name: "debian", Architecture: "x86_64"}
		edit(&r)
		var invalid *image.InvalidError
		if _, err := c.RegisterLocal(c.ctx, r); !errors.As(err, &invalid) || invalid.Field != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := c.RegisterLocal(c.ctx, image.Registration{Path: filepath.Join(c.dir, "none"), Owner: owner, Name: "debian", Architecture: "x86_64"})
	var invalid *image.InvalidError
	if !errors.As(err, &invalid) || invalid.Field != "content" {
		t.Errorf("missing file: %v", err)
	}
}

func TestOpenContent(t *testing.T) {
	c := newCatalog(t)
	path := c.source("a", "content", 2<<20)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := c.register(path)
	c.register(c.source("b", "replaced", 0)) // the first is deregistered, and may still be on its way to a host
	content, size, err := c.Open(i.SHA256)
	if err != nil || size != i.Bytes {
		t.Fatalf("size %d, %v", size, err)
	}
	defer content.Close()
	if _, err := content.Seek(1<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(content); err != nil || !bytes.Equal(got, want[1<<20:]) {
		t.Errorf("read %d bytes from the middle, %v", len(got), err)
	}
	secret := filepath.Join(filepath.Dir(c.options.Dir), "root.key")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"", "../root.key", strings.Repeat("0", 64), strings.ToUpper(i.SHA256), i.SHA256 + "/", "."} {
		if content, _, err := c.Open(digest); !errors.Is(err, image.ErrNoContent) {
			t.Errorf("%q: %v", digest, err)
			if err == nil {
				content.Close()
			}
		}
	}
}
