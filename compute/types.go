package compute

// InstanceType is a size. Memory is what the guest gets; the host pays GuestOverheadMiB more.
type InstanceType struct {
	Name      string
	VCPUs     int
	Cores     int // VCPUs = Cores × ThreadsPerCore
	MemoryMiB int
	Burstable bool
	Free      bool // FreeTierEligible as EC2 shows it
	// MaxInterfaces and AddressesPerInterface are EC2's figures, shown in DescribeInstanceTypes; one interface is supported.
	MaxInterfaces         int
	AddressesPerInterface int
}

// ThreadsPerCore is 2 where the vCPU count is even, as EC2 reports.
func (t InstanceType) ThreadsPerCore() int { return t.VCPUs / t.Cores }

// typeTable holds AWS's true sizes for t3 and m5, and nb1.tiny for small machines. Append only.
var typeTable = []InstanceType{
	{"nb1.tiny", 1, 1, 128, false, false, 2, 2},
	{"t3.nano", 2, 1, 512, true, false, 2, 2},
	{"t3.micro", 2, 1, 1024, true, true, 2, 2},
	{"t3.small", 2, 1, 2048, true, false, 3, 4},
	{"t3.medium", 2, 1, 4096, true, false, 3, 6},
	{"t3.large", 2, 1, 8192, true, false, 3, 12},
	{"t3.xlarge", 4, 2, 16384, true, false, 4, 15},
	{"t3.2xlarge", 8, 4, 32768, true, false, 4, 15},
	{"m5.large", 2, 1, 8192, false, false, 3, 10},
	{"m5.xlarge", 4, 2, 16384, false, false, 4, 15},
	{"m5.2xlarge", 8, 4, 32768, false, false, 4, 15},
	{"m5.4xlarge", 16, 8, 65536, false, false, 8, 30},
	{"m5.8xlarge", 32, 16, 131072, false, false, 8, 30},
	{"m5.12xlarge", 48, 24, 196608, false, false, 8, 30},
	{"m5.16xlarge", 64, 32, 262144, false, false, 15, 50},
	{"m5.24xlarge", 96, 48, 393216, false, false, 15, 50},
}

// Types lists every instance type, smallest family first. The slice is the caller's.
func Types() []InstanceType { return append([]InstanceType(nil), typeTable...) }

// TypeNamed returns the type called name.
func TypeNamed(name string) (InstanceType, bool) {
	for _, t := range typeTable {
		if t.Name == name {
			return t, true
		}
	}
	return InstanceType{}, false
}
