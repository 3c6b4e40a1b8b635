package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// table is a kernel map of which this process knows the content, being its only writer.
type table[K, V comparable] struct {
	kernel  *ebpf.Map
	name    string
	content map[K]V
}

// openTable reads what an earlier agent left.
func openTable[K, V comparable](kernel *ebpf.Map, name string) (*table[K, V], error) {
	t := &table[K, V]{kernel: kernel, name: name, content: map[K]V{}}
	var key K
	var value V
	entries := kernel.Iterate()
	for entries.Next(&key, &value) {
		t.content[key] = value
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read table %s: %w", name, err)
	}
	return t, nil
}

func (t *table[K, V]) put(key K, value V) error {
	if old, found := t.content[key]; found && old == value {
		return nil
	}
	if err := t.kernel.Put(key, value); err != nil {
		return fmt.Errorf("write table %s: %w", t.name, err)
	}
	t.content[key] = value
	return nil
}

func (t *table[K, V]) delete(key K) error {
	if _, found := t.content[key]; !found {
		return nil
	}
	if err := t.kernel.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from table %s: %w", t.name, err)
	}
	delete(t.content, key)
	return nil
}

// add puts what is missing or different, and trim deletes what is not desired. Between the two a caller moves readers
// from the old entries to the new.
func (t *table[K, V]) add(desired map[K]V) error {
	for key, value := range desired {
		if err := t.put(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (t *table[K, V]) trim(desired map[K]V) error {
	for key := range t.content {
		if _, wanted := desired[key]; wanted {
			continue
		}
		if err := t.delete(key); err != nil {
			return err
		}
	}
	return nil
}
