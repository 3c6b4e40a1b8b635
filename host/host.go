package host

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Power is what an instance's guest is to be doing. Termination is not a power: a terminated instance is absent.
type Power uint8

const (
	PowerRun  Power = 0 // running; a guest that powered itself off stays off until Generation rises
	PowerStop Power = 1 // off: ACPI power button, at most 60 s of patience, then killed
	PowerKill Power = 2 // off at once
)

func (p Power) String() string { return nameOf(p, "run", "stop", "kill") }

// Instance is a guest that this host is to hold. Its key in SectionInstances is its id.
type Instance struct {
	ID      ids.Instance `cbor:"1,keyasint,omitempty"`
	Account ids.Account  `cbor:"2,keyasint,omitempty"`
	// Generation counts starts, from 1. A guest runs with the highest generation it was told, once: a crash or a
	// power-off by the guest ends the generation.
	Generation uint64 `cbor:"3,keyasint,omitempty"`
	Power      Power  `cbor:"4,keyasint,omitempty"`
	// RebootID is the operation id of the last reboot asked for. The host reboots at most once per id and reports it
	// back in InstanceStatus.RebootID; "" asks for nothing.
	RebootID  string `cbor:"5,keyasint,omitempty"`
	Type      string `cbor:"6,keyasint,omitempty"` // instance type name, for the guest's metadata
	VCPUs     int    `cbor:"7,keyasint,omitempty"`
	MemoryMiB int    `cbor:"8,keyasint,omitempty"`
	Zone      string `cbor:"9,keyasint,omitempty"`
	Region    string `cbor:"10,keyasint,omitempty"`

	Image ids.Image `cbor:"11,keyasint,omitempty"`
	// ImageSHA256 is the digest of the image's raw content in 64 lower-case hexadecimal digits; the content is ImageBytes long.
	ImageSHA256 string     `cbor:"12,keyasint,omitempty"`
	ImageBytes  uint64     `cbor:"13,keyasint,omitempty"`
	RootVolume  ids.Volume `cbor:"14,keyasint,omitempty"`
	RootDiskGiB int        `cbor:"15,keyasint,omitempty"` // the size that the guest sees; at least the image's
	// DeleteRootOnTermination removes the disk with the instance. Otherwise the disk is kept under the host's volumes.
	DeleteRootOnTermination bool `cbor:"16,keyasint,omitempty"`

	// Interfaces are the items of SectionInterfaces that this guest needs, in order of device index. The guest is
	// started once all of them have arrived.
	Interfaces []ids.Interface `cbor:"17,keyasint,omitempty"`

	// What the guest's metadata service tells it.
	Reservation            ids.Reservation   `cbor:"18,keyasint,omitempty"`
	LaunchIndex            int               `cbor:"19,keyasint,omitempty"`
	LaunchTimeMs           int64             `cbor:"20,keyasint,omitempty"` // Unix time
	UserData               []byte            `cbor:"21,keyasint,omitempty"` // as the guest reads it, not base64
	KeyName                string            `cbor:"22,keyasint,omitempty"`
	PublicKey              string            `cbor:"23,keyasint,omitempty"` // one authorized_keys line
	MetadataTokensRequired bool              `cbor:"24,keyasint,omitempty"`
	MetadataHopLimit       int               `cbor:"25,keyasint,omitempty"` // 1 to 64; 0 means 1
	MetadataDisabled       bool              `cbor:"26,keyasint,omitempty"`
	GroupNames             []string          `cbor:"27,keyasint,omitempty"`
	Tags                   map[string]string `cbor:"28,keyasint,omitempty"` // only those that metadata may show

	UEFI bool `cbor:"29,keyasint,omitempty"` // the image boots by UEFI; otherwise by BIOS
}

// Validate refuses an instance that a host must not act on. It is the host's own last check: ids become file names.
func (i *Instance) Validate() error {
	_, err := ids.Parse[ids.Instance](string(i.ID))
	errs := []error{err}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(i.Generation > 0, "generation is 0: the first start is generation 1")
	check(i.Power <= PowerKill, "power %d is unknown", i.Power)
	check(i.VCPUs >= 1 && i.VCPUs <= MaxVCPUs, "%d vCPUs: want 1 to %d", i.VCPUs, MaxVCPUs)
	check(i.MemoryMiB >= 16 && i.MemoryMiB <= MaxMemoryMiB, "%d MiB of memory: want 16 to %d", i.MemoryMiB, MaxMemoryMiB)
	check(i.RootDiskGiB >= 1 && i.RootDiskGiB <= MaxRootDiskGiB, "root disk of %d GiB: want 1 to %d", i.RootDiskGiB, MaxRootDiskGiB)
	check(IsDigest(i.ImageSHA256), "image digest %q: want 64 lower-case hexadecimal digits", i.ImageSHA256)
	check(i.ImageBytes > 0 && i.ImageBytes <= uint64(i.RootDiskGiB)<<30, "image of %d bytes does not fit a root disk of %d GiB", i.ImageBytes, i.RootDiskGiB)
	check(len(i.UserData) <= MaxUserDataBytes, "user data of %d bytes: at most %d", len(i.UserData), MaxUserDataBytes)
	check(len(i.Interfaces) <= MaxInterfaces, "%d interfaces: at most %d", len(i.Interfaces), MaxInterfaces)
	for _, id := range i.Interfaces {
		_, err := ids.Parse[ids.Interface](string(id))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("validate instance %s: %w", i.ID, err)
	}
	return nil
}

// IsDigest says whether s is a SHA-256 digest in the form that names files.
func IsDigest(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

// Interface is a guest's network interface on this host. Its key in SectionInterfaces is its id.
type Interface struct {
	ID         ids.Interface `cbor:"1,keyasint,omitempty"`
	Instance   ids.Instance  `cbor:"2,keyasint,omitempty"`
	Account    ids.Account   `cbor:"3,keyasint,omitempty"`
	VPC        ids.VPC       `cbor:"4,keyasint,omitempty"`
	Subnet     ids.Subnet    `cbor:"5,keyasint,omitempty"`
	VNI        uint32        `cbor:"6,keyasint,omitempty"` // 24 bits
	MAC        [6]byte       `cbor:"7,keyasint,omitempty"`
	SubnetCIDR string        `cbor:"8,keyasint,omitempty"`
	// AddressOffset is the address counted from the first of SubnetCIDR. It is taken from the subnet's pool at commit.
	AddressOffset   uint64                  `cbor:"9,keyasint,omitempty"`
	VPCCIDRs        []string                `cbor:"10,keyasint,omitempty"`
	Identity        uint16                  `cbor:"11,keyasint,omitempty"` // interned set of Groups; 0 is nobody and is dropped
	Groups          []ids.SecurityGroup     `cbor:"12,keyasint,omitempty"`
	DeviceIndex     int                     `cbor:"13,keyasint,omitempty"`
	SourceDestCheck bool                    `cbor:"14,keyasint,omitempty"`
	MTU             int                     `cbor:"15,keyasint,omitempty"` // 0: the host's underlay MTU less EncapsulationCost
	Attachment      ids.InterfaceAttachment `cbor:"16,keyasint,omitempty"`
}

// Address is the interface's primary private address, or an error when the subnet and offset make none.
func (i *Interface) Address() (netip.Addr, error) { return addressAt(i.SubnetCIDR, i.AddressOffset) }

// Gateway is the first address after the subnet's base; the host itself answers there.
func (i *Interface) Gateway() (netip.Addr, error) { return addressAt(i.SubnetCIDR, 1) }

// Resolver is the second address after the subnet's base; the host's DNS answers there.
func (i *Interface) Resolver() (netip.Addr, error) { return addressAt(i.SubnetCIDR, 2) }

// PrivateDNSName is the name that the VPC's resolver knows the interface by ("ip-10-0-0-5.REGION.compute.internal").
// It is "" when the interface has no valid address.
func (i *Interface) PrivateDNSName(region string) string {
	address, err := i.Address()
	if err != nil {
		return ""
	}
	return PrivateDNSName(address, region)
}

// PrivateDNSName is the name of an address inside a VPC of the region.
func PrivateDNSName(address netip.Addr, region string) string {
	return "ip-" + strings.ReplaceAll(address.String(), ".", "-") + "." + region + ".compute.internal"
}

// Validate refuses an interface that a host must not open a port for.
func (i *Interface) Validate() error {
	_, idErr := ids.Parse[ids.Interface](string(i.ID))
	_, instanceErr := ids.Parse[ids.Instance](string(i.Instance))
	_, addressErr := i.Address()
	errs := []error{idErr, instanceErr, addressErr}
	if i.VNI == 0 || i.VNI >= 1<<24 {
		errs = append(errs, fmt.Errorf("VNI %d: want 1 to %d", i.VNI, 1<<24-1))
	}
	if i.MAC == [6]byte{} || i.MAC[0]&1 != 0 {
		errs = append(errs, fmt.Errorf("MAC %x is no unicast address", i.MAC))
	}
	if len(i.Groups) > MaxGroups || len(i.VPCCIDRs) > MaxVPCCIDRs {
		errs = append(errs, fmt.Errorf("%d groups and %d VPC blocks: at most %d and %d", len(i.Groups), len(i.VPCCIDRs), MaxGroups, MaxVPCCIDRs))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("validate interface %s: %w", i.ID, err)
	}
	return nil
}

// addressAt is the offset-th address of an IPv4 block. Offsets beyond the block are an error, never a neighbour's address.
func addressAt(cidr string, offset uint64) (netip.Addr, error) {
	block, err := netip.ParsePrefix(cidr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("parse subnet block: %w", err)
	}
	if !block.Addr().Is4() {
		return netip.Addr{}, fmt.Errorf("subnet block %s is not IPv4", cidr)
	}
	if offset >= 1<<(32-block.Bits()) {
		return netip.Addr{}, fmt.Errorf("address offset %d is outside %s", offset, cidr)
	}
	base := block.Masked().Addr().As4()
	sum := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	sum += uint32(offset)
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}), nil
}

// nameOf is the name of a small enumeration's value.
func nameOf[T ~uint8](value T, names ...string) string {
	if int(value) < len(names) {
		return names[value]
	}
	return fmt.Sprintf("unknown(%d)", uint8(value))
}
