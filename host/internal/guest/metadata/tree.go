package metadata

import (
	"encoding/json"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/guest"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// tree maps a path without its leading slash to a value. A path that others continue is a folder.
type tree map[string]string

// build makes the tree below a version for one guest.
func build(g guest.Guest) tree {
	i := &g.Instance
	name := g.Interface.PrivateDNSName(i.Region)
	t := tree{
		"meta-data/ami-id":                      string(i.Image),
		"meta-data/ami-launch-index":            strconv.Itoa(i.LaunchIndex),
		"meta-data/ami-manifest-path":           "(unknown)",
		"meta-data/block-device-mapping/ami":    "xvda",
		"meta-data/block-device-mapping/root":   "/dev/xvda",
		"meta-data/hostname":                    name,
		"meta-data/instance-action":             "none",
		"meta-data/instance-id":                 string(i.ID),
		"meta-data/instance-life-cycle":         "on-demand",
		"meta-data/instance-type":               i.Type,
		"meta-data/local-hostname":              name,
		"meta-data/local-ipv4":                  address(&g.Interface),
		"meta-data/mac":                         mac(&g.Interface),
		"meta-data/placement/availability-zone": i.Zone,
		"meta-data/placement/region":            i.Region,
		"meta-data/profile":                     "default-hvm",
		"meta-data/reservation-id":              string(i.Reservation),
		"meta-data/security-groups":             strings.Join(i.GroupNames, "\n"),
		"meta-data/services/domain":             "compute.internal",
		"meta-data/services/partition":          "aws",
		"dynamic/instance-identity/document":    document(g),
	}
	if i.PublicKey != "" {
		t["meta-data/public-keys/0/openssh-key"] = i.PublicKey
	}
	if len(i.UserData) > 0 {
		t["user-data"] = string(i.UserData)
	}
	for k, v := range i.Tags {
		t["meta-data/tags/instance/"+k] = v
	}
	for k := range g.Interfaces {
		addInterface(t, &g.Interfaces[k], i)
	}
	return t
}

func addInterface(t tree, n *host.Interface, i *host.Instance) {
	base := "meta-data/network/interfaces/macs/" + mac(n) + "/"
	for key, value := range map[string]string{
		"device-number":          strconv.Itoa(n.DeviceIndex),
		"interface-id":           string(n.ID),
		"local-hostname":         n.PrivateDNSName(i.Region),
		"local-ipv4s":            address(n),
		"mac":                    mac(n),
		"owner-id":               string(i.Account),
		"security-groups":        strings.Join(i.GroupNames, "\n"),
		"security-group-ids":     groupIDs(n.Groups),
		"subnet-id":              string(n.Subnet),
		"subnet-ipv4-cidr-block": n.SubnetCIDR,
		"vpc-id":                 string(n.VPC),
		"vpc-ipv4-cidr-blocks":   strings.Join(n.VPCCIDRs, "\n"),
	} {
		t[base+key] = value
	}
	if len(n.VPCCIDRs) > 0 {
		t[base+"vpc-ipv4-cidr-block"] = n.VPCCIDRs[0]
	}
}

// document is the instance identity document, unsigned.
func document(g guest.Guest) string {
	i := &g.Instance
	raw, err := json.MarshalIndent(map[string]any{
		"accountId":               string(i.Account),
		"architecture":            "x86_64",
		"availabilityZone":        i.Zone,
		"billingProducts":         nil,
		"devpayProductCodes":      nil,
		"marketplaceProductCodes": nil,
		"imageId":                 string(i.Image),
		"instanceId":              string(i.ID),
		"instanceType":            i.Type,
		"kernelId":                nil,
		"pendingTime":             time.UnixMilli(i.LaunchTimeMs).UTC().Format(time.RFC3339),
		"privateIp":               address(&g.Interface),
		"ramdiskId":               nil,
		"region":                  i.Region,
		"version":                 "2017-09-30",
	}, "", "  ")
	if err != nil {
		return "" // strings and nulls always encode
	}
	return string(raw)
}

// get returns what a path holds: a value, or a folder's listing. Folders in a listing end in a slash.
func (t tree) get(path, keyName string) (string, bool) {
	path = strings.Trim(path, "/")
	if value, ok := t[path]; ok {
		return value, true
	}
	if path == "meta-data/public-keys" && t["meta-data/public-keys/0/openssh-key"] != "" {
		return "0=" + keyName, true // the one listing with a form of its own
	}
	prefix := path + "/"
	if path == "" {
		prefix = ""
	}
	children := map[string]bool{}
	for p := range t {
		if rest, ok := strings.CutPrefix(p, prefix); ok {
			child, _, folder := strings.Cut(rest, "/")
			if folder {
				child += "/"
			}
			children[child] = true
		}
	}
	if len(children) == 0 {
		return "", false
	}
	names := make([]string, 0, len(children))
	for c := range children {
		names = append(names, c)
	}
	sort.Strings(names)
	return strings.Join(names, "\n"), true
}

func address(n *host.Interface) string {
	a, err := n.Address()
	if err != nil {
		return ""
	}
	return a.String()
}

func mac(n *host.Interface) string { return net.HardwareAddr(n.MAC[:]).String() }

func groupIDs(groups []ids.SecurityGroup) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(groups), " ", "\n"), "[]")
}
