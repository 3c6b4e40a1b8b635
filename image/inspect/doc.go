// Package inspect decides from a file's headers what kind of disk image it is and whether it is safe to convert. It reads
// a file before anything else does, and follows nothing that a header names: no backing file, no extent, no data file.
//
// It is pure: bytes in through an io.ReaderAt, a layout or a *Refusal out. Every length, count and offset is bounded
// before it is used, so that hostile bytes cost at most a few reads and a table of bounded size.
//
// Formats: raw, qcow2 (version 2 and 3), VMDK (streamOptimized, monolithicSparse), VHD (fixed, dynamic) and OVA (a tar with
// one VMDK, whose manifest's digests Verify compares). Everything else that can be recognised is refused by its name.
//
// Deliberately absent: guessing by file name, repair, snapshots inside an image, and conversion (package convert).
//
// Sources: QEMU's docs/interop/qcow2.txt; VMware's Virtual Disk Format 5.0; Microsoft's VHD specification 1.0; DMTF DSP0243.
//
// Start reading at Inspect.
package inspect
