package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	// consoleSlackBytes is how much a console log may hold beyond MaxConsoleBytes before it is trimmed.
	consoleSlackBytes = 1 << 20
	// consolePoll is how soon a follower sees what the guest wrote.
	consolePoll = 50 * time.Millisecond
)

// ReadConsole returns the last bytes of dir's console, at most MaxConsoleBytes; 0 or less asks for all of that. A guest
// that never wrote has an empty console.
func ReadConsole(dir string, tailBytes int) ([]byte, error) {
	file, err := os.Open(ConsolePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read console: %w", err)
	}
	defer file.Close()
	from, to, err := consoleTail(file, tailBytes)
	if err != nil {
		return nil, fmt.Errorf("read console: %w", err)
	}
	return io.ReadAll(io.NewSectionReader(file, from, to-from))
}

// consoleTail is the range of the last tailBytes.
func consoleTail(file *os.File, tailBytes int) (from, to int64, err error) {
	if tailBytes <= 0 || tailBytes > MaxConsoleBytes {
		tailBytes = MaxConsoleBytes
	}
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	return max(0, info.Size()-int64(tailBytes)), info.Size(), nil
}

// FollowConsole is VM.FollowConsole for any driver that logs to ConsolePath; done is the VM's.
func FollowConsole(ctx context.Context, dir string, tailBytes int, w io.Writer, done <-chan struct{}) error {
	file, err := os.OpenFile(ConsolePath(dir), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("follow console: %w", err)
	}
	defer file.Close()
	from, _, err := consoleTail(file, tailBytes)
	if err != nil {
		return fmt.Errorf("follow console: %w", err)
	}
	tick := time.NewTicker(consolePoll)
	defer tick.Stop()
	for last := false; ; {
		info, err := file.Stat()
		if err != nil {
			return fmt.Errorf("follow console: %w", err)
		}
		// A reader that fell behind by more than is kept, or a log that was cut: go on where there is something to read.
		from = min(max(from, info.Size()-consoleSlackBytes), info.Size())
		copied, err := io.Copy(w, io.NewSectionReader(file, from, info.Size()-from))
		from += copied
		if err != nil || last {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			last = true // what was written before the end is still to be copied
		case <-tick.C:
		}
	}
}
