package metadata

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/ids"
)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

type directory map[netip.Addr]guest.Guest

func (d directory) Guest(source netip.Addr) (guest.Guest, bool) { g, ok := d[source]; return g, ok }
func (d directory) Mapped(ids.VPC, netip.Addr) (host.Mapping, bool) {
	return host.Mapping{}, false
}
func (d directory) Address(ids.VPC, ids.Instance) (netip.Addr, bool) { return netip.Addr{}, false }

func testGuest(n byte) guest.Guest {
	g := guest.Guest{
		Interface: host.Interface{
			ID: "eni-0123456789abcdef0", MAC: [6]byte{2, 0, 0, 0, 0, n}, SubnetCIDR: "10.0.1.0/24", AddressOffset: uint64(4 + n),
			VPC: "vpc-0123456789abcdef0", Subnet: "subnet-0123456789abcdef0", VPCCIDRs: []string{"10.0.0.0/16"},
			Groups: []ids.SecurityGroup{"sg-0123456789abcdef0", "sg-0123456789abcdef1"},
		},
		Instance: host.Instance{
			ID: ids.Instance("i-0123456789abcdef" + string('0'+n)), Account: "123456789012", Region: "us-nimbrel-1", Zone: "us-nimbrel-1a",
			Type: "nb1.tiny", KeyName: "my key", PublicKey: "ssh-ed25519 AAAA me", UserData: []byte("#!/bin/sh\necho hi\n"),
			GroupNames: []string{"default", "web"}, Tags: map[string]string{"Name": "box"},
		},
	}
	g.Interfaces = []host.Interface{g.Interface}
	return g
}

type client struct {
	t      *testing.T
	server *Server
	from   string
}

func (c client) do(method, path string, headers ...string) (int, string) {
	c.t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = c.from
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.server.ServeHTTP(w, r)
	body, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(body)
}

func newClients(t *testing.T, change func(*guest.Guest)) (one, two client, c *clock) {
	first, second := testGuest(1), testGuest(2)
	if change != nil {
		change(&first)
	}
	c = &clock{now: time.Unix(1_700_000_000, 0)}
	s, err := New(directory{netip.MustParseAddr("100.64.0.1"): first, netip.MustParseAddr("100.64.0.2"): second}, c, make([]byte, KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return client{t, s, "100.64.0.1:4000"}, client{t, s, "100.64.0.2:4000"}, c
}

func TestTree(t *testing.T) {
	c, _, _ := newClients(t, nil)
	macs := "/latest/meta-data/network/interfaces/macs/"
	for path, want := range map[string]string{
		"/2009-04-04/meta-data/instance-id":               "i-0123456789abcdef1",
		"/2021-03-23/meta-data/local-ipv4":                "10.0.1.5",
		"/latest/meta-data/local-hostname":                "ip-10-0-1-5.us-nimbrel-1.compute.internal",
		"/latest/meta-data/public-keys/":                  "0=my key",
		"/latest/meta-data/public-keys":                   "0=my key",
		"/latest/meta-data/public-keys/0/":                "openssh-key",
		"/latest/meta-data/public-keys/0/openssh-key":     "ssh-ed25519 AAAA me",
		"/latest/meta-data/placement/":                    "availability-zone\nregion",
		"/latest/meta-data/security-groups":               "default\nweb",
		"/latest/meta-data/tags/instance/Name":            "box",
		"/latest/user-data":                               "#!/bin/sh\necho hi\n",
		"/latest/":                                        "dynamic/\nmeta-data/\nuser-data",
		macs:                                              "02:00:00:00:00:01/",
		macs + "02:00:00:00:00:01/security-group-ids":     "sg-0123456789abcdef0\nsg-0123456789abcdef1",
		macs + "02:00:00:00:00:01/vpc-ipv4-cidr-block":    "10.0.0.0/16",
		macs + "02:00:00:00:00:01/subnet-ipv4-cidr-block": "10.0.1.0/24",
	} {
		if code, body := c.do("GET", path); code != 200 || body != want {
			t.Errorf("GET %s = %d %q, want %q", path, code, body, want)
		}
	}
	if code, body := c.do("GET", "/latest/dynamic/instance-identity/document"); code != 200 || !strings.Contains(body, `"accountId": "123456789012"`) {
		t.Errorf("identity document = %d %q", code, body)
	}
	for _, path := range []string{"/latest/meta-data/nonsense", "/1999-01-01/meta-data/", "/latest/meta-data/iam/"} {
		if code, _ := c.do("GET", path); code != http.StatusNotFound {
			t.Errorf("GET %s = %d, want 404", path, code)
		}
	}
}

func TestTokens(t *testing.T) {
	one, two, clock := newClients(t, func(g *guest.Guest) { g.Instance.MetadataTokensRequired = true })
	const id = "/latest/meta-data/instance-id"
	if code, _ := one.do("GET", id); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d, want 401", code)
	}
	code, token := one.do("PUT", "/latest/api/token", tokenTTLHeader, "60")
	if code != 200 {
		t.Fatalf("PUT token = %d %q", code, token)
	}
	if code, body := one.do("GET", id, tokenHeader, token); code != 200 || body != "i-0123456789abcdef1" {
		t.Errorf("with a token: %d %q", code, body)
	}
	if code, _ := two.do("GET", id, tokenHeader, token); code != http.StatusUnauthorized {
		t.Errorf("another guest's token: %d, want 401", code)
	}
	if code, _ := two.do("GET", id); code != 200 {
		t.Errorf("version 1 where it is allowed: %d", code)
	}
	flipped := "A" + token[1:]
	if token[0] == 'A' {
		flipped = "B" + token[1:]
	}
	if code, _ := one.do("GET", id, tokenHeader, flipped); code != http.StatusUnauthorized {
		t.Errorf("changed token: %d, want 401", code)
	}
	clock.now = clock.now.Add(60 * time.Second)
	if code, _ := one.do("GET", id, tokenHeader, token); code != http.StatusUnauthorized {
		t.Errorf("expired token: %d, want 401", code)
	}
}

func TestTokenRequestRefused(t *testing.T) {
	c, _, _ := newClients(t, nil)
	for _, ttl := range []string{"", "0", "-1", "21601", "x"} {
		if code, _ := c.do("PUT", "/latest/api/token", tokenTTLHeader, ttl); code != http.StatusBadRequest {
			t.Errorf("TTL %q: %d, want 400", ttl, code)
		}
	}
	if code, _ := c.do("PUT", "/latest/api/token", tokenTTLHeader, "60", "X-Forwarded-For", "10.0.0.9"); code != http.StatusForbidden {
		t.Errorf("proxied PUT: %d, want 403", code)
	}
	if code, _ := c.do("POST", "/latest/api/token"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d, want 405", code)
	}
}

func TestStrangersAndDisabled(t *testing.T) {
	c, _, _ := newClients(t, func(g *guest.Guest) { g.Instance.MetadataDisabled = true })
	if code, _ := c.do("GET", "/latest/meta-data/"); code != http.StatusForbidden {
		t.Errorf("disabled: %d, want 403", code)
	}
	c.from = "100.64.9.9:1"
	if code, body := c.do("GET", "/latest/meta-data/instance-id"); code != http.StatusNotFound || strings.Contains(body, "i-") {
		t.Errorf("stranger: %d %q, want 404", code, body)
	}
}

func FuzzToken(f *testing.F) {
	key := make([]byte, KeyBytes)
	now := time.Unix(1_700_000_000, 0)
	good := issue(key, "i-0123456789abcdef0", now.Add(time.Hour))
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		if valid(key, "i-0123456789abcdef0", token, now) && token != good {
			// Only a holder of the key can make one; the fuzzer finding another means the MAC is not checked whole.
			t.Fatalf("forged token %q accepted", token)
		}
	})
}

// FuzzServe sends requests as a guest may write them, to an instance whose tokens are required. Nothing ends in a server's
// error, nothing is told without a token, and nothing about another instance.
func FuzzServe(f *testing.F) {
	f.Add("GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", true)
	f.Add("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n", false)
	f.Add("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-aws-ec2-metadata-token-ttl-seconds: 99999999999999999999\r\n\r\n", false)
	f.Add("GET /latest/meta-data/public-keys/0=my%20key/openssh-key HTTP/1.1\r\nHost: x\r\n\r\n", true)
	f.Add("GET //latest/../latest/user-data?x HTTP/1.1\r\nHost: x\r\n\r\n", true)
	first, second := testGuest(1), testGuest(2)
	first.Instance.MetadataTokensRequired = true
	c := &clock{now: time.Unix(1_700_000_000, 0)}
	key := make([]byte, KeyBytes)
	s, err := New(directory{netip.MustParseAddr("100.64.0.1"): first, netip.MustParseAddr("100.64.0.2"): second}, c, key)
	if err != nil {
		f.Fatal(err)
	}
	token := issue(key, first.Instance.ID, c.now.Add(time.Hour))
	f.Fuzz(func(t *testing.T, text string, withToken bool) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		r.RemoteAddr = "100.64.0.1:4000"
		r.Header.Del(tokenHeader)
		if withToken {
			r.Header.Set(tokenHeader, token)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("%q: %d %q", text, w.Code, w.Body)
		}
		if w.Code == http.StatusOK && !withToken && r.Method != http.MethodPut {
			t.Fatalf("%q: answered without a token: %q", text, w.Body)
		}
		if strings.Contains(w.Body.String(), string(second.Instance.ID)) {
			t.Fatalf("%q: told of another instance: %q", text, w.Body)
		}
	})
}
