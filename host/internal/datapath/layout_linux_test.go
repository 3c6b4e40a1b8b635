package datapath

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/nimbrel/nimbrel/host/internal/datapath/bpf/compile/source"
)

// TestLayoutAgrees compares every structure that both sides share, field by field, with the object's own description.
func TestLayoutAgrees(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, in btf.Type, twin any) {
		structure, ok := btf.UnderlyingType(in).(*btf.Struct)
		ours := reflect.TypeOf(twin)
		if !ok || int(structure.Size) != int(ours.Size()) || len(structure.Members) != ours.NumField() {
			t.Errorf("%s: %v differs from %v (%d bytes)", name, in, ours, ours.Size())
			return
		}
		for i, member := range structure.Members {
			size, err := btf.Sizeof(member.Type)
			field := ours.Field(i)
			if err != nil || uintptr(member.Offset.Bytes()) != field.Offset || uintptr(size) != field.Type.Size() {
				t.Errorf("%s.%s at %d differs from %s at %d", name, member.Name, member.Offset.Bytes(), field.Name, field.Offset)
			}
		}
	}
	m := spec.Maps
	check("config", m["config"].Value, configRecord{})
	check("ports", m["ports"].Value, portRecord{})
	check("locals", m["locals"].Key, addressKey{})
	check("directory key", m["directory"].Key, pageKey{})
	check("directory", m["directory"].Value, pageRef{})
	check("policy", m["policy"].Key, policyKey{})
	check("port_classes", m["port_classes"].Key, portClassKey{})
	check("cidrs", m["cidrs"].Key, cidrKey{})
	check("last_seen", m["last_seen"].Value, seenRecord{})
	for _, name := range []string{"port_flows", "port_half_open"} {
		if inner := m[name].InnerMap; int(inner.KeySize) != binary.Size(flowKey{}) || int(inner.ValueSize) != binary.Size(flowRecord{}) {
			t.Errorf("%s: keys of %d bytes and values of %d differ from flowKey and flowRecord", name, inner.KeySize, inner.ValueSize)
		}
	}
	for name, want := range map[string]uint32{
		"ports": maxPorts, "pages": maxPages * pageEntries, "hosts": maxHosts, "counters": maxPorts * counters, "last_seen": maxPorts,
		"port_flows": maxPorts, "port_half_open": maxPorts, "port_fragments": maxPorts,
	} {
		if m[name].MaxEntries != want {
			t.Errorf("map %s has %d entries, want %d", name, m[name].MaxEntries, want)
		}
	}
	reasonsOf(t)
}

// reasonsOf compares the order of drop reasons with the enumeration in layout.h.
func reasonsOf(t *testing.T) {
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "enum counter {")
	list, _, _ = strings.Cut(list, "COUNTERS")
	number, next := 0, Reason(0)
	for line := range strings.Lines(list) {
		name, _, found := strings.Cut(strings.TrimSpace(line), ",")
		if !found {
			continue
		}
		if reason, isDrop := strings.CutPrefix(name, "DROP_"); isDrop {
			if number != dropsAt+int(next) || !strings.EqualFold(reason, next.String()) {
				t.Errorf("counter %d is %s, want %v", number, name, next)
			}
			next++
		}
		number++
	}
	if next != reasons || number > counters {
		t.Errorf("%d drop reasons in layout.h, %d in Go", next, reasons)
	}
}

// TestObjectIsFresh fails when the sources changed without "go generate". Where the compiler is at hand, it also compiles.
func TestObjectIsFresh(t *testing.T) {
	recorded, err := os.ReadFile("bpf/datapath.o.sha256")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := source.Digest("bpf")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(recorded)) != sum {
		t.Fatal("bpf/datapath.o is not of these sources: run \"go generate\" in host/internal/datapath")
	}
	for _, tool := range []string{"clang", "llvm-strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("sources are those recorded; %s is not here to compile them", tool)
		}
	}
	fresh := filepath.Join(t.TempDir(), "datapath.o")
	if err := source.Compile("bpf", fresh); err != nil {
		t.Fatal(err)
	}
	built, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, object) && compilerOf(t, built) == compilerOf(t, object) {
		t.Error("the same compiler makes another object of these sources")
	}
}

// compilerOf is the compiler's name that it left in the object.
func compilerOf(t *testing.T, object []byte) string {
	t.Helper()
	_, rest, found := bytes.Cut(object, []byte("clang version "))
	if !found {
		return ""
	}
	name, _, _ := bytes.Cut(rest, []byte{0})
	return string(name)
}
