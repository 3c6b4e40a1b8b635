package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

// probe is one thing that a host should have: what is there, and what happens without it.
type probe struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Found    string `json:"found"`
	Fallback string `json:"fallback,omitempty"` // what is used instead; "" and not OK means real guests cannot run
	Fix      string `json:"fix,omitempty"`
}

func (c *client) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this machine has for hosts, what is missing, and what is used instead", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			probes := examine()
			rows := make([][]string, len(probes))
			for i, p := range probes {
				rows[i] = []string{p.Name, "ok", p.Found, "", ""}
				if !p.OK {
					rows[i] = []string{p.Name, p.verdict(), p.Found, p.Fallback, p.Fix}
				}
			}
			return c.table(probes, "WHAT VERDICT FOUND INSTEAD FIX", rows)
		},
	}
}

// verdict of a thing that is not there.
func (p probe) verdict() string {
	if p.Fallback == "" {
		return "missing"
	}
	return "fallback"
}

func examine() []probe {
	return []probe{
		{"linux", runtime.GOOS == "linux", runtime.GOOS + "/" + runtime.GOARCH, "fake hosts", "run hosts on Linux"},
		{"root", os.Geteuid() == 0, fmt.Sprintf("uid %d", os.Geteuid()), "fake hosts", "run with sudo"},
		program("qemu-system-x86_64", "", "apt-get install qemu-system-x86"),
		program("qemu-img", "", "apt-get install qemu-utils"),
		file("tap devices", "/dev/net/tun", "", "modprobe tun"),
		kernelAtLeast(6, 1, "", "use Debian 12's kernel or newer"),
		kernelAtLeast(6, 6, "classic tc hooks", "a kernel of 6.6 or newer has TCX"),
		kvm(),
		file("unified cgroups", "/sys/fs/cgroup/cgroup.controllers", "cgroup v1, or no limits beyond QEMU's own", "boot with systemd.unified_cgroup_hierarchy=1"),
	}
}

func program(name, fallback, fix string) probe {
	path, err := exec.LookPath(name)
	return probe{name, err == nil, path, fallback, fix}
}

func file(name, path, fallback, fix string) probe {
	if _, err := os.Stat(path); err != nil {
		return probe{name, false, "no " + path, fallback, fix}
	}
	return probe{name, true, path, fallback, fix}
}

// kvm says only that the device is there: hosts decide by a self-test guest, since a device that opens proves nothing.
func kvm() probe {
	const emulation = "emulation (TCG): slow, and for trusted guests only"
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		fix := "enable virtualization in the firmware, or nested virtualization"
		if errors.Is(err, os.ErrPermission) {
			fix = "run with sudo"
		}
		return probe{"kvm", false, err.Error(), emulation, fix}
	}
	_ = f.Close()
	return probe{"kvm", true, "/dev/kvm opens; the agent proves it with a test guest, else uses " + emulation, "", ""}
}

func kernelAtLeast(major, minor int, fallback, fix string) probe {
	raw, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release := strings.TrimSpace(string(raw))
	var haveMajor, haveMinor int
	_, err := fmt.Sscanf(release, "%d.%d", &haveMajor, &haveMinor)
	enough := err == nil && (haveMajor > major || haveMajor == major && haveMinor >= minor)
	return probe{fmt.Sprintf("kernel %d.%d", major, minor), enough, release, fallback, fix}
}
