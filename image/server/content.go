package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/image/chunk"
	"github.com/nimbrel/nimbrel/image/convert"
	"github.com/nimbrel/nimbrel/image/inspect"
)

const (
	// collectEvery and collectAge are how often unlisted chunks are looked for, and how old they must be: an import that
	// was interrupted may go on within that time.
	collectEvery = time.Hour
	collectAge   = 24 * time.Hour
)

// content is what an import brought into the chunk store.
type content struct {
	digest string
	bytes  uint64
	format string
	stored uint64 // bytes that were not there
}

// adopt stores the disk in the file at path.
func (s *Service) adopt(ctx context.Context, path string) (content, error) {
	source, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return content{}, &image.InvalidError{Field: "content", Reason: err.Error() + ": want a disk image that the server can read"}
	}
	if err != nil {
		return content{}, fmt.Errorf("open image file: %w", err)
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return content{}, fmt.Errorf("stat image file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return content{}, &image.InvalidError{Field: "content", Reason: path + " is no regular file"}
	}
	c, err := s.ingest(ctx, source, nil)
	if err != nil {
		return c, fmt.Errorf("import image file %s: %w", path, err)
	}
	if after, err := source.Stat(); err != nil || after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) {
		return c, fmt.Errorf("import image file %s: it changed while being read; try again", path)
	}
	return c, nil
}

// ingest converts a file of any accepted format into the chunk store, durably: the row that refers to it is committed
// next, and must not outlive it. What is refused is an *image.InvalidError.
func (s *Service) ingest(ctx context.Context, file *os.File, progress func(done, total uint64)) (content, error) {
	chunks, err := s.chunks()
	if err != nil {
		return content{}, err
	}
	sink := &intake{store: chunks, progress: progress}
	defer sink.close()
	summary, err := s.convert(ctx, file, sink)
	var refusal *inspect.Refusal
	switch {
	case errors.As(err, &refusal):
		return content{}, &image.InvalidError{Field: "content", Reason: refusal.Error()}
	case err != nil:
		return content{}, s.explain(err)
	}
	digest, err := sink.writer.Commit(ctx)
	if err != nil {
		return content{}, s.explain(err)
	}
	return content{digest: digest, bytes: summary.VirtualBytes, format: summary.Format, stored: sink.writer.Wrote()}, nil
}

// explain says what to do about a full disk.
func (s *Service) explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: make room in %s on the server, then import again: what is stored already is not written again", err, s.options.Dir)
	}
	return err
}

func (s *Service) convert(ctx context.Context, file *os.File, sink convert.Sink) (convert.Summary, error) {
	limits := inspect.Limits{MaxVirtualBytes: s.options.MaxDiskBytes, MaxExpansion: inspect.DefaultMaxExpansion}
	if len(s.options.Converter) > 0 {
		return convert.Worker{Command: s.options.Converter, StallAfter: s.options.StallAfter}.Run(ctx, file, limits, sink)
	}
	info, err := file.Stat()
	if err != nil {
		return convert.Summary{}, fmt.Errorf("stat image file: %w", err)
	}
	return convert.Direct(ctx, file, info.Size(), limits, sink)
}

// intake is where a converter's chunks go.
type intake struct {
	store    *chunk.Store
	writer   *chunk.Writer
	progress func(done, total uint64)
	total    uint64
}

func (i *intake) Begin(s convert.Summary) (err error) {
	i.total = s.VirtualBytes
	i.writer, err = i.store.NewWriter(s.VirtualBytes)
	return err
}

func (i *intake) Chunk(offset uint64, data []byte) error {
	if i.progress != nil {
		i.progress(offset+uint64(len(data)), i.total)
	}
	return i.writer.Put(offset, data)
}

func (i *intake) close() {
	if i.writer != nil {
		i.writer.Close()
	}
}

// Open opens the content of a digest, for reading at any place, and tells its size. Content stays when its image is
// deregistered: a host may still need it. The error is image.ErrNoContent when there is none.
func (s *Service) Open(digest string) (content io.ReadSeekCloser, size uint64, err error) {
	if !chunk.IsDigest(digest) {
		return nil, 0, fmt.Errorf("open image content: %.80q is no SHA-256 digest: %w", digest, image.ErrNoContent)
	}
	chunks, err := s.chunks()
	if err != nil {
		return nil, 0, err
	}
	disk, err := chunks.Open(digest)
	if err == nil {
		return disk, uint64(disk.Size()), nil
	}
	if !errors.Is(err, chunk.ErrAbsent) {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, err)
	}
	return s.openWhole(digest)
}

// openWhole opens content as servers kept it before there were chunks: one file per digest. Nothing writes such files any
// more.
func (s *Service) openWhole(digest string) (io.ReadSeekCloser, uint64, error) {
	f, err := os.Open(filepath.Join(s.options.Dir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, image.ErrNoContent)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("open image content %s: %w", digest, errors.Join(err, f.Close()))
	}
	return f, uint64(info.Size()), nil
}

// collect removes chunks that no image lists, now and then, until ctx ends.
func (s *Service) collect(ctx context.Context) {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		if err := s.collectOnce(); err != nil {
			s.options.Log.Warn("image chunks are not collected", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) collectOnce() error {
	chunks, err := s.chunks()
	if err != nil {
		return err
	}
	for _, digest := range chunks.Damaged() {
		s.options.Log.Warn("image manifest is damaged: import the image again", "image", digest)
	}
	done, err := chunks.Collect(s.options.Env.Clock.Now(), collectAge, nil)
	if done.Chunks > 0 {
		s.options.Log.Info("image chunks that no image lists removed", "bytes", done.Bytes)
	}
	return err
}
