package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/test/inventory"
)

// ours tells what this program's clouds make from what others on the machine do meanwhile. Guests' processes carry no
// such name and are told by their instances' ids.
var ours = regexp.MustCompile(`\b` + prefix + `(fab|root|h[0-9]|-)|198\.18\.79\.|127\.0\.0\.1:1877[345]`)

// othersShown bounds how many changes by others are told.
const othersShown = 5

// watch holds what the machine was before.
type watch struct{ before inventory.Inventory }

func watchMachine() watch {
	return watch{inventory.Take(inventory.Options{Programs: inventory.CloudPrograms()})}
}

// left says what came and stayed. What is not ours is mentioned and left to whoever made it.
func (w watch) left(guests []string) error {
	var mine []string
	others := 0
	for _, line := range inventory.Diff(w.before, inventory.Take(inventory.Options{Programs: inventory.CloudPrograms()})) {
		if isOurs(line, guests) {
			mine = append(mine, line)
			continue
		}
		if others++; others <= othersShown {
			progress("changed meanwhile, by others: %.120s", line)
		}
	}
	if others > othersShown {
		progress("and %d more changes by others", others-othersShown)
	}
	if len(mine) > 0 {
		return fmt.Errorf("%d things are left: %s", len(mine), strings.Join(mine, "; "))
	}
	return nil
}

func isOurs(line string, guests []string) bool {
	return ours.MatchString(line) || slices.ContainsFunc(guests, func(id string) bool { return strings.Contains(line, id) })
}
