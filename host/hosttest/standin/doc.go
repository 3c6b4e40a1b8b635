// Package standin runs processes that pass for guests' machines: each has the pid, command line, records and monitor
// sockets that an agent looks for, and no guest. A hundred of them cost what a hundred small processes cost, so that the
// restart of a full host can be timed and a machine can be brought into states that QEMU enters only by accident.
//
// A machine is a process of the program that lays it: such a program calls Serve first thing.
//
// Deliberately absent: disks, networks, the start of a guest. A guest is laid as an agent that died has left it.
//
// Start at Lay.
package standin
