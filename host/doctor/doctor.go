// Package doctor probes a machine for what a server and a host need, and names the fix for each thing that is missing.
//
// Invariants: a probe changes nothing and leaves nothing behind; each finding that is not well names what is used instead
// or what to do; a probe that cannot be made says so and is no good news.
//
// Deliberately absent: repairs, and anything that asks a running cloud.
//
// Start at Examine.
package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// Verdict is how one thing stands.
type Verdict string

const (
	OK       Verdict = "ok"
	Fallback Verdict = "fallback" // something else is used instead; Instead says what that costs
	Missing  Verdict = "missing"  // what was asked about cannot work
)

// Finding is one thing that was looked at.
type Finding struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Instead string  `json:"instead,omitempty"` // with Fallback
	Fix     string  `json:"fix,omitempty"`     // unless OK
}

// Options say what the machine is to be.
type Options struct {
	StateDir string // whose disk is measured; it need not exist yet
	Fake     bool   // hosts with simulated guests only: no hypervisor, no network
	Port     int    // of the EC2 API on loopback; the host link and metrics have the next two
	// Serving says that a cloud of this state directory answers, so that its ports are its own.
	Serving bool
	// Convert runs a server's own converter of images, confined as it is in earnest.
	Convert func(context.Context) error
}

// probe looks at one thing.
type probe struct {
	name string
	real bool // only real guests need it
	look func(context.Context, Options) Finding
}

// Examine makes every probe, in a fixed order. It takes some seconds: a guest is booted to prove the accelerator.
func Examine(ctx context.Context, o Options) []Finding {
	var found []Finding
	for _, p := range probes {
		if p.real && o.Fake {
			continue
		}
		f := p.look(ctx, o)
		f.Name = p.name
		found = append(found, f)
	}
	return found
}

// Works says whether nothing is missing.
func Works(found []Finding) bool {
	for _, f := range found {
		if f.Verdict == Missing {
			return false
		}
	}
	return true
}

// probes are the same on every system; what is no Linux has the first two findings and simulated guests.
var probes = []probe{
	{"system", false, system},
	{"root", true, root},
	{"kernel", true, kernel},
	{"btf", true, kernelTypes},
	{"ebpf programs", true, programTypes},
	{"tap devices", true, tapDevice},
	{"vxlan", true, vxlan},
	{"qemu", true, program("qemu-system-x86_64", "qemu-system-x86", Missing, "")},
	{"qemu-img", true, program("qemu-img", "qemu-utils", Missing, "")},
	{"accelerator", true, accelerator},
	{"bios firmware", true, firmware("seabios", Missing, "", "/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin")},
	{"uefi firmware", true, firmware("ovmf", Fallback, "guests boot by BIOS only", "/usr/share/OVMF/OVMF_CODE_4M.fd")},
	{"cgroups", true, cgroups},
	{"image conversion", false, conversion},
	{"open files", false, openFiles},
	{"memory", true, memory},
	{"disk space", false, diskSpace},
	{"disk sync", false, diskSync},
	{"clock", false, clock},
	{"ports", false, ports},
	{"aws cli", false, awsCLI},
}

func ok(format string, args ...any) Finding {
	return Finding{Verdict: OK, Found: fmt.Sprintf(format, args...)}
}

// missing is a finding without which nothing works; fix says what to do.
func missing(found, fix string) Finding {
	return Finding{Verdict: Missing, Found: oneLine(found), Fix: fix}
}

// fallback is a finding that something stands in for.
func fallback(found, instead, fix string) Finding {
	return Finding{Verdict: Fallback, Found: oneLine(found), Instead: instead, Fix: fix}
}

// oneLine keeps a table a table.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const limit = 200
	return strings.ToValidUTF8(s[:min(len(s), limit)], "")
}

// existing is the nearest directory above path that is there.
func existing(path string, isDir func(string) bool) string {
	for path = filepath.Clean(path); !isDir(path); path = filepath.Dir(path) {
		if path == filepath.Dir(path) {
			break
		}
	}
	return path
}
