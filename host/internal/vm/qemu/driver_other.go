//go:build !linux

package qemu

import (
	"errors"
	"log/slog"

	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// Options configures a driver.
type Options struct {
	Binary, StateDir, CPU, UEFICode, UEFIVars string
	UID                                       int
	Log                                       *slog.Logger
	Reached                                   func(stage string)
}

// New refuses: guests run on Linux only. The fake driver runs everywhere.
func New(Options) (vm.Driver, error) {
	return nil, errors.New("QEMU driver: this system is not Linux: use the fake driver")
}
