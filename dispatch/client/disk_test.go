package client

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/dispatch/session"
)

var testID = dispatch.SectionID{Doc: "host/h-1", Section: "instances"}

func testSink() *session.Sink {
	k := session.NewSink(testID, "history")
	k.Seq = 9
	needs := []dispatch.Need{{Doc: "vpc/v-1", Sections: []dispatch.SectionSeq{{Section: "mappings", Seq: 4}}}}
	k.Load("i-1", session.Held{Shown: &dispatch.Item{Key: "i-1", Rev: 3, Payload: []byte("old"), Needs: needs}, Pending: &dispatch.Item{Key: "i-1", Rev: 9, Payload: []byte("new"), Needs: needs}})
	k.Load("i-2", session.Held{Shown: &dispatch.Item{Key: "i-2", Rev: 2}})
	k.Orphans["i-3"] = dispatch.Item{Key: "i-3", Rev: 1}
	return k
}

func openTest(t *testing.T, dir string) (*disk, session.Meta, []*session.Sink) {
	t.Helper()
	d, meta, sinks, err := openDisk(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d, meta, sinks
}

func TestSectionComesBackAsItWas(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := openTest(t, dir)
	want := testSink()
	if err := d.write(want); err != nil {
		t.Fatal(err)
	}
	if err := d.writeMeta(session.Meta{History: "history", Epoch: 4, Docs: []string{"vpc/v-1"}, Told: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".new-123"), []byte("cut off"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, meta, sinks := openTest(t, dir)
	if meta.History != "history" || meta.Epoch != 4 || !meta.Told || len(meta.Docs) != 1 {
		t.Fatalf("meta %+v", meta)
	}
	if len(sinks) != 1 {
		t.Fatalf("%d sections", len(sinks))
	}
	got := sinks[0]
	if got.ID != testID || got.History != "history" || got.Seq != 9 || got.Sum() != want.Sum() || got.Pending() != 1 || got.ShownSeq() != 8 || len(got.Orphans) != 1 {
		t.Fatalf("section %+v", got)
	}
	if h := got.Items["i-1"]; string(h.Shown.Payload) != "old" || string(h.Pending.Payload) != "new" || h.Pending.Needs[0].Sections[0].Seq != 4 {
		t.Fatalf("item %+v", h)
	}
	if _, err := os.Stat(filepath.Join(dir, ".new-123")); err == nil {
		t.Fatal("what a crash left is still there")
	}
	d.remove(testID)
	if _, _, sinks := openTest(t, dir); len(sinks) != 0 {
		t.Fatal("removed section came back")
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	dir := t.TempDir()
	d, _, _ := openTest(t, dir)
	if err := d.write(testSink()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(d.path(testID))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(good) * 8 {
		bad := append([]byte(nil), good...)
		bad[bit/8] ^= 1 << (bit % 8)
		var f sectionFile
		if decodeFile(bad, &f) == nil {
			t.Fatalf("bit %d flipped and not noticed", bit)
		}
	}
	for n := range good {
		var f sectionFile
		if decodeFile(good[:n], &f) == nil {
			t.Fatalf("file cut to %d bytes and not noticed", n)
		}
	}
}

func FuzzReadSection(f *testing.F) {
	dir := f.TempDir()
	d := &disk{dir: dir, log: slog.New(slog.DiscardHandler)}
	if err := d.write(testSink()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(d.path(testID))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[len(magic)+32:])
	f.Add([]byte{0xa1, 0x04, 0x81, 0xa0})
	f.Fuzz(func(t *testing.T, body []byte) {
		var file sectionFile
		if fileDecoding.Unmarshal(body, &file) != nil {
			return
		}
		if k, err := file.sink(); err == nil && k.Sum() != k.Recount() {
			t.Fatal("a section whose checksum does not add up")
		}
	})
}
