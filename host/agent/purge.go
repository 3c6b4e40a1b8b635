package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nimbrel/nimbrel/host/internal/datapath"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// Purge ends every guest of a state directory at once, and the data path if the options name one, for taking a host away. No agent may run on the directory. Disks
// and records stay; a damaged record whose guest may still run is an error. Options are those of Run.
func Purge(ctx context.Context, o Options) error {
	o = o.withDefaults()
	if _, err := os.Stat(o.StateDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := vm.Lock(o.StateDir)
	if err != nil {
		return fmt.Errorf("purge host: %w: stop its agent first", err)
	}
	defer lock.Close()
	driver, err := newDriver(o)
	if err != nil {
		return fmt.Errorf("purge host: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join(o.StateDir, guestsFolder, "i-*"))
	if err != nil {
		return fmt.Errorf("purge host: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, end(ctx, driver, dir))
	}
	if o.DataPath != nil { // after the guests: their taps are gone with them
		errs = append(errs, datapath.Destroy(o.DataPath.options(o.StateDir)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge host: %w", err)
	}
	return nil
}

func end(ctx context.Context, driver vm.Driver, dir string) error {
	machine, err := driver.Adopt(ctx, dir)
	if errors.Is(err, vm.ErrNoSpec) && !launched(dir) || errors.Is(err, vm.ErrNeverRan) {
		return nil
	}
	if err != nil {
		return err
	}
	defer machine.Release()
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return machine.Kill(ctx)
}
