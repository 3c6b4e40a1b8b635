package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/internal/ids"
	"golang.org/x/sys/unix"
)

// mappings is where every address of the VPCs lives: pages of 256 words in memory shared with the kernel, found by a
// directory. A word is written by one atomic store.
type mappings struct {
	directory  *table[pageKey, pageRef]
	memory     []byte
	words      []uint64
	used       map[uint32]bool // pages
	generation uint32          // of the last page given out

	hosts     *ebpf.Map
	underlays *table[addr4, uint32] // host index by underlay address
}

func openMappings(p *programs) (*mappings, error) {
	directory, err := openTable[pageKey, pageRef](p.Directory, "directory")
	if err != nil {
		return nil, err
	}
	underlays, err := openTable[addr4, uint32](p.Underlays, "underlays")
	if err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(p.Pages.FD(), 0, maxPages*pageEntries*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pages: %w", err)
	}
	m := &mappings{
		directory: directory,
		memory:    memory,
		words:     unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), maxPages*pageEntries),
		used:      map[uint32]bool{},
		hosts:     p.Hosts,
		underlays: underlays,
	}
	for _, ref := range directory.content {
		m.used[ref.Page] = true
		m.generation = max(m.generation, ref.Generation)
	}
	return m, nil
}

func (m *mappings) close() error { return unix.Munmap(m.memory) }

// addHosts gives each underlay address an index. Host ids are translated here, and occur nowhere in the kernel.
func (m *mappings) addHosts(fleet []host.FleetHost) (map[ids.Host]uint32, map[addr4]uint32, error) {
	indexes, wanted := map[ids.Host]uint32{}, map[addr4]uint32{}
	taken := map[uint32]bool{}
	for _, index := range m.underlays.content {
		taken[index] = true
	}
	var errs []error
	next := uint32(1)
	for _, member := range fleet {
		address, err := netip.ParseAddr(member.Underlay)
		if err != nil || !address.Is4() {
			errs = append(errs, fmt.Errorf("add host %s: underlay address %q is not IPv4", member.ID, member.Underlay))
			continue
		}
		index, known := m.underlays.content[address.As4()]
		for !known && taken[next] {
			next++
		}
		if !known {
			index = next
			taken[index] = true
		}
		if index >= maxHosts {
			errs = append(errs, fmt.Errorf("add host %s: more than %d hosts", member.ID, maxHosts-1))
			continue
		}
		indexes[member.ID], wanted[address.As4()] = index, index
		if err := m.hosts.Put(index, addr4(address.As4())); err != nil {
			errs = append(errs, fmt.Errorf("add host %s: %w", member.ID, err))
		}
		errs = append(errs, m.underlays.put(address.As4(), index))
	}
	return indexes, wanted, errors.Join(errs...)
}

// trimHosts forgets hosts that no mapping names any more.
func (m *mappings) trimHosts(wanted map[addr4]uint32) error {
	for address, index := range m.underlays.content {
		if _, keep := wanted[address]; keep {
			continue
		}
		if err := errors.Join(m.underlays.delete(address), m.hosts.Put(index, addr4{})); err != nil {
			return fmt.Errorf("remove host %s: %w", netip.AddrFrom4(address), err)
		}
	}
	return nil
}

// page is the desired content of one page, without generations.
type page [pageEntries]uint64

// desiredPages lays the mappings out. A mapping to a host that is not known is left out, which denies, and reported.
func desiredPages(vpcs []VPCState, hosts map[ids.Host]uint32) (map[pageKey]*page, error) {
	pages := map[pageKey]*page{}
	var errs []error
	for _, vpc := range vpcs {
		for _, mapping := range vpc.Mappings {
			address, err := mapping.Address()
			if err != nil {
				errs = append(errs, fmt.Errorf("map interface %s: %w", mapping.Interface, err))
				continue
			}
			index, known := hosts[mapping.Host]
			if !known {
				errs = append(errs, fmt.Errorf("map interface %s: host %s is not in the fleet", mapping.Interface, mapping.Host))
				continue
			}
			bytes := address.As4()
			number := binary.BigEndian.Uint32(bytes[:])
			key := pageKey{VNI: vpc.VNI, Prefix: number >> 8}
			if pages[key] == nil {
				pages[key] = &page{}
			}
			pages[key][number&0xff] = mappingWord(index, mapping.Identity, 0)
		}
	}
	return pages, errors.Join(errs...)
}

// apply makes the pages those that are desired. A page that is not needed leaves the directory before it is cleared, and
// its next use has another generation, so that a reader between the two finds nothing.
func (m *mappings) apply(desired map[pageKey]*page) error {
	for key, ref := range m.directory.content {
		if desired[key] != nil {
			continue
		}
		if err := m.directory.delete(key); err != nil {
			return err
		}
		m.fill(ref, &page{})
		delete(m.used, ref.Page)
	}
	for key, content := range desired {
		ref, known := m.directory.content[key]
		if !known {
			var err error
			if ref, err = m.take(); err != nil {
				return err
			}
		}
		m.fill(ref, content)
		if err := m.directory.put(key, ref); err != nil {
			return err
		}
	}
	return nil
}

func (m *mappings) take() (pageRef, error) {
	for number := uint32(0); number < maxPages; number++ {
		if m.used[number] {
			continue
		}
		m.used[number] = true
		m.generation = (m.generation + 1) & 0xfffff
		return pageRef{Page: number, Generation: m.generation}, nil
	}
	return pageRef{}, fmt.Errorf("map addresses: all %d pages of this host are in use", maxPages)
}

func (m *mappings) fill(ref pageRef, content *page) {
	base := int(ref.Page) * pageEntries
	for i, word := range content {
		if word != 0 {
			word |= mappingWord(0, 0, ref.Generation)
		}
		if atomic.LoadUint64(&m.words[base+i]) != word {
			atomic.StoreUint64(&m.words[base+i], word)
		}
	}
}
