package server

import (
	"bytes"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/dispatch"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/store"
)

// FuzzKey holds that every key is read back from its text, and that two keys never have the same text.
func FuzzKey(f *testing.F) {
	f.Add(store.Prefix("account", "left", "123456789012", "vcpu"))
	f.Add(store.Key("a/b", uint64(1<<63), int64(-5), []byte{0, 255}, true, "x\x00\xff").Base)
	f.Add([]byte{})
	f.Add([]byte{0xff, 1})
	f.Fuzz(func(t *testing.T, key []byte) {
		text := formatKey(key)
		back, err := parseKey(text)
		if err != nil {
			t.Fatalf("%x as %s: %v", key, text, err)
		}
		if !bytes.Equal(back, key) {
			t.Errorf("%x as %s became %x", key, text, back)
		}
	})
}

// FuzzParseKey holds that no text makes it panic.
func FuzzParseKey(f *testing.F) {
	for _, text := range []string{"account/left", `["a",1,-1,true,{"bytes":"00"}]`, "0x01", "[[", `[1e9]`, `[18446744073709551616]`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseKey(text); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}

func TestHostState(t *testing.T) {
	target := func(l dispatch.Liveness) map[string]dispatch.TargetStatus {
		return map[string]dispatch.TargetStatus{"host/h-1": {Target: "host/h-1", Liveness: l}}
	}
	for _, c := range []struct {
		host    compute.Host
		targets map[string]dispatch.TargetStatus
		want    operatorgen.HostState
	}{
		{compute.Host{ID: "h-1"}, nil, operatorgen.HostStateSuspect},
		{compute.Host{ID: "h-1", Connected: true}, nil, operatorgen.HostStateUp},
		{compute.Host{ID: "h-1", Connected: true}, target(dispatch.Dead), operatorgen.HostStateDead},
		{compute.Host{ID: "h-1", Connected: true}, target(dispatch.Suspect), operatorgen.HostStateSuspect},
		{compute.Host{ID: "h-1"}, target(dispatch.Up), operatorgen.HostStateUp},
		{compute.Host{ID: "h-1"}, target(dispatch.Down), operatorgen.HostStateSuspect},
		{compute.Host{ID: "h-2", Connected: true}, target(dispatch.Dead), operatorgen.HostStateUp},
		{compute.Host{ID: "h-1", Draining: true}, target(dispatch.Up), operatorgen.HostStateDraining},
	} {
		if got := hostState(c.host, c.targets); got != c.want {
			t.Errorf("%+v with %v is %s, want %s", c.host, c.targets, got, c.want)
		}
	}
	real, fake := compute.Host{}, compute.Host{Simulated: true}
	for _, c := range []struct {
		hosts []compute.Host
		want  operatorgen.Driver
	}{
		{nil, operatorgen.DriverQemu}, {[]compute.Host{real}, operatorgen.DriverQemu},
		{[]compute.Host{fake, fake}, operatorgen.DriverFake}, {[]compute.Host{real, fake}, operatorgen.DriverMixed},
	} {
		if got := driverOf(c.hosts); got != c.want {
			t.Errorf("%d hosts: %s, want %s", len(c.hosts), got, c.want)
		}
	}
}
