package storetest

import (
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/nimbrel/nimbrel/store"
)

// TestScripts runs scripts/ on the memory engine; `go test -rewrite` records what it prints.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "scripts", func(t *testing.T, path string) {
		s := &script{t: t, db: store.New(NewMemory(), store.Options{})}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d.Cmd, d.Input) })
	})
}
