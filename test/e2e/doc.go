// Package e2e holds the tests of the real binary: command lines, processes that are killed, and real virtual machines.
//
// Every cloud of a test has places of its own: a state directory, a block of ports that the test claims for as long as it
// runs, and a prefix and an underlay that follow from the block. So it never meets a person's cloud or that of another
// test. A cloud is taken down at the end, also when the test fails, and must then have left nothing.
//
// TestScripts and TestFake… run on fake hosts: no privileges, no network. TestRealCloud needs root and QEMU. It runs in
// "a machine of its own": fresh namespaces of processes, mounts and network, with its own /run, /proc and /sys. Whatever
// is in there is the cloud's, so that "down leaves nothing" is one unfiltered comparison of before and after, whatever
// else happens on the computer meanwhile. The kernel ends everything in it with the test, even one that is killed. Two
// things are not private: control groups, which are compared for the instances of this cloud only, and BPF objects,
// which exist no longer than the descriptors (processes), pins (mounts) or devices (namespaces) that hold them.
//
// A subtest of TestRealCloud is run alone as -run TestRealCloud/NAME; those that make and end the cloud run always.
//
// Deliberately absent: what a part can prove by itself. Start reading at cloud_test.go, then testdata.
package e2e
