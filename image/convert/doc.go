// Package convert turns a disk image that Inspect has accepted into the bytes of its disk, in a process that can do nothing
// else.
//
// Run starts that process (this binary again), hands it the file as a descriptor, and checks every frame that it sends
// back. The process calls Work: it gives up its user, its network and every system call that opens, connects or executes
// before it reads the first byte of the file. What it sends is data and never a name.
//
// The readers are our own: the tables of qcow2, VMDK and VHD are small, and a reader that never learnt to follow a
// reference cannot be told to. See docs/decisions/0015-images.md.
//
// Deliberately absent: writing any format, and qemu-img.
//
// Start reading at Run and Work; Open and Disk are the readers.
package convert
