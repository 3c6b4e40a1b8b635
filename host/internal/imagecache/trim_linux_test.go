package imagecache

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTrim holds that of six images exactly the one goes that is old, that nobody wants, and that no disk is over.
func TestTrim(t *testing.T) {
	c := open(t, nil)
	disks := t.TempDir()
	const unusedFor = time.Hour
	now := time.Now()
	bring := func(name string, age time.Duration) string {
		content := []byte(name)
		path := filepath.Join(c.dir, digestOf(content))
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return digestOf(content)
	}
	old := 3 * time.Hour
	fresh, wanted, backing, elsewhere, used, idle := bring("fresh", 0), bring("wanted", old), bring("backing", old), bring("elsewhere", old), bring("used", old), bring("idle", old)
	pin := filepath.Join(disks, "base.raw")
	for _, digest := range []string{idle, backing, backing} { // the second replaces the first, the third changes nothing
		if err := c.Pin(digest, pin); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("no second file system: ", err)
	}
	far := fmt.Sprintf("/dev/shm/nimbrel-test-%d", os.Getpid())
	if err := c.Pin(elsewhere, far); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(far) }) // there when it is the same file system
	if _, err := c.Ensure(t.Context(), used, uint64(len("used"))); err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(c.dir, ".fetch-1")
	os.WriteFile(abandoned, nil, 0o600)
	os.Chtimes(abandoned, now.Add(-old), now.Add(-old))
	// A process ended while it removed two images, of which one was pinned meanwhile.
	leftover, returned := removePrefix+strings.Repeat("a", 64), backing
	os.WriteFile(filepath.Join(c.dir, leftover), nil, 0o600)
	os.Rename(filepath.Join(c.dir, returned), filepath.Join(c.dir, removePrefix+returned))
	removed, err := c.Trim(now, unusedFor, func(digest string) bool { return digest == wanted })
	if err != nil || !slices.Equal(removed, []string{idle}) {
		t.Errorf("removed %v, %v; want %s alone", removed, err, idle)
	}
	for _, digest := range []string{fresh, wanted, backing, elsewhere, used} {
		if _, err := os.Stat(filepath.Join(c.dir, digest)); err != nil {
			t.Errorf("a needed image is gone: %v", err)
		}
	}
	if _, err := os.Stat(abandoned); err == nil {
		t.Error("the rest of a fetch stays")
	}
	if _, err := os.Stat(filepath.Join(c.dir, leftover)); err == nil {
		t.Error("the rest of a removal stays")
	}
	if err := os.Remove(pin); err != nil { // the disk goes, and its image with it
		t.Fatal(err)
	}
	if removed, err := c.Trim(now, unusedFor, func(digest string) bool { return digest == wanted }); err != nil || !slices.Equal(removed, []string{backing}) {
		t.Errorf("removed %v, %v; want %s", removed, err, backing)
	}
}
