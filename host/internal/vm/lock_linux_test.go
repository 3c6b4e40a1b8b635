package vm

import (
	"os/exec"
	"sync"
	"testing"
)

// TestLockWhileForking: a lock that was let go of is free at once, also while the program starts others, whose processes
// hold copies of its descriptors until they exec.
func TestLockWhileForking(t *testing.T) {
	dir := t.TempDir()
	var starters sync.WaitGroup
	defer starters.Wait()
	stop := make(chan struct{})
	defer close(stop)
	for range 2 {
		starters.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := exec.Command("/proc/self/exe", "-test.run=^$").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5_000 {
		lock, err := Lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		lock.Close()
	}
}
