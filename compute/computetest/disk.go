package computetest

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/nimbrel/nimbrel/store/embed"
)

// OnDisk runs something in a new world of its own on the embedded engine, whose files are in dir, with that many hosts. All
// of it has ended when OnDisk returns; the files stay.
func OnDisk(ctx context.Context, dir string, hosts int, run func(context.Context, *World, *embed.Engine) error) error {
	engine, err := embed.Open(filepath.Join(dir, "store"), embed.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := Open(ctx, Options{Engine: engine, Hosts: hosts, Dir: filepath.Join(dir, "images"), Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = run(ctx, w, engine)
		cancel()
		w.Wait()
	}
	return errors.Join(err, engine.Close())
}
