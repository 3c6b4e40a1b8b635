package server

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestFingerprintIsKept: a launch that an older server made is found when the client repeats it to this one. A change of
// compute.RunRequest that breaks this makes each such repetition an IdempotentParameterMismatch.
func TestFingerprintIsKept(t *testing.T) {
	r := compute.RunRequest{
		ClientToken: "not part of it", Image: "ami-1", Type: "nb1.tiny", MinCount: 1, MaxCount: 2, Subnet: "subnet-1", KeyName: "k",
		Groups: []ids.SecurityGroup{"sg-1"}, PrivateIP: netip.MustParseAddr("10.0.0.9"), UserData: []byte("data"),
		InstanceTags: map[string]string{"b": "2", "a": "1"}, RootDisk: compute.RootDisk{SizeGiB: 8, Keep: true},
	}
	const first = "36178c733923f7ecd79984ba7c1920093d921f0895f81a64355f13ab3c055130"
	print := fingerprint(r)
	if got := hex.EncodeToString(print[:]); got != first {
		t.Errorf("fingerprint %s, of the first release %s", got, first)
	}
	r.GroupNames = []string{"g"}
	if fingerprint(r) == print {
		t.Error("the names of groups make no difference")
	}
}
