package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbrel/nimbrel/test/bench"
	"github.com/nimbrel/nimbrel/test/devcloud"
)

// checkout is a clone and what was built in it.
type checkout struct{ dir, disk string }

// asBuilder runs a command in a checkout as the one who builds: the person behind sudo, whose caches Go's are.
func (b *run) asBuilder(ctx context.Context, dir string, env []string, command ...string) ([]byte, error) {
	args := append([]string{"-c", `. scripts/lib.sh; find_go; as_builder env "$@"`, "bash"}, env...)
	return devcloud.Output(ctx, dir, nil, "bash", append(args, command...)...)
}

// cloneToRunning does what a newcomer does, up to one running instance, which it leaves.
func (b *run) cloneToRunning(ctx context.Context, c *cloud, name string, caches []string) (time.Duration, checkout, error) {
	bench.Progress("cloning and building: %s caches", name)
	var from checkout
	begin := time.Now()
	steps := []struct {
		name string
		do   func() error
	}{
		{"clone", func() (err error) { from, err = b.clone(ctx, name); return err }},
		{"build", func() error { _, err := b.asBuilder(ctx, from.dir, caches, "scripts/run.sh", "build"); return err }},
		{"image", func() (err error) { from.disk, err = b.buildImage(ctx, from, caches); return err }},
		{"dev up", func() error { return c.up(ctx, from) }},
		{"first instance", func() error { return c.firstInstance(ctx) }},
	}
	for _, step := range steps {
		started := time.Now()
		if err := step.do(); err != nil {
			return 0, checkout{}, fmt.Errorf("%s: %w", step.name, err)
		}
		bench.Progress("  %-14s %6.1f s", step.name, time.Since(started).Seconds())
	}
	return time.Since(begin), from, nil
}

func (b *run) buildImage(ctx context.Context, from checkout, caches []string) (string, error) {
	out, err := b.asBuilder(ctx, from.dir, caches, "bin/nimbrel", "image", "build", "--out", "build/image", "--json")
	if err != nil {
		return "", err
	}
	var built struct{ Disk string }
	err = json.Unmarshal(out, &built)
	return built.Disk, err
}

// fillCaches builds the commit once, in a clone that nothing is timed in, so that the caches of who builds hold it.
func (b *run) fillCaches(ctx context.Context) error {
	from, err := b.clone(ctx, "before")
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := b.asBuilder(ctx, from.dir, nil, "scripts/run.sh", "build"); err != nil {
		return err
	}
	if _, err := b.buildImage(ctx, from, nil); err != nil {
		return err
	}
	bench.Progress("filled the caches in %.1f s", time.Since(begin).Seconds())
	return os.RemoveAll(filepath.Dir(from.dir))
}

// clone makes a fresh clone in a directory of who builds.
func (b *run) clone(ctx context.Context, name string) (checkout, error) {
	parent := filepath.Join(b.Dir(), "src-"+name)
	if err := os.Mkdir(parent, 0o755); err != nil {
		return checkout{}, err
	}
	if err := bench.GiveToInvoker(parent); err != nil {
		return checkout{}, err
	}
	from := checkout{dir: filepath.Join(parent, "nimbrel")}
	_, err := b.asBuilder(ctx, b.source, nil, "git", "clone", "--quiet", "file://"+b.source, from.dir)
	return from, err
}

// firstInstance launches an instance and waits until the server says that it runs.
func (c *cloud) firstInstance(ctx context.Context) error {
	d, err := openDoor(ctx, c)
	if err != nil {
		return err
	}
	image, err := d.Image(ctx)
	if err != nil {
		return err
	}
	id, _, err := d.launch(ctx, image)
	if err != nil {
		return err
	}
	return d.await(ctx, id, "running")
}

// emptyCaches are Go's build cache and the image's, made empty. Go's modules and Debian's packages stay.
func (b *run) emptyCaches() ([]string, error) {
	dir := filepath.Join(b.Dir(), "caches")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return []string{"GOCACHE=" + filepath.Join(dir, "go"), "NIMBREL_IMAGE_CACHE=" + filepath.Join(dir, "image")}, bench.GiveToInvoker(dir)
}
