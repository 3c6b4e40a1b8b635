// Package proc runs child processes under process 1.
//
// Process 1 inherits every orphan of the machine and must collect it, but os/exec wants to collect its own children.
// Both work when every child is started through this package: the reaper looks at a dead child before it takes it, and
// leaves the known ones alone.
//
// Deliberately absent: supervision and restart; nothing here is a service manager.
package proc

import (
	"sync"
	"time"
)

// WaitDelay is how long a command's output may stay open after its end or its cancellation.
const WaitDelay = 2 * time.Second

// Tail keeps the last Max bytes written to it. It is safe for concurrent use.
type Tail struct {
	Max int

	mu   sync.Mutex
	data []byte
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.Max; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
