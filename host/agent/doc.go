// Package agent is the process that makes one machine what its desired documents say.
//
// It owns the wiring of the host's parts and the workers between them: one worker a guest, so that a slow one holds
// nobody. A worker looks (directory, process, monitor), decides (host/internal/reconcile), performs one step, and looks
// again. Events only make it look sooner.
//
// Invariants:
//
//   - Guests, networks and their services go on without the agent, and with no server above it. At the start every
//     directory is adopted before anything is reported as all there is.
//   - The order of a start: image, network state, port, machine. The order of an end: machine, port, directory,
//     acknowledgement. So an address is not acknowledged as free while a guest could still use it.
//   - Nothing is ended because it is unknown. See reconcile.Decide.
//   - An image is fetched from the server over the host link unless this machine has it. A transfer that breaks goes on
//     where it was; what came is used only when it has the image's digest (host/internal/imagecache).
//   - What must be done at most once (a reboot) is recorded on disk before it is done.
//
// Deliberately absent: knowledge of accounts, quotas and the API; the choice of hosts.
//
// Start at Run in agent.go; a guest's life is in worker.go.
package agent
