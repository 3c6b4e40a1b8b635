// Command benchhost measures what an agent's end and return cost the guests of its host, on a cloud of its own beside any
// other:
//
//   - host.restart_lost_packets: packets between guests of two hosts that were lost while both agents are killed ten times
//     and replaced by another version ten times, and while server and agents are dead for 30 s
//   - host.readopt_100_vms_s: from the start of an agent's process until it holds the 100 guests that its predecessor left,
//     median; the guests' machines are processes with monitors and nothing inside
//
// Checks beside them say that a new connection passes and a forbidden one does not while nothing is there to ask, and that
// metadata is answered again.
//
// It builds nothing: `make bench-host` does. Figures and checks go to standard output and to a file, progress to standard
// error. It ends its cloud however it ends, and checks that it left nothing.
package main
