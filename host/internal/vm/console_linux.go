package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// TrimLogs frees the disk blocks of all but the tails of the console and of the machine's own log, once they have grown.
// A log keeps its size and the machine goes on appending: no byte written meanwhile is lost, and followers' offsets stay
// true. A file system that cannot punch holes has the log cut to nothing instead.
func TrimLogs(dir string) error {
	return errors.Join(trim(ConsolePath(dir)), trim(LogPath(dir)))
}

func trim(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("trim %s: %w", path, err)
	}
	defer file.Close()
	var info unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &info); err != nil {
		return fmt.Errorf("trim %s: %w", path, err)
	}
	if info.Blocks*512 <= MaxConsoleBytes+consoleSlackBytes {
		return nil
	}
	keepFrom := (info.Size - MaxConsoleBytes) &^ 4095
	err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, keepFrom)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = file.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("trim %s: %w", path, err)
	}
	return nil
}
