package embed

import (
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/storetest"
)

func open(t *testing.T, dir string, o Options) *Engine {
	t.Helper()
	e, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func TestConformance(t *testing.T) {
	storetest.RunConformance(t, func() store.Engine { return open(t, t.TempDir(), Options{}) })
}

// TestConformanceSmall keeps next to nothing in memory, so that reads, validation and feeds go through the disk.
func TestConformanceSmall(t *testing.T) {
	storetest.RunConformance(t, func() store.Engine { return open(t, t.TempDir(), Options{RecentRows: 3, FeedBytes: 600}) })
}
