package server

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/compute/computerows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/vpc"
)

// TestShownIsAsNew holds that an instance is shown as it is after whatever change of what is shown of it: of its row, its
// tags, its interface or its host, in any order. What was shown before stays as it was.
func TestShownIsAsNew(t *testing.T) {
	const account = ids.Account("123456789012")
	v, r := newView("us-nimbrel-1"), rand.New(rand.NewPCG(1, 2))
	page := func() []*compute.Instance {
		list, _ := v.page(account, compute.Page{Limit: 100}, func(*computerows.Instance) bool { return true })
		return list
	}
	for step := range 4000 {
		n := r.IntN(5)
		id, port, h := ids.Instance(fmt.Sprint("i-", n)), ids.Interface(fmt.Sprint("eni-", n)), ids.Host(fmt.Sprint("h-", n%2))
		before := page()
		kept := make([]compute.Instance, len(before))
		for i := range before {
			kept[i] = *before[i]
		}
		var set func()
		switch r.IntN(6) {
		case 0:
			set = func() { v.setInstance(id, nil) }
		case 1:
			row := &computerows.Instance{ID: id, Account: account, Interface: port, Host: h, LaunchIndex: n, State: compute.State(16 * r.IntN(3))}
			set = func() { v.setInstance(id, row) }
		case 2:
			set = func() { v.index.setTags(id, map[string]string{"a": fmt.Sprint(r.IntN(3))}) }
		case 3:
			set = func() { v.setInterface(port, nil) }
		case 4:
			address := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(200))})
			set = func() {
				v.setInterface(port, &vpc.Interface{ID: port, Account: account, Address: address, State: vpc.InterfaceInUse})
			}
		case 5:
			row := &computerows.Host{Info: host.Info{ID: h, Simulated: r.IntN(2) == 0}}
			set = func() { v.apply(computerows.Change{Table: "host", Host: h, HostRow: row}) }
		}
		v.update(false, []func(){set})
		for i := range before {
			if !reflect.DeepEqual(*before[i], kept[i]) {
				t.Fatalf("step %d changed what had been shown: %+v, was %+v", step, *before[i], kept[i])
			}
		}
		after := page()
		if len(after) != len(v.instances) {
			t.Fatalf("step %d: %d instances of %d", step, len(after), len(v.instances))
		}
		for _, shown := range after {
			if want := v.make(v.instances[shown.ID]); !reflect.DeepEqual(shown, want) {
				t.Fatalf("step %d: shown %+v, is %+v", step, shown, want)
			}
		}
	}
}
