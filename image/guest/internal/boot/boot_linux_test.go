package boot

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func TestLabelOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fs")
	super := make([]byte, 4096)
	super[extMagicAt], super[extMagicAt+1] = 0x53, 0xEF
	copy(super[extLabelAt:], "nimbrel-root")
	for _, c := range []struct {
		data []byte
		want string
		ok   bool
	}{{super, "nimbrel-root", true}, {make([]byte, 4096), "", false}, {super[:1500], "", false}} {
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := labelOf(path); got != c.want || (err == nil) != c.ok {
			t.Errorf("%d bytes: %q, %v", len(c.data), got, err)
		}
	}
}

func TestWatchKeys(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		e := make([]byte, eventBytes)
		binary.LittleEndian.PutUint16(e[16:], kind)
		binary.LittleEndian.PutUint16(e[18:], code)
		binary.LittleEndian.PutUint32(e[20:], value)
		return e
	}
	var stream bytes.Buffer
	for _, e := range [][]byte{event(evKey, keyPower, 1), event(0, 0, 0), event(evKey, keyPower, 0), event(evKey, 30, 1), event(evKey, keyPower, 1), {1, 2, 3}} {
		stream.Write(e)
	}
	presses := 0
	watchKeys(&stream, func() { presses++ })
	if presses != 2 {
		t.Errorf("%d presses seen, want 2: releases and other keys do not count", presses)
	}
}
