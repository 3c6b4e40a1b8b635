// Package qemu runs guests in QEMU processes on Linux.
//
// It owns the command line, the process around it, and what the monitor says. A machine is a q35 PC with nothing that
// was not asked for: no default devices, no user configuration, no monitor but ours.
//
// Containment, so that a guest that breaks out of the emulator finds nothing: its own user without capabilities, a
// network namespace of its own that holds no interface, QEMU's system call filter with every denial on, no guest memory in core dumps,
// limits by cgroup, and no file by path: disk, base image and sockets are descriptors that the agent opened in
// a directory which the machine's user cannot enter. Where the agent is not root there is only the filter, and
// Capabilities.Degraded says so.
//
// A guest that switches itself off leaves its process paused (-action shutdown=pause) until an agent has recorded that
// and tells it to quit. A process that is gone without such a record has crashed; this holds also for what happened
// while no agent ran. The price is that an agent which is down for long leaves the memory of such guests occupied.
//
// A guest's console is a ring in its process's memory, which the agent empties into a log that it trims (see vm.TrimLogs).
// While no agent runs the ring keeps the last that was said, and no file grows. What is in the ring is lost when the
// process crashes; one whose guest switched itself off waits for the agent, so its last words are kept. See
// docs/decisions/0020-hosts-and-consoles.md.
package qemu
