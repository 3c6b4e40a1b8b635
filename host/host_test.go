package host

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/nimbrel/nimbrel/internal/ids"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/golden.txt")

// fill sets every field of v to a value that differs from its zero, so that a golden line covers each key.
func fill(v reflect.Value, seed *int) {
	*seed++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), seed)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), seed)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), seed)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", *seed))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*seed))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*seed))
	default:
		panic("no filler for " + v.Type().String())
	}
}

func filled[T Payload]() T {
	var v T
	seed := 0
	fill(reflect.ValueOf(&v).Elem(), &seed)
	return v
}

func roundTrip[T Payload](t *testing.T, lines *strings.Builder) {
	t.Helper()
	v := filled[T]()
	b := Encode(v)
	fmt.Fprintf(lines, "%T %s\n", v, hex.EncodeToString(b))
	got, err := Decode[T](b)
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Errorf("Decode(Encode(%T)) = %+v, %v; want %+v", v, got, err, v)
	}
	fields := reflect.TypeOf(v).NumField()
	var keys map[uint64]cbor.RawMessage
	if err := cbor.Unmarshal(b, &keys); err != nil || len(keys) != fields {
		t.Errorf("%T has %d keys, %v; want one for each of %d fields", v, len(keys), err, fields)
	}
	var zero T
	var written map[uint64]any
	if err := cbor.Unmarshal(Encode(zero), &written); err != nil {
		t.Fatal(err)
	}
	for key, value := range written {
		if _, isMAC := value.([]byte); !isMAC { // a MAC has no empty form and is never bound at commit
			t.Errorf("zero %T writes key %d: %v", zero, key, value)
		}
	}
}

// TestGoldenBytes holds the wire form: a changed line is a changed contract with every deployed host.
func TestGoldenBytes(t *testing.T) {
	var lines strings.Builder
	roundTrip[Instance](t, &lines)
	roundTrip[Interface](t, &lines)
	roundTrip[Mapping](t, &lines)
	roundTrip[Identity](t, &lines)
	roundTrip[Group](t, &lines)
	roundTrip[FleetHost](t, &lines)
	roundTrip[Info](t, &lines)
	roundTrip[InstanceStatus](t, &lines)
	roundTrip[ConsoleRequest](t, &lines)
	roundTrip[DialRequest](t, &lines)
	roundTrip[ImageRequest](t, &lines)
	golden := filepath.Join("testdata", "golden.txt")
	if *rewrite {
		if err := os.WriteFile(golden, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if lines.String() != string(want) {
		t.Errorf("encoding changed:\n%swant:\n%s", &lines, want)
	}
}

// TestAppendedField proves that a value known only at commit can be appended to an encoded item.
func TestAppendedField(t *testing.T) {
	b := Encode(Mapping{Interface: "eni-00000000000000001", SubnetCIDR: "10.0.0.0/24"})
	b[0]++                                // one more pair in the map
	b = append(b, 0x03, 0x1b)             // key 3, a 64-bit integer follows
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 5) // fixed width, as a slot is spliced
	m, err := Decode[Mapping](b)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := m.Address(); err != nil || a.String() != "10.0.0.5" {
		t.Errorf("Address = %v, %v; want 10.0.0.5", a, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"field twice":       {0xa2, 0x02, 0x61, 'a', 0x02, 0x61, 'b'},
		"trailing bytes":    {0xa0, 0xa0},
		"indefinite length": {0xbf, 0xff},
		"wrong kind":        {0xa1, 0x02, 0x05},
		"cut":               {0xa1, 0x02},
		"empty":             {},
		"too large":         make([]byte, MaxItemBytes+1),
	} {
		if v, err := Decode[FleetHost](b); err == nil {
			t.Errorf("%s: decoded as %+v", name, v)
		}
	}
	if v, err := Decode[FleetHost]([]byte{0xa2, 0x02, 0x61, 'a', 0x18, 0x63, 0x05}); err != nil || v.Underlay != "a" {
		t.Errorf("unknown field: %+v, %v; want it ignored", v, err)
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		cidr   string
		offset uint64
		want   string
	}{
		{"10.0.0.0/24", 4, "10.0.0.4"},
		{"10.0.0.0/24", 255, "10.0.0.255"},
		{"10.0.0.0/24", 256, ""},
		{"10.0.0.0/24", 1 << 40, ""},
		{"10.0.255.0/16", 300, "10.0.1.44"},
		{"0.0.0.0/0", 1<<32 - 1, "255.255.255.255"},
		{"fd00::/64", 4, ""},
		{"", 4, ""},
	} {
		i := Interface{SubnetCIDR: c.cidr, AddressOffset: c.offset}
		got, err := i.Address()
		if (err == nil) != (c.want != "") || (err == nil && got.String() != c.want) {
			t.Errorf("offset %d of %q = %v, %v; want %q", c.offset, c.cidr, got, err, c.want)
		}
	}
	i := Interface{SubnetCIDR: "10.0.0.0/24", AddressOffset: 5}
	if got := i.PrivateDNSName("us-nimbrel-1"); got != "ip-10-0-0-5.us-nimbrel-1.compute.internal" {
		t.Errorf("PrivateDNSName = %q", got)
	}
}

func validInstance() Instance {
	return Instance{
		ID: "i-00000000000000001", Generation: 1, VCPUs: 1, MemoryMiB: 128, RootDiskGiB: 1, ImageBytes: 1 << 20,
		ImageSHA256: strings.Repeat("ab", 32), Interfaces: []ids.Interface{"eni-00000000000000001"},
	}
}

func TestInstanceValidate(t *testing.T) {
	good := validInstance()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Instance){
		"path in id":       func(i *Instance) { i.ID = "i-../../../etc/pass" },
		"no generation":    func(i *Instance) { i.Generation = 0 },
		"unknown power":    func(i *Instance) { i.Power = 9 },
		"no vCPU":          func(i *Instance) { i.VCPUs = 0 },
		"no memory":        func(i *Instance) { i.MemoryMiB = 0 },
		"digest is a path": func(i *Instance) { i.ImageSHA256 = "../" + strings.Repeat("a", 61) },
		"image too large":  func(i *Instance) { i.ImageBytes = 2 << 30 },
		"user data":        func(i *Instance) { i.UserData = make([]byte, MaxUserDataBytes+1) },
		"interface id":     func(i *Instance) { i.Interfaces = []ids.Interface{"eni-/"} },
	} {
		i := validInstance()
		spoil(&i)
		if err := i.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestInterfaceValidate(t *testing.T) {
	valid := func() Interface {
		return Interface{ID: "eni-00000000000000001", Instance: "i-00000000000000001", VNI: 7, MAC: [6]byte{2, 0, 0, 0, 0, 1}, SubnetCIDR: "10.0.0.0/24", AddressOffset: 4}
	}
	good := valid()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Interface){
		"id":            func(i *Interface) { i.ID = "eni-1" },
		"no VNI":        func(i *Interface) { i.VNI = 0 },
		"wide VNI":      func(i *Interface) { i.VNI = 1 << 24 },
		"multicast MAC": func(i *Interface) { i.MAC[0] = 1 },
		"outside":       func(i *Interface) { i.AddressOffset = 256 },
	} {
		i := valid()
		spoil(&i)
		if err := i.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestImageRequestValidate(t *testing.T) {
	const most = uint64(MaxRootDiskGiB) << 30
	digest := strings.Repeat("ab", 32)
	for _, c := range []struct {
		request ImageRequest
		good    bool
	}{
		{ImageRequest{SHA256: digest, Bytes: 1}, true},
		{ImageRequest{SHA256: digest, Offset: most - 1, Bytes: 1}, true},
		{ImageRequest{SHA256: digest, Bytes: most}, true},
		{ImageRequest{SHA256: digest}, false},
		{ImageRequest{SHA256: digest, Bytes: most + 1}, false},
		{ImageRequest{SHA256: digest, Offset: most, Bytes: 1}, false},
		{ImageRequest{SHA256: digest, Offset: 1<<64 - 1, Bytes: 2}, false},
		{ImageRequest{SHA256: "../" + digest[3:], Bytes: 1}, false},
		{ImageRequest{SHA256: strings.ToUpper(digest), Bytes: 1}, false},
		{ImageRequest{Bytes: 1}, false},
	} {
		if err := c.request.Validate(); (err == nil) != c.good {
			t.Errorf("%+v: %v", c.request, err)
		}
	}
}

// FuzzDecode holds that a host's input is either refused or stable: what was understood is written and read back alike.
func FuzzDecode(f *testing.F) {
	f.Add(Encode(filled[Instance]()))
	f.Add(Encode(validInstance()))
	f.Add(Encode(filled[Interface]()))
	f.Add(Encode(filled[Group]()))
	f.Add(Encode(filled[ImageRequest]()))
	f.Add([]byte{0xbf, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		stable[Instance](t, b)
		stable[Interface](t, b)
		stable[Group](t, b)
		stable[ImageRequest](t, b)
		if v, err := Decode[ImageRequest](b); err == nil && v.Validate() == nil && strings.ContainsAny(v.SHA256, "./") {
			t.Errorf("valid image request whose digest is a path: %q", v.SHA256)
		}
		if v, err := Decode[Instance](b); err == nil && v.Validate() == nil {
			if strings.ContainsAny(string(v.ID)+v.ImageSHA256, "./") {
				t.Errorf("valid instance whose id or digest is a path: %q, %q", v.ID, v.ImageSHA256)
			}
		}
	})
}

func stable[T Payload](t *testing.T, b []byte) {
	v, err := Decode[T](b)
	if err != nil {
		return
	}
	once := Encode(v)
	if len(once) > MaxItemBytes {
		return // text grew by longer length heads; the reader refuses it
	}
	again, err := Decode[T](once)
	if err != nil {
		t.Fatalf("decode of own encoding of %+v: %v", v, err)
	}
	if !bytes.Equal(Encode(again), once) {
		t.Fatalf("%+v became %+v", v, again)
	}
}
