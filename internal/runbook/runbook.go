// Package runbook says where an operator finds the page for a failure: in the documents that the Debian package installs,
// where it did, else in the source tree. It is the one place that names those folders, so that errors need not know how
// they were installed.
package runbook

import (
	"os"
	"path/filepath"
)

// Folders of the pages.
const (
	Installed = "/usr/share/doc/nimbrel/runbooks" // by the Debian package
	Source    = "docs/runbooks"                   // below the source tree
)

// Folders names both, for texts that are made on another machine than they are read on, such as help and manuals.
const Folders = Installed + " (" + Source + " in the source tree)"

// Page is a file of the folder.
type Page string

// The pages that errors name.
const (
	ClockOff        Page = "clock-off.md"
	DiskFull        Page = "disk-full.md"
	LostHost        Page = "lost-host.md"
	StoreRestore    Page = "store-restore.md"
	StuckOperation  Page = "stuck-operation.md"
	UpgradeRollback Page = "upgrade-rollback.md"
)

// String is where the page is on this machine.
func (p Page) String() string { return p.below(Installed) }

func (p Page) below(installed string) string {
	path := filepath.Join(installed, string(p))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return filepath.Join(Source, string(p))
}
