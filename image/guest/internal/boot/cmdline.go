// Package boot takes the guest from the kernel's first process to a mounted, grown root file system, and down again.
//
// Invariants: the partition table is written before the root is mounted, and only when the disk has grown; growing is
// done anew at each boot and does nothing the second time; a failure to grow never keeps the guest from booting.
//
// Deliberately absent: file system checks (the journal recovers), other roots than ext4, LVM, encryption.
package boot

import (
	"encoding/base64"
	"strings"
)

// Options is what the kernel command line tells the guest.
type Options struct {
	// Root is "LABEL=x", a device, "ram", or empty: the labelled disk if there is one.
	Root string
	// Key is an authorized_keys line, for a guest without a metadata service.
	Key string
	// IMDS is the metadata service's URL; "off" for none.
	IMDS     string
	Hostname string
	// EchoOff keeps the echo services closed.
	EchoOff bool
}

// ParseCmdline reads the options. What it does not know belongs to the kernel, and what is malformed is left out: a
// guest that cannot be reached says less than one that lacks an option.
func ParseCmdline(text string) Options {
	var o Options
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "root":
			o.Root = value
		case "nimbrel.key":
			if line, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "=")); err == nil {
				o.Key = strings.TrimSpace(string(line))
			}
		case "nimbrel.imds":
			o.IMDS = value
		case "nimbrel.hostname":
			o.Hostname = value
		case "nimbrel.echo":
			o.EchoOff = value == "off"
		}
	}
	return o
}
