package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/test/inventory"
)

// named tells what this program's clouds make from what others on the machine do meanwhile. Guests' processes carry no
// such name and are told by their instances' ids.
var named = regexp.MustCompile(`\b` + prefix + `(fab|root|h[0-9]|-)|198\.18\.79\.|127\.0\.0\.1:1877[345]`)

func watchMachine() inventory.Watch {
	return inventory.NewWatch(inventory.Options{Programs: inventory.CloudPrograms()})
}

func (b *run) isOurs(line string) bool {
	return named.MatchString(line) || strings.Contains(line, b.Dir()) ||
		slices.ContainsFunc(b.guests, func(id string) bool { return strings.Contains(line, id) })
}
