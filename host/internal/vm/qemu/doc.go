// Package qemu runs guests in QEMU processes on Linux.
//
// It owns the command line, the process around it, and what the monitor says. A machine is a q35 PC with nothing that
// was not asked for: no default devices, no user configuration, no monitor but ours.
//
// Containment, so that a guest that breaks out of the emulator finds nothing: its own user without capabilities, a
// network namespace of its own that holds no interface, QEMU's system call filter with every denial on, no guest memory in core dumps,
// limits by cgroup, and no file by path: disk, base image, console and sockets are descriptors that the agent opened in
// a directory which the machine's user cannot enter. Where the agent is not root there is only the filter, and
// Capabilities.Degraded says so.
//
// A guest that switches itself off leaves its process paused (-action shutdown=pause) until an agent has recorded that
// and tells it to quit. A process that is gone without such a record has crashed; this holds also for what happened
// while no agent ran. The price is that an agent which is down for long leaves the memory of such guests occupied.
//
// While no agent runs nothing trims the logs (see vm.TrimLogs): a guest that never stops writing to its console fills the
// disk at the speed of its serial port, some MB/s. The first thing that an adopting agent does is to trim them. A pipe in
// the file's place would stop the guest, a socket would lose what it says; so the agent is to be supervised.
package qemu
