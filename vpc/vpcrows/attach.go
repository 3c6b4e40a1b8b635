package vpcrows

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/account/accountrows"
	"github.com/nimbrel/nimbrel/account/tagrows"
	"github.com/nimbrel/nimbrel/dispatch/dispatchrows"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
	"github.com/nimbrel/nimbrel/vpc"
)

// AttachRequest says what to attach where.
type AttachRequest struct {
	Prepared   vpc.Prepared
	Interface  ids.Interface
	Attachment ids.InterfaceAttachment
	Instance   ids.Instance
	// Host is the label of the host that the transaction chose: its id.
	Host store.Slot
	// Address is the one wanted; the zero value takes any free one.
	Address             netip.Addr
	DeviceIndex         int
	DeleteOnTermination bool
	Description         string
	Created             time.Time
	Tags                map[string]string
}

// Attached is where a new interface's address will be found after the commit.
type Attached struct {
	cidr  netip.Prefix
	exact netip.Addr
	taken store.Slot
}

// Address returns the interface's address.
func (a Attached) Address(r *store.Result) netip.Addr {
	if a.exact.IsValid() {
		return a.exact
	}
	return AddressAt(a.cidr, r.Element(a.taken))
}

// AddressAt returns the address at an offset of a range.
func AddressAt(cidr netip.Prefix, offset uint64) netip.Addr {
	n := uint32(firstAddress(cidr) + offset)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// MAC is the Ethernet address of an interface: locally administered, and drawn from the id, whose digits are random.
func MAC(id ids.Interface) vpc.MAC {
	_, digits, _ := strings.Cut(string(id), "-")
	raw, err := hex.DecodeString((digits + "0000000000")[:10])
	if err != nil {
		raw = make([]byte, 5) // no id of ids.New
	}
	return vpc.MAC{0x02, raw[0], raw[1], raw[2], raw[3], raw[4]}
}

// ExpectPrepared guards that what Prepare found still exists. Call it once in a transaction, outside of its groups,
// before Attach. *vpc.NotFoundError for the subnet; vpc.ErrStale if Prepare has to be called again.
func ExpectPrepared(tx *store.Tx, p vpc.Prepared) {
	missing := &vpc.NotFoundError{Kind: vpc.KindSubnet, ID: string(p.Subnet.ID)}
	tx.Expect(subnetKey(p.Subnet.Account, p.Subnet.ID), store.Exists(), store.Else(missing))
	// By the set, not by the number, which may stand for another set by now.
	known := key(familyIdentityOf, p.Identity.VPC, set(p.Identity.Groups))
	tx.Expect(known, store.IntEquals(int64(p.Identity.Number)), store.Else(vpc.ErrStale))
}

// Attach makes an interface: it takes its address, counts its identity, charges the quota, and tells its host and the
// VPC's other hosts. It reads nothing, has five guards, and may be called inside a group. The transaction fails with
// *vpc.NoAddressError, *vpc.AddressInUseError or *account.QuotaError; *vpc.AddressError is returned at once.
func Attach(tx *store.Tx, r AttachRequest) (Attached, error) {
	subnet := r.Prepared.Subnet
	out := Attached{cidr: subnet.CIDR, exact: r.Address}
	accountrows.Charge(tx, subnet.Account, account.QuotaInterfaces, 1)
	tx.Add(identityUseKey(subnet.VPC, r.Prepared.Identity.Number), 1, 1, math.MaxInt64)
	i := newInterface(r)
	var offset []store.Slot
	if r.Address.IsValid() {
		var err error
		if i.Offset, err = offsetOf(subnet, r.Address); err != nil {
			return out, err
		}
		tx.TakeExact(pool(subnet.ID), i.Offset, store.Else(&vpc.AddressInUseError{Subnet: subnet.ID, Address: r.Address}))
	} else {
		out.taken = tx.Take(pool(subnet.ID), store.Else(&vpc.NoAddressError{Subnet: subnet.ID}))
		offset = append(offset, out.taken)
	}
	tx.Put(interfaceKey(i.Account, i.ID), row.Encode(i, append(bind(interfaceRowOffset, offset), row.Bind(interfaceRowHost, r.Host))...))
	tagrows.Insert(tx, i.Account, i.ID, r.Tags)
	tell(tx, &i, r.Host, offset)
	return out, nil
}

func newInterface(r AttachRequest) interfaceRow {
	v, s := r.Prepared.VPC, r.Prepared.Subnet
	return interfaceRow{
		ID: r.Interface, Account: s.Account, VPC: s.VPC, VNI: v.VNI, VPCCIDR: v.CIDR.String(), Subnet: s.ID,
		SubnetCIDR: s.CIDR.String(), Zone: s.Zone, MAC: MAC(r.Interface), Groups: r.Prepared.Identity.Groups,
		Identity: r.Prepared.Identity.Number, State: vpc.InterfaceInUse, Instance: r.Instance, Attachment: r.Attachment,
		DeviceIndex: r.DeviceIndex, DeleteOnTermination: r.DeleteOnTermination, SourceDestCheck: true,
		Description: r.Description, CreatedMs: r.Created.UnixMilli(),
	}
}

// CheckAddress says why an interface of a subnet cannot have an address, as Attach would; an invalid one stands for any.
func CheckAddress(s vpc.Subnet, address netip.Addr) error {
	if !address.IsValid() {
		return nil
	}
	_, err := offsetOf(s, address)
	return err
}

// offsetOf returns where in the subnet an address lies; *vpc.AddressError if no interface can have it.
func offsetOf(s vpc.Subnet, address netip.Addr) (uint64, error) {
	refuse := func(reason string) error {
		return &vpc.AddressError{Subnet: s.ID, Address: address, Reason: reason}
	}
	if !s.CIDR.Contains(address) {
		return 0, refuse("it is not within " + s.CIDR.String())
	}
	offset := firstAddress(netip.PrefixFrom(address, 32)) - firstAddress(s.CIDR)
	if offset < vpc.ReservedPerSubnet-1 || offset == addresses(s.CIDR)-1 {
		return 0, refuse("it is reserved")
	}
	return offset, nil
}

// bind binds a field to the slot, if there is one.
func bind(field int, slot []store.Slot) []row.Field {
	if len(slot) == 0 {
		return nil
	}
	return []row.Field{row.Bind(field, slot[0])}
}

// tell puts the interface into the document of the host that label becomes, and its mapping into the VPC's. offset is
// the slot of the address, unless the row has it.
func tell(tx *store.Tx, i *interfaceRow, label store.Slot, offset []store.Slot) {
	mapping := row.Encode(i.mapping(), append(bind(mappingOffset, offset), row.Bind(mappingHost, label))...)
	dispatchrows.Put(tx, document(i.VPC), host.SectionMappings, string(i.ID), mapping)
	item := row.Encode(i.hostInterface(), bind(hostInterfaceOffset, offset)...)
	needs := dispatchrows.Topics(host.DocVPC(i.VPC), host.DocFleet)
	dispatchrows.Put(tx, dispatchrows.ForLabel(host.DocHostPrefix(), label), host.SectionInterfaces, string(i.ID), item, needs)
}

func getInterface(ctx context.Context, r store.Reader, a ids.Account, id ids.Interface) (interfaceRow, bool, error) {
	v, found, err := r.Get(ctx, interfaceKey(a, id).Base)
	if err != nil || !found {
		return interfaceRow{}, false, err
	}
	i, err := decode[interfaceRow](v)
	return i, err == nil, err
}

// Move makes the host that label becomes the interface's, with the same address. The caller knows that the old host no
// longer runs the instance, or has fenced it. *vpc.NotFoundError, also for one that is releasing.
func Move(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Interface, label store.Slot) error {
	i, found, err := getInterface(ctx, tx, a, id)
	if err != nil {
		return err
	}
	if !found || i.State != vpc.InterfaceInUse {
		return &vpc.NotFoundError{Kind: vpc.KindInterface, ID: string(id)}
	}
	dispatchrows.Delete(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInterfaces, string(id))
	tell(tx, &i, label, nil)
	return rewrite(ctx, tx, interfaceKey(a, id), i, row.Bind(interfaceRowHost, label))
}

// Detach takes an interface from its host and from the VPC's mappings and returns the quota. Its address stays taken, in
// state releasing, until Release. Detaching what is releasing or gone does nothing.
func Detach(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Interface) error {
	i, found, err := getInterface(ctx, tx, a, id)
	if err != nil || !found || i.State != vpc.InterfaceInUse {
		return err
	}
	i.State = vpc.InterfaceReleasing
	seq := dispatchrows.Delete(tx, dispatchrows.Named(host.DocHost(i.Host)), host.SectionInterfaces, string(id))
	dispatchrows.Delete(tx, document(i.VPC), host.SectionMappings, string(id))
	accountrows.Refund(tx, a, account.QuotaInterfaces, 1)
	return rewrite(ctx, tx, interfaceKey(a, id), i, row.Bind(interfaceRowReleaseSeq, seq))
}

// Release removes a detached interface and returns its address and identity. Call it when the host has applied its
// interfaces section up to the interface's ReleaseSeq, or is fenced. Releasing what is gone does nothing.
func Release(ctx context.Context, tx *store.Tx, a ids.Account, id ids.Interface) error {
	i, found, err := getInterface(ctx, tx, a, id)
	if err != nil || !found {
		return err
	}
	if i.State != vpc.InterfaceReleasing {
		return fmt.Errorf("release interface %s: it is %s, not releasing", id, i.State)
	}
	tx.Give(pool(i.Subnet), i.Offset)
	tx.Add(identityUseKey(i.VPC, i.Identity), -1, 0, math.MaxInt64)
	tx.Delete(interfaceKey(a, id))
	tagrows.Delete(tx, a, id)
	return nil
}

// GetInterface reads an account's interface; *vpc.NotFoundError.
func GetInterface(ctx context.Context, r store.Reader, a ids.Account, id ids.Interface) (Interface, error) {
	v, found, err := r.Get(ctx, interfaceKey(a, id).Base)
	if err != nil {
		return Interface{}, err
	}
	if !found {
		return Interface{}, &vpc.NotFoundError{Kind: vpc.KindInterface, ID: string(id)}
	}
	return DecodeInterface(v)
}
