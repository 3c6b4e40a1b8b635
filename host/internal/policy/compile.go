package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
)

// Bounds of one rule set. A host's maps hold many; these keep a single tenant from filling them.
const (
	MaxEntries = 1 << 16
	MaxRanges  = 2048 // distinct port ranges of a protocol
)

// Kind says how an Entry's fields are read.
type Kind uint8

const (
	KindBlock   Kind = 1 // Peer is a class of address block, else an identity
	KindAnyPort Kind = 2 // Class is 0 and means nothing
	KindAny     Kind = 4 // so is Protocol
)

// Entry allows a peer, a protocol and a class of ports.
type Entry struct {
	Peer     uint16
	Class    uint16
	Kind     Kind
	Protocol uint8
}

// PortPrefix gives the ports that share the leading Bits of Port a class.
type PortPrefix struct {
	Protocol uint8
	Port     uint16
	Bits     int // 0 to 16
}

// RuleSet is what one set of rules compiles to. The longest prefix wins in Ports and Blocks; a port without a prefix is
// of class 0.
type RuleSet struct {
	Digest  [16]byte // of the VPC, direction and rules; identities come and go without a new one
	Entries map[Entry]struct{}
	Ports   map[PortPrefix]uint16
	Blocks  map[netip.Prefix]uint16
}

// Compile makes the tables for the rules of groups in one direction. identities are those of the VPC that vni names.
// The error wraps ErrTooComplex, or says which rule is wrong.
func Compile(vni uint32, direction Direction, groups []host.Group, identities []host.Identity) (*RuleSet, error) {
	rules, err := normalizeAll(groups, direction)
	if err != nil {
		return nil, err
	}
	set := &RuleSet{
		Digest:  digest(vni, direction, rules),
		Entries: map[Entry]struct{}{},
		Ports:   map[PortPrefix]uint16{},
		Blocks:  map[netip.Prefix]uint16{},
	}
	classes, err := set.classifyPorts(rules)
	if err != nil {
		return nil, err
	}
	set.admitIdentities(rules, classes, identities)
	set.admitBlocks(rules, classes)
	if len(set.Entries) > MaxEntries {
		return nil, fmt.Errorf("%w: %d entries, at most %d; use fewer overlapping port ranges", ErrTooComplex, len(set.Entries), MaxEntries)
	}
	return set, nil
}

func digest(vni uint32, direction Direction, rules []rule) [16]byte {
	var text strings.Builder
	fmt.Fprintf(&text, "%d %s\n", vni, direction)
	for _, r := range rules {
		text.WriteString(r.text() + "\n")
	}
	sum := sha256.Sum256([]byte(text.String()))
	return [16]byte(sum[:16])
}

// span is a range of ports of one protocol.
type span struct {
	protocol  uint8
	low, high uint16
}

// classifyPorts cuts each protocol's ports where some rule's range begins or ends, and numbers the pieces by what covers
// them. It returns the classes that each range consists of.
func (s *RuleSet) classifyPorts(rules []rule) (map[span][]uint16, error) {
	classes := map[span][]uint16{}
	ranges := map[uint8][]span{}
	for _, r := range rules {
		one := span{r.protocol, r.low, r.high}
		if r.any || r.everyPort() || slices.Contains(ranges[r.protocol], one) {
			continue
		}
		ranges[r.protocol] = append(ranges[r.protocol], one)
	}
	for protocol, list := range ranges {
		if len(list) > MaxRanges {
			return nil, fmt.Errorf("%w: %d port ranges of protocol %d, at most %d", ErrTooComplex, len(list), protocol, MaxRanges)
		}
		s.cut(protocol, list, classes)
	}
	return classes, nil
}

func (s *RuleSet) cut(protocol uint8, list []span, classes map[span][]uint16) {
	edges := []int{}
	for _, r := range list {
		edges = append(edges, int(r.low), int(r.high)+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	numbers := map[string]uint16{}
	for i := 0; i+1 < len(edges); i++ {
		low, high := edges[i], edges[i+1]-1
		var cover []span
		var name strings.Builder
		for n, r := range list {
			if int(r.low) <= low && high <= int(r.high) {
				cover = append(cover, r)
				fmt.Fprintf(&name, "%d,", n)
			}
		}
		if len(cover) == 0 {
			continue
		}
		class, known := numbers[name.String()]
		if !known {
			class = uint16(len(numbers) + 1)
			numbers[name.String()] = class
			for _, r := range cover {
				classes[r] = append(classes[r], class)
			}
		}
		for _, prefix := range prefixes(low, high) {
			prefix.Protocol = protocol
			s.Ports[prefix] = class
		}
	}
}

// prefixes covers the ports low to high, both included, with the fewest prefixes.
func prefixes(low, high int) []PortPrefix {
	var out []PortPrefix
	for low <= high {
		size := 16
		if low != 0 {
			size = bits.TrailingZeros16(uint16(low))
		}
		for low+1<<size-1 > high {
			size--
		}
		out = append(out, PortPrefix{Port: uint16(low), Bits: 16 - size})
		low += 1 << size
	}
	return out
}

// admit adds the entries by which a rule lets a peer in.
func (s *RuleSet) admit(r rule, peer uint16, kind Kind, classes map[span][]uint16) {
	switch {
	case r.any:
		s.Entries[Entry{Peer: peer, Kind: kind | KindAnyPort | KindAny}] = struct{}{}
	case r.everyPort():
		s.Entries[Entry{Peer: peer, Kind: kind | KindAnyPort, Protocol: r.protocol}] = struct{}{}
	default:
		for _, class := range classes[span{r.protocol, r.low, r.high}] {
			s.Entries[Entry{Peer: peer, Class: class, Kind: kind, Protocol: r.protocol}] = struct{}{}
		}
	}
}

func (s *RuleSet) admitIdentities(rules []rule, classes map[span][]uint16, identities []host.Identity) {
	byGroup := map[ids.SecurityGroup][]rule{}
	for _, r := range rules {
		if r.group != "" {
			byGroup[r.group] = append(byGroup[r.group], r)
		}
	}
	for _, identity := range identities {
		if identity.Number == 0 {
			continue
		}
		for _, group := range identity.Groups {
			for _, r := range byGroup[group] {
				s.admit(r, identity.Number, 0, classes)
			}
		}
	}
}

// admitBlocks gives each block a class, which allows what the rules of the block and of all blocks around it allow: the
// look-up finds the innermost block only.
func (s *RuleSet) admitBlocks(rules []rule, classes map[span][]uint16) {
	byBlock := map[netip.Prefix][]rule{}
	for _, r := range rules {
		if r.group == "" {
			byBlock[r.block] = append(byBlock[r.block], r)
		}
	}
	blocks := []netip.Prefix{}
	for block := range byBlock {
		blocks = append(blocks, block)
	}
	slices.SortFunc(blocks, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for i, block := range blocks {
		class := uint16(i + 1)
		s.Blocks[block] = class
		for around := block.Bits(); around >= 0; around-- {
			for _, r := range byBlock[netip.PrefixFrom(block.Addr(), around).Masked()] {
				s.admit(r, class, KindBlock, classes)
			}
		}
	}
}

// Allows looks a packet up as the data path does.
func (s *RuleSet) Allows(peer Peer, protocol uint8, port uint16) bool {
	class := s.portClass(protocol, port)
	if peer.Identity != 0 && s.probe(peer.Identity, 0, class, protocol) {
		return true
	}
	for length := 32; length >= 0; length-- {
		if block, found := s.Blocks[netip.PrefixFrom(peer.Address, length).Masked()]; found {
			return s.probe(block, KindBlock, class, protocol)
		}
	}
	return false
}

func (s *RuleSet) probe(peer uint16, kind Kind, class uint16, protocol uint8) bool {
	for _, entry := range []Entry{
		{peer, class, kind, protocol},
		{peer, 0, kind | KindAnyPort, protocol},
		{peer, 0, kind | KindAnyPort | KindAny, 0},
	} {
		if _, found := s.Entries[entry]; found {
			return true
		}
	}
	return false
}

func (s *RuleSet) portClass(protocol uint8, port uint16) uint16 {
	for length := 16; length >= 0; length-- {
		prefix := PortPrefix{protocol, port &^ uint16(1<<(16-length)-1), length}
		if class, found := s.Ports[prefix]; found {
			return class
		}
	}
	return 0
}
