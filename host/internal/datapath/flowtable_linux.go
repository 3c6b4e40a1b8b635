package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// The tables that agents of before this layout shared between all ports, by their pins.
const (
	sharedFlows     = "flows"
	sharedHalfOpen  = "half_open"
	sharedFragments = "fragments"
)

// portTables are the maps that hold a table for each port, by the names of the object.
func (p *programs) portTables() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{"port_flows": p.Flows, "port_half_open": p.HalfOpen, "port_fragments": p.Fragments}
}

// giveTables makes the tables of a port that has none. What another port does cannot fill them.
func (p *programs) giveTables(slot uint32) error {
	var group errgroup.Group // each entry waits until no program runs that could see the old one: together they wait once
	for name, outer := range p.portTables() {
		group.Go(func() error {
			if there, err := tableAt(outer, slot); err != nil || there != nil {
				return errors.Join(err, there.Close())
			}
			table, err := ebpf.NewMap(p.tables[name])
			if err != nil {
				return fmt.Errorf("make table %s of port %d: %w", name, slot, err)
			}
			defer table.Close()
			if err := outer.Put(slot, table); err != nil {
				return fmt.Errorf("write table %s of port %d: %w", name, slot, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// dropTables ends a port's tables, and returns only when no program runs that could still see them or the port.
func (p *programs) dropTables(slot uint32) error {
	var group errgroup.Group
	for name, outer := range p.portTables() {
		group.Go(func() error {
			if err := outer.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete table %s of port %d: %w", name, slot, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// tableAt is a port's table, or nil.
func tableAt(outer *ebpf.Map, slot uint32) (*ebpf.Map, error) {
	var table *ebpf.Map
	if err := outer.Lookup(slot, &table); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read table of port %d: %w", slot, err)
	}
	return table, nil
}

// openFlows gives tables to the ports that an agent left which had none, before a program needs them, with the flows from
// the tables that such an agent shared between all.
func (d *Datapath) openFlows() error {
	for slot := uint32(1); slot < maxPorts; slot++ {
		var record portRecord
		if err := d.programs.Ports.Lookup(slot, &record); err != nil {
			return fmt.Errorf("read port %d: %w", slot, err)
		}
		if record.Ifindex == 0 {
			continue
		}
		if err := d.programs.giveTables(slot); err != nil {
			return err
		}
	}
	return d.inheritFlows()
}

// inheritFlows copies flows from the shared tables, and changes none that is known already.
func (d *Datapath) inheritFlows() error {
	for pin, outer := range map[string]*ebpf.Map{sharedFlows: d.programs.Flows, sharedHalfOpen: d.programs.HalfOpen} {
		shared, err := ebpf.LoadPinnedMap(filepath.Join(d.pins, pin), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(copyFlows(shared, outer), shared.Close())
		}
		if err != nil {
			return fmt.Errorf("take over table %s: %w", pin, err)
		}
	}
	return nil
}

func copyFlows(shared, outer *ebpf.Map) error {
	tables := map[uint32]*ebpf.Map{}
	defer func() {
		for _, table := range tables {
			table.Close()
		}
	}()
	var key flowKey
	var value flowRecord
	entries := shared.Iterate()
	for entries.Next(&key, &value) {
		slot := uint32(key.Slot)
		if _, looked := tables[slot]; !looked {
			table, err := tableAt(outer, slot)
			if err != nil {
				return err
			}
			tables[slot] = table
		}
		if tables[slot] == nil { // of a port that was closed
			continue
		}
		if err := tables[slot].Update(key, value, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return err
		}
	}
	// A table that is written meanwhile may end an iteration early: what is missed is judged anew.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// dropSharedTables ends the shared tables, once every hook has a program that does not use them.
func (d *Datapath) dropSharedTables() error {
	if err := d.inheritFlows(); err != nil { // what began since openFlows
		return err
	}
	return errors.Join(d.unpin(sharedFlows), d.unpin(sharedHalfOpen), d.unpin(sharedFragments))
}
