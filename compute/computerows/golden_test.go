package computerows

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/fit"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/store/row"
)

// goldenRows are rows as schema 1 stores them. A line of testdata/rows.txt never changes: new fields get new keys, and
// rows like these must decode for ever.
var goldenRows = map[string]any{
	"instance": Instance{
		ID: "i-1", Account: "123456789012", Reservation: "r-1", LaunchIndex: 2, CreatedMs: 3, LaunchedMs: 4, Type: "t3.nano", Zone: "z",
		Host: "h-1", State: compute.Stopping, Reason: Reason{"c", "m"}, Transition: "t", TransitionMs: 5, Generation: 6, Power: host.PowerKill,
		RebootID: "op-0", Operation: "op-1", Attempt: 1, AttemptMs: 7, Size: fit.Size{VCPUs: 1, MemoryMiB: 2, DiskGiB: 3, Slots: 4},
		VCPUs: 1, Former: "h-0", HostConfirmed: true, VPC: "vpc-1", Subnet: "subnet-1", Interface: "eni-1", Attachment: "eni-attach-1",
		GroupNames: []string{"g"}, KeyName: "k", PublicKey: "ssh", UserData: []byte("u"), Metadata: Metadata{true, 2, true}, Protected: true,
		OnShutdown: compute.ShutdownTerminates, Image: "ami-1", ImageSHA256: "aa", ImageBytes: 8, Architecture: "x86_64",
		RootDevice: "/dev/xvda", RootVolume: "vol-1", RootDiskGiB: 9, KeepRoot: true, Token: "tok", Region: "r", TerminatedMs: 10, Rebooted: true,
	},
	"instance.2": Instance{ID: "i-1", UEFI: true},
	"volume": Volume{
		ID: "vol-1", Account: "123456789012", Zone: "z", SizeGiB: 1, CreatedMs: 2, Instance: "i-1", Device: "/dev/xvda", Keep: true,
		Image: "ami-1", Deleting: true, Host: "h-1",
	},
	"volume.2": Volume{
		ID: "vol-1", Account: "123456789012", Zone: "z", SizeGiB: 1, CreatedMs: 2, Instance: "i-1", Device: "/dev/xvda", Image: "ami-1", Charged: true,
	},
	"host":      Host{Info: host.Info{ID: "h-1", Name: "n", VCPUs: 1}, Draining: true},
	"host.2":    Host{Info: host.Info{ID: "h-1", Name: "n", VCPUs: 1}, Silent: true},
	"placement": Placement{Size: fit.Size{VCPUs: 1}, Releasing: true, InstancesSeq: 2, SinceMs: 3},
}

func TestGoldenRows(t *testing.T) {
	path := filepath.Join("testdata", "rows.txt")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(content)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		stored, err := hex.DecodeString(text)
		want := goldenRows[name]
		if err != nil || want == nil {
			t.Fatalf("line %q: %v", line, err)
		}
		seen++
		if got := row.Encode(want).Base; hex.EncodeToString(got) != text {
			t.Errorf("%s is now written as\n%s %x", name, name, got)
		}
		if got := decodeAs(t, name, stored); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is now read as %+v", name, got)
		}
	}
	if seen != len(goldenRows) {
		t.Errorf("%d of %d rows are in %s", seen, len(goldenRows), path)
	}
}

func decodeAs(t *testing.T, name string, b []byte) any {
	t.Helper()
	var got any
	var err error
	switch name {
	case "instance", "instance.2":
		got, err = row.Decode[Instance](b)
	case "volume", "volume.2":
		got, err = row.Decode[Volume](b)
	case "host", "host.2":
		got, err = row.Decode[Host](b)
	case "placement":
		got, err = row.Decode[Placement](b)
	}
	if err != nil {
		t.Fatalf("decode %s: %v", name, err)
	}
	return got
}

// TestGoldenRowsAreFull: a field that no golden row sets would not be held to its key.
func TestGoldenRowsAreFull(t *testing.T) {
	v, later := reflect.ValueOf(goldenRows["instance"]), reflect.ValueOf(goldenRows["instance.2"])
	for i := range v.NumField() {
		if v.Field(i).IsZero() && later.Field(i).IsZero() {
			t.Errorf("field %s is not set", v.Type().Field(i).Name)
		}
	}
}

// TestEveryLaunchFitsItsCommit: the number of candidates keeps each size of launch within the store's bound of guards.
func TestEveryLaunchFitsItsCommit(t *testing.T) {
	for n := 1; n <= compute.MaxPerRequest; n++ {
		if c := CandidatesFor(n); c < 1 {
			t.Errorf("%d instances have %d candidates", n, c)
		}
	}
	if c := CandidatesFor(20); c < 3 {
		t.Errorf("20 instances have %d candidates, want at least 3", c)
	}
}
