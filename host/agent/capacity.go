package agent

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

const (
	// reserveMiB is kept for the machine itself.
	reserveMiB = 2048
	// emulatedPerCPU: an emulated guest idles most of its time on the machines where emulation is used, laptops and CI.
	emulatedPerCPU = 4
	// Simulated hosts offer a round size when nothing else is said.
	simulatedVCPUs, simulatedMiB, simulatedGiB = 64, 256 << 10, 4096
)

// measure says what this host offers. What the operator set wins over what was found.
func measure(o Options, found vm.Capabilities) host.Info {
	info := host.Info{
		ID: o.ID, Name: o.Name, Zone: o.Zone, Accelerator: found.Accelerator, Simulated: found.Simulated,
		AgentVersion: o.Version, Kernel: readLine("/proc/sys/kernel/osrelease"), BootID: vm.BootID(),
	}
	if o.DataPath != nil {
		info.Underlay = o.DataPath.UnderlayAddress.String()
	}
	if found.Simulated {
		info.VCPUs, info.MemoryMiB, info.DiskGiB = simulatedVCPUs, simulatedMiB, simulatedGiB
	} else {
		info.VCPUs, info.MemoryMiB, info.DiskGiB = runtime.NumCPU(), max(0, availableMiB()-reserveMiB), freeGiB(o.StateDir)
		if found.Accelerator == "tcg" {
			info.VCPUs *= emulatedPerCPU
		}
	}
	override := func(value *int, set int) {
		if set > 0 {
			*value = set
		}
	}
	override(&info.VCPUs, o.VCPUs)
	override(&info.MemoryMiB, o.MemoryMiB)
	override(&info.DiskGiB, o.DiskGiB)
	return info
}

func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// availableMiB is what the kernel believes it can give without swapping; 0 when it does not tell.
func availableMiB() int {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib >> 10
		}
	}
	return 0
}
