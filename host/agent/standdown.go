package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nimbrel/nimbrel/dispatch/client"
	"github.com/nimbrel/nimbrel/host/internal/vm"
)

// A host that was given up is told a new epoch. What its documents said before may be another host's by now: from the
// moment that it is told until a session has confirmed that its documents are complete under the new epoch, it starts no
// guest. The fence is on disk before the new epoch is taken, so that an agent that dies in between does not start from
// old documents either.
//
// Guests that run go on, and are ended by the new documents: they may be the only copy, and the network of a host that
// was given up is cut by the mappings of the others. Ending them at once would be the lease's, which is opt-in and absent.

// fenceFile, in the state directory, exists while no guest may be started.
const fenceFile = "standdown.json"

// fence is its content.
type fence struct {
	Epoch uint64 `json:"epoch"` // that the documents must be complete under
}

// errStoodDown: the host was given up, and its documents are not yet those of the new epoch.
var errStoodDown = errors.New("the host stands down: its documents are of an old epoch")

// readFence is the epoch that a fence waits for, or 0.
func readFence(stateDir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(stateDir, fenceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var f fence
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w: remove the file once this host's documents are known to be current", fenceFile, err)
	}
	return f.Epoch, nil
}

// standDown is called by the link before it takes a new epoch. When it returns, no start is under way, and none begins.
func (a *agent) standDown(epoch uint64) {
	if err := vm.WriteJSON(a.o.StateDir, fenceFile, fence{epoch}); err != nil {
		a.o.Log.Error("stand-down is not on disk; it ends with this process", "epoch", epoch, "err", err)
	}
	a.mu.Lock()
	a.fenced = epoch
	a.cancelStarts()
	a.mu.Unlock()
	for range cap(a.starts) { // whoever waits for a place after this finds the fence
		a.starts <- struct{}{}
	}
	for range cap(a.starts) {
		<-a.starts
	}
}

// confirm lifts the fence when the documents are complete under its epoch. The caller has taken them.
func (a *agent) confirm(epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fenced == 0 || epoch < a.fenced {
		return
	}
	if err := os.Remove(filepath.Join(a.o.StateDir, fenceFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.o.Log.Error("fence stays", "err", err)
		return
	}
	a.o.Log.Info("documents are complete under the new epoch: guests may start", "epoch", epoch)
	a.fenced = 0
	a.renewStarts()
	for _, w := range a.workers {
		w.look()
	}
}

// Desired implements client.Handler.
func (a *agent) Desired(d client.Desired) {
	a.take(d)
	a.confirm(d.Epoch())
}
