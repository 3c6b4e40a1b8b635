//go:build !linux

package vm

import "github.com/nimbrel/nimbrel/internal/ids"

// FindMachines finds none: only the fake driver runs here, and its guests have no processes.
func FindMachines(_, _ int) map[ids.Instance]int { return nil }

// TrimConsole does nothing: only the fake driver runs here, and it writes little.
func TrimConsole(string) error { return nil }
