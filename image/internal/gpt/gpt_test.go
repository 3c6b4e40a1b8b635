package gpt

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

var diskID = MustGUID("00112233-4455-6677-8899-AABBCCDDEEFF")

// buffer is a disk in memory.
type buffer []byte

func (b buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

func sample(sectors uint64) *Table {
	t := New(diskID, sectors)
	t.Partitions[0] = Partition{Type: TypeRootAMD64, ID: diskID, First: 4 * 2048, Last: t.LastUsable(), Name: "root"}
	t.Partitions[13] = Partition{Type: TypeBIOSBoot, ID: diskID, First: 2048, Last: 2*2048 - 1, Attributes: 4}
	t.Partitions[14] = Partition{Type: TypeESP, ID: diskID, First: 2 * 2048, Last: 4*2048 - 1}
	return t
}

func written(t testing.TB, table *Table, diskBytes int) buffer {
	t.Helper()
	disk := make(buffer, diskBytes)
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	return disk
}

func TestRoundTripKeepsBootCode(t *testing.T) {
	table := sample(16 * mib / SectorBytes)
	disk := make(buffer, 16*mib)
	copy(disk, bytes.Repeat([]byte{0x90}, 440))
	if err := table.Write(disk); err != nil {
		t.Fatal(err)
	}
	got, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	if *got != *table {
		t.Errorf("read back %+v, want %+v", got, table)
	}
	if disk[439] != 0x90 || disk[510] != 0x55 || disk[511] != 0xAA {
		t.Error("boot code or signature damaged")
	}
}

func TestBackupServesWhenPrimaryIsBad(t *testing.T) {
	table := sample(16 * mib / SectorBytes)
	disk := written(t, table, 16*mib)
	disk[SectorBytes+60] ^= 1
	got, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || *got != *table {
		t.Fatalf("backup not used: %v", err)
	}
	disk[len(disk)-SectorBytes+60] ^= 1
	if _, err := Read(bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, ErrNoTable) {
		t.Fatalf("both copies bad: got %v", err)
	}
}

func TestGrow(t *testing.T) {
	table := sample(16 * mib / SectorBytes)
	disk := written(t, table, 64*mib) // the disk is already larger than the table says
	got, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := got.Grow(64*mib/SectorBytes, 1)
	if err != nil || !changed {
		t.Fatalf("grow: changed %v, %v", changed, err)
	}
	if end := got.Partitions[0].Last + 1; end != 63*2048 {
		t.Errorf("root ends before sector %d, want %d", end, 63*2048)
	}
	if err := got.Write(disk); err != nil {
		t.Fatal(err)
	}
	again, err := Read(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || again.Sectors != 64*mib/SectorBytes {
		t.Fatalf("after growth: %v", err)
	}
	if changed, err := again.Grow(64*mib/SectorBytes, 1); changed || err != nil {
		t.Errorf("second growth: changed %v, %v", changed, err)
	}
}

func TestGrowRefuses(t *testing.T) {
	table := sample(16 * mib / SectorBytes)
	before := *table
	for _, c := range []struct {
		sectors uint64
		number  int
	}{
		{32 * 2048, 14}, // the ESP lies behind it
		{32 * 2048, 2},  // a free slot
		{32 * 2048, 0},  // no such number
		{8 * 2048, 1},   // shrunk
	} {
		if _, err := table.Grow(c.sectors, c.number); err == nil {
			t.Errorf("grow %d to %d sectors: no error", c.number, c.sectors)
		}
	}
	if *table != before {
		t.Error("a refused growth changed the table")
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, damage := range map[string]func(*Table){
		"overlap":  func(t *Table) { t.Partitions[1] = t.Partitions[0] },
		"inverted": func(t *Table) { t.Partitions[0].Last = t.Partitions[0].First - 1 },
		"beyond":   func(t *Table) { t.Partitions[0].Last = t.Sectors },
		"low":      func(t *Table) { t.Partitions[13].First = 1 },
		"name":     func(t *Table) { t.Partitions[0].Name = strings.Repeat("n", 37) },
		"tiny":     func(t *Table) { t.Sectors = 100 },
	} {
		table := sample(16 * mib / SectorBytes)
		damage(table)
		if err := table.Write(make(buffer, 16*mib)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestAgreesWithSfdisk lets the field's own tool judge a table of ours.
func TestAgreesWithSfdisk(t *testing.T) {
	tool, err := exec.LookPath("sfdisk")
	if err != nil {
		if tool = "/usr/sbin/sfdisk"; exec.Command(tool, "--version").Run() != nil {
			t.Skip("sfdisk is not installed (Debian package fdisk)")
		}
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, written(t, sample(16*mib/SectorBytes), 16*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "--verify", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk --verify: %v\n%s", err, out)
	}
	out, err := exec.Command(tool, "--json", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), TypeText) || !strings.Contains(string(out), "00112233-4455-6677-8899-AABBCCDDEEFF") {
		t.Errorf("sfdisk --json: %v\n%s", err, out)
	}
}

// TypeText is the root type as tools print it.
const TypeText = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"

func FuzzRead(f *testing.F) {
	const diskBytes = 2 * mib
	table := New(diskID, diskBytes/SectorBytes)
	table.Partitions[0] = Partition{Type: TypeRootAMD64, ID: diskID, First: 2048, Last: 2100, Name: "root"}
	disk := written(f, table, diskBytes)
	f.Add([]byte(disk[SectorBytes:2*SectorBytes]), []byte(disk[2*SectorBytes:34*SectorBytes]))
	f.Add([]byte("EFI PART"), []byte{})
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		raw := make(buffer, diskBytes)
		copy(raw[SectorBytes:2*SectorBytes], header)
		copy(raw[2*SectorBytes:34*SectorBytes], entries)
		table, err := Read(bytes.NewReader(raw), diskBytes)
		if err != nil {
			return
		}
		if err := table.Write(make(buffer, diskBytes)); err != nil && !strings.Contains(err.Error(), "longer") {
			t.Errorf("a table that reads does not write: %v", err)
		}
		if _, err := table.Grow(1<<20, 1); err == nil && table.check() != nil {
			t.Error("growth made a bad table")
		}
	})
}
