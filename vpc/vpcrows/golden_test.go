package vpcrows

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/store/storetest"
	"github.com/nimbrel/nimbrel/vpc"
)

var update = flag.Bool("update", false, "write the golden rows anew; only for a new version's file")

const golden = "testdata/rows_v1.txt"

const (
	goldenAccount ids.Account       = "123456789012"
	goldenVPC     ids.VPC           = "vpc-0123456789abcdef0"
	goldenSubnet  ids.Subnet        = "subnet-0123456789abcdef0"
	goldenGroup   ids.SecurityGroup = "sg-0123456789abcdef0"
)

// goldenRow is one row with every field set.
type goldenRow struct {
	name   string
	key    store.Template
	value  any
	decode func([]byte) (any, error)
}

func goldenOf[T any](name string, key store.Template, value T) goldenRow {
	return goldenRow{name: name, key: key, value: value, decode: func(b []byte) (any, error) { return row.Decode[T](b) }}
}

func goldenRows() []goldenRow {
	rule := vpc.RuleSpec{Protocol: vpc.TCP, FromPort: 22, ToPort: 80, Peer: goldenGroup}
	return []goldenRow{
		goldenOf("vpc", vpcKey(goldenAccount, goldenVPC), vpcRow{
			ID: goldenVPC, Account: goldenAccount, CIDR: "10.0.0.0/16", CIDRID: "vpc-cidr-assoc-1", VNI: 7, Default: true,
			DHCPOptions: "dopt-1", MainRouteTable: "rtb-1", MainAssociation: "rtbassoc-1", DefaultACL: "acl-1",
			DefaultGroup: goldenGroup, NoDNSSupport: true, DNSHostnames: true, CreatedMs: 1700000000000,
		}),
		goldenOf("subnet", subnetKey(goldenAccount, goldenSubnet), subnetRow{
			ID: goldenSubnet, Account: goldenAccount, VPC: goldenVPC, CIDR: "10.0.1.0/24", Zone: "us-nimbrel-1a", Default: true,
			MapPublicIP: true, ACLAssociation: "aclassoc-1", CreatedMs: 1700000000000,
		}),
		goldenOf("subnet-at", key(familySubnetAt, goldenVPC, uint64(0x0a000100)), subnetAtRow{
			ID: goldenSubnet, CIDR: "10.0.1.0/24", Zone: "us-nimbrel-1a",
		}),
		goldenOf("group", groupKey(goldenAccount, goldenGroup), groupRow{
			ID: goldenGroup, Account: goldenAccount, VPC: goldenVPC, Name: "web", Description: "d", Default: true, CreatedMs: 1700000000000,
		}),
		goldenOf("rule", ruleKey(goldenGroup, true, rule), ruleRow{
			ID: "sgr-1", Account: goldenAccount, Group: goldenGroup, Egress: true, Protocol: -1, FromPort: -1, ToPort: 80,
			CIDR: "0.0.0.0/0", Peer: goldenGroup, Description: "d",
		}),
		goldenOf("identity-gone", Retired{VPC: goldenVPC, Number: 9, IdentitiesSeq: 300}.key(), retiredRow{MappingsSeq: 11}),
		goldenOf("interface", interfaceKey(goldenAccount, "eni-1"), interfaceRow{
			ID: "eni-1", Account: goldenAccount, VPC: goldenVPC, VNI: 7, VPCCIDR: "10.0.0.0/16", Subnet: goldenSubnet,
			SubnetCIDR: "10.0.1.0/24", Zone: "us-nimbrel-1a", Offset: 4, MAC: [6]byte{2, 1, 2, 3, 4, 5},
			Groups: []ids.SecurityGroup{goldenGroup}, Identity: 9, State: vpc.InterfaceReleasing, Instance: "i-1", Host: "h-1",
			Attachment: "eni-attach-1", DeviceIndex: 1, DeleteOnTermination: true, SourceDestCheck: true, Description: "d",
			CreatedMs: 1700000000000, ReleaseSeq: 11,
		}),
		goldenOf("identity", identityKey(goldenVPC, 9), identityRow{VPC: goldenVPC, Number: 9, Groups: []ids.SecurityGroup{goldenGroup}}),
		goldenOf("dhcp", key(FamilyDHCP, goldenAccount, "dopt-1"), dhcpRow{ID: "dopt-1", Account: goldenAccount, DomainName: "us-nimbrel-1.compute.internal"}),
		goldenOf("default", key(FamilyDefault, goldenAccount), defaultRow{Account: goldenAccount, DHCPOptions: "dopt-1", VPC: goldenVPC}),
	}
}

// TestGoldenRows: rows and keys of version 1 are written and read as they were first released.
func TestGoldenRows(t *testing.T) {
	var lines strings.Builder
	for _, g := range goldenRows() {
		fmt.Fprintf(&lines, "%s %x %x\n", g.name, g.key.Base, row.Encode(g.value).Base)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if lines.String() != string(want) {
		t.Errorf("rows changed; got\n%s", lines.String())
	}
	for i, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
		g := goldenRows()[i]
		var name string
		var k, v []byte
		if _, err := fmt.Sscanf(line, "%s %x %x", &name, &k, &v); err != nil {
			t.Fatal(err)
		}
		if got, err := g.decode(v); err != nil || !reflect.DeepEqual(got, g.value) {
			t.Errorf("%s reads as %+v, %v", name, got, err)
		}
	}
}

// TestGoldenRowsAreFull: a field that the golden rows leave out is not protected by them.
func TestGoldenRowsAreFull(t *testing.T) {
	for _, g := range goldenRows() {
		v := reflect.ValueOf(g.value)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s leaves %s out", g.name, v.Type().Field(i).Name)
			}
		}
	}
}

// TestFieldNumbers: what Attach binds to slots are the fields that it means.
func TestFieldNumbers(t *testing.T) {
	for _, test := range []struct {
		value  any
		field  string
		number int
	}{
		{vpcRow{}, "VNI", vpcRowVNI},
		{interfaceRow{}, "Offset", interfaceRowOffset},
		{interfaceRow{}, "Host", interfaceRowHost},
		{interfaceRow{}, "ReleaseSeq", interfaceRowReleaseSeq},
		{*(&interfaceRow{}).hostInterface(), "AddressOffset", hostInterfaceOffset},
		{*(&interfaceRow{}).mapping(), "AddressOffset", mappingOffset},
		{*(&interfaceRow{}).mapping(), "Host", mappingHost},
	} {
		f, found := reflect.TypeOf(test.value).FieldByName(test.field)
		if tag := f.Tag.Get("cbor"); !found || !strings.HasPrefix(tag, fmt.Sprint(test.number, ",")) {
			t.Errorf("%T.%s has the tag %q, not number %d", test.value, test.field, tag, test.number)
		}
	}
}

// TestNewerRowIsNotRewritten: a row of a later schema may hold what this program would lose.
func TestNewerRowIsNotRewritten(t *testing.T) {
	db := store.New(storetest.NewMemory(), store.Options{})
	_, err := db.Transact(t.Context(), func(tx *store.Tx) error {
		tx.Put(vpcKey(goldenAccount, goldenVPC), row.Encode(struct {
			Schema uint64  `cbor:"0,keyasint"`
			ID     ids.VPC `cbor:"1,keyasint"`
			CIDR   string  `cbor:"3,keyasint"`
		}{2, goldenVPC, "10.0.0.0/16"}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Transact(t.Context(), func(tx *store.Tx) error {
		return UpdateVPC(t.Context(), tx, goldenAccount, goldenVPC, func(v *VPC) { v.DNSHostnames = true })
	})
	if !errors.Is(err, row.ErrNewerSchema) {
		t.Errorf("update of a newer row: %v", err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, k := range [][]byte{nil, {0xff}, store.Prefix("vpc"), store.Prefix("other", "vpc"), store.Prefix("vpc", 1)} {
		if f, parts, err := ParseKey(k); err == nil {
			t.Errorf("%x was read as %s %v", k, f, parts)
		}
	}
}

func TestMACIsLocalAndFollowsTheID(t *testing.T) {
	for in, want := range map[ids.Interface]string{
		"eni-0123456789abcdef0": "02:01:23:45:67:89",
		"eni-01234567":          "02:01:23:45:67:00",
		"nonsense":              "02:00:00:00:00:00",
	} {
		if got := MAC(in); got.String() != want || got[0]&1 != 0 || got[0]&2 == 0 {
			t.Errorf("%s: %s", in, got)
		}
	}
}
