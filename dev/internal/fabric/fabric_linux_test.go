package fabric

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestFabricCarriesTraffic builds a fabric twice, talks host to host and host to machine, and destroys it.
func TestFabricCarriesTraffic(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	p := Plan{Prefix: "nbt", Underlay: netip.MustParsePrefix("198.18.78.0/24"), Hosts: 2}
	t.Cleanup(func() {
		if err := Destroy(p); err != nil {
			t.Error(err)
		}
		if left := Namespaces(p); len(left) > 0 {
			t.Errorf("namespaces left: %v", left)
		}
		if _, err := netlink.LinkByName(p.MachineDevice()); err == nil {
			t.Errorf("link %s left", p.MachineDevice())
		}
	})
	leaveBehind(t, p)
	if err := Destroy(p); err != nil {
		t.Fatal(err)
	}
	leaveBehind(t, p)
	for range 2 {
		if err := Ensure(p); err != nil {
			t.Fatal(err)
		}
	}
	unplug(t, p)
	if err := Ensure(p); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"", p.Host(2).Namespace} {
		echo(t, p.Host(1), from)
	}
}

// leaveBehind makes what a run that died early can leave: a file without its namespace, and a link whose peer is elsewhere.
func leaveBehind(t *testing.T, p Plan) {
	t.Helper()
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(namespaceDir, p.SwitchNamespace()), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.MachineDevice()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: p.Prefix + "stray"}); err != nil {
		t.Fatal(err)
	}
}

// unplug takes a host's port off the bridge, as after a run that died between making the port and plugging it.
func unplug(t *testing.T, p Plan) {
	t.Helper()
	err := Run(p.SwitchNamespace(), func() error {
		link, err := netlink.LinkByName(p.Prefix + "p1")
		if err != nil {
			return err
		}
		return netlink.LinkSetNoMaster(link)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// echo connects to a listener in a host's namespace from another namespace.
func echo(t *testing.T, to Host, from string) {
	t.Helper()
	var listener net.Listener
	err := Run(to.Namespace, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(to.Address.String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	err = Run(from, func() error {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 5)
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(buf); err != nil || string(buf) != "hello" {
			t.Errorf("from %q: read %q, %v", from, buf, err)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("from %q: %v", from, err)
	}
}
