package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/internal/gpt"
)

const (
	// rootWait is how long a root that the command line asks for may take to appear.
	rootWait = 10 * time.Second
	rootPoll = 50 * time.Millisecond

	extMagicAt, extLabelAt, extLabelBytes = 1024 + 0x38, 1024 + 0x78, 16
)

// ErrNoRoot says that there is no disk to boot from.
var ErrNoRoot = errors.New("no root file system found")

// FindRoot returns the block device of the root file system: the given device, the one with the given label, or (asked
// for nothing) one with the default label if it is there now.
func FindRoot(root, defaultLabel string) (string, error) {
	deadline := time.Now().Add(rootWait)
	for {
		device, err := findOnce(root, defaultLabel)
		if err == nil || root == "" || time.Now().After(deadline) {
			return device, err
		}
		time.Sleep(rootPoll) // the kernel announces devices over netlink; a boot is no place for a second mechanism
	}
}

func findOnce(root, defaultLabel string) (string, error) {
	if strings.HasPrefix(root, "/dev/") {
		_, err := os.Stat(root)
		return root, err
	}
	label, ok := strings.CutPrefix(root, "LABEL=")
	if !ok {
		if root != "" {
			return "", fmt.Errorf("root=%s: only a device and LABEL= are understood: %w", root, ErrNoRoot)
		}
		label = defaultLabel
	}
	entries, err := os.ReadDir("/sys/class/block") // sorted: of two copies the first disk's is taken
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		device := "/dev/" + entry.Name()
		if got, err := labelOf(device); err == nil && got == label {
			return device, nil
		}
	}
	return "", fmt.Errorf("label %s: %w", label, ErrNoRoot)
}

// labelOf reads the label of an ext2, 3 or 4 file system.
func labelOf(device string) (string, error) {
	file, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer file.Close()
	super := make([]byte, 2048)
	if _, err := io.ReadFull(file, super); err != nil {
		return "", err
	}
	if super[extMagicAt] != 0x53 || super[extMagicAt+1] != 0xEF {
		return "", errors.New("no ext file system")
	}
	return string(bytes.TrimRight(super[extLabelAt:extLabelAt+extLabelBytes], "\x00")), nil
}

// GrowPartition extends the partition that device is, if its disk has grown, and tells the kernel. The device may be
// mounted. It reports the partition's size in bytes.
func GrowPartition(device string) (int64, error) {
	sysfs := "/sys/class/block/" + filepath.Base(device)
	number, err := readNumber(sysfs + "/partition")
	if err != nil {
		return 0, fmt.Errorf("grow %s: not a partition: %w", device, err)
	}
	target, err := filepath.EvalSymlinks(sysfs)
	if err != nil {
		return 0, fmt.Errorf("grow %s: %w", device, err)
	}
	disk, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(target)), os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("grow %s: %w", device, err)
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("grow %s: %w", device, err)
	}
	table, err := gpt.Read(disk, size)
	if err != nil {
		return 0, fmt.Errorf("grow %s: %w", device, err)
	}
	changed, err := table.Grow(uint64(size)/gpt.SectorBytes, int(number))
	if err != nil {
		return 0, fmt.Errorf("grow %s: %w", device, err)
	}
	p := table.Partitions[number-1]
	bytes := int64(p.Sectors() * gpt.SectorBytes)
	if changed {
		if err := errors.Join(table.Write(disk), disk.Sync()); err != nil {
			return 0, fmt.Errorf("grow %s: %w", device, err)
		}
	}
	// Asked always: a table that an earlier boot wrote and could not announce is announced now.
	if err := resizeInKernel(disk, int32(number), int64(p.First*gpt.SectorBytes), bytes); err != nil {
		return 0, fmt.Errorf("grow %s: tell the kernel: %w", device, err)
	}
	return bytes, nil
}

func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 32)
}

// resizeInKernel is the BLKPG ioctl, which unlike a new scan of the table works on a disk in use (linux/blkpg.h).
func resizeInKernel(disk *os.File, number int32, start, length int64) error {
	type partition struct {
		start, length int64
		number        int32
		_             [128]byte // names
	}
	type argument struct {
		op, flags, size int32
		data            *partition
	}
	const resize = 3
	p := &partition{start: start, length: length, number: number}
	arg := &argument{op: resize, size: int32(unsafe.Sizeof(*p)), data: p}
	return ioctl(disk, unix.BLKPG, unsafe.Pointer(arg))
}

// GrowFilesystem extends the mounted ext4 file system to its partition's size, online.
func GrowFilesystem(mountPoint string, partitionBytes int64) error {
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
	var fs unix.Statfs_t
	if err := unix.Statfs(mountPoint, &fs); err != nil {
		return fmt.Errorf("grow file system %s: %w", mountPoint, err)
	}
	dir, err := os.Open(mountPoint)
	if err != nil {
		return fmt.Errorf("grow file system %s: %w", mountPoint, err)
	}
	defer dir.Close()
	blocks := uint64(partitionBytes / fs.Bsize)
	if err := ioctl(dir, resizeFS, unsafe.Pointer(&blocks)); err != nil {
		return fmt.Errorf("grow file system %s to %d blocks: %w", mountPoint, blocks, err)
	}
	return nil
}

func ioctl(file *os.File, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// MountRoot mounts the device at target, first growing its partition and then its file system. What cannot grow is
// told to warn and mounted as it is.
func MountRoot(device, target string, warn func(error)) error {
	size, growErr := GrowPartition(device)
	if growErr != nil {
		warn(growErr)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, target, "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	if growErr == nil {
		if err := GrowFilesystem(target, size); err != nil {
			warn(err)
		}
	}
	return nil
}

// sortedGlob returns the paths that match a well-formed pattern.
func sortedGlob(pattern string) []string {
	paths, _ := filepath.Glob(pattern)
	slices.Sort(paths)
	return paths
}
