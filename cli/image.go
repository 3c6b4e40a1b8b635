package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/nimbrel/nimbrel/image/inspect"
	"github.com/nimbrel/nimbrel/operator/upload"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

const (
	// putsAtOnce is how many chunks are on their way together, and held in memory.
	putsAtOnce = 4
	// uploadTries is how often an upload is begun: a server that started anew meanwhile has to be told again.
	uploadTries = 3
	// maxDiskBytes is more than any server may be set to take: its own limit is the one that holds.
	maxDiskBytes = 16 << 40
)

func (c *client) imageImport() *cobra.Command {
	var f upload.Finish
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Import a disk image: raw, qcow2, VMDK, VHD or OVA", Args: cobra.ExactArgs(1),
		Long: `Import uploads a disk image, converts it, and registers it. The same name and content again gives the image that exists; the
same name with other content replaces it, and instances of the old one run on.

What an image must not have is refused by name: a backing file or an external data file, several disks or extents,
encryption, unknown features, a disk beyond the limits. An import that was interrupted goes on where it was when it is
started again; of a file that changed only the changed megabytes are sent and stored.`,
		Example: `  nimbrel image import debian-12-generic-amd64.qcow2 --name debian-12
  nimbrel image import appliance.ova --account 123456789012 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.Name == "" {
				f.Name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			var p *progress
			if !c.json {
				p = newProgress(cmd.ErrOrStderr())
			}
			result, err := c.importFile(cmd.Context(), args[0], f, p)
			p.end()
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(result)
			}
			_, err = fmt.Fprintf(c.out, "%s %s: %s, %s of disk, %s stored anew\n", result.ImageID, result.Name, result.Format, size(result.SizeBytes), size(result.StoredBytes))
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Name, "name", "", "the image's `name`; default the file's")
	flags.StringVar(&f.Description, "description", "", "a `text` for tenants")
	flags.StringVar(&f.Architecture, "arch", "x86_64", "x86_64 or arm64")
	flags.StringVar(&f.BootMode, "boot-mode", "", "legacy-bios, uefi or uefi-preferred; default what a launch finds")
	flags.StringVar(&f.Account, "account", "", "the `account` that owns it and alone may use it; default everyone")
	flags.BoolVar(&f.Public, "public", false, "with --account: everyone may use it")
	return cmd
}

// importFile inspects the file here first: what the server would refuse need not travel.
func (c *client) importFile(ctx context.Context, path string, f upload.Finish, p *progress) (upload.Result, error) {
	file, err := os.Open(path)
	if err != nil {
		return upload.Result{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return upload.Result{}, err
	}
	if !info.Mode().IsRegular() {
		return upload.Result{}, fmt.Errorf("%s is no regular file: copy the disk into one first", path)
	}
	if _, err := inspect.Inspect(file, info.Size(), inspect.Limits{MaxVirtualBytes: maxDiskBytes}); err != nil {
		return upload.Result{}, fmt.Errorf("%s: %w", path, err)
	}
	sums, err := sumsOf(ctx, file, info.Size(), p)
	if err != nil {
		return upload.Result{}, fmt.Errorf("read %s: %w", path, err)
	}
	server := &upload.Client{HTTP: awsjson.UnixClient(c.socket), URL: "http://operator"}
	for try := 1; ; try++ {
		result, err := send(ctx, server, file, info.Size(), sums, f, p)
		if !errors.Is(err, upload.ErrBeginAgain) || try == uploadTries {
			return result, c.explain(err)
		}
	}
}

// sumsOf reads the file once for the SHA-256 of each chunk.
func sumsOf(ctx context.Context, r io.ReaderAt, bytes int64, p *progress) ([]byte, error) {
	var sums []byte
	chunk := make([]byte, upload.ChunkBytes)
	for at := int64(0); at < bytes; at += upload.ChunkBytes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := chunk[:min(upload.ChunkBytes, bytes-at)]
		if _, err := r.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		sum := sha256.Sum256(part)
		sums = append(sums, sum[:]...)
		p.step("reading", uint64(at)+uint64(len(part)), uint64(bytes))
	}
	return sums, nil
}

// send uploads what the server does not have and finishes.
func send(ctx context.Context, to upload.Service, r io.ReaderAt, bytes int64, sums []byte, f upload.Finish, p *progress) (upload.Result, error) {
	begun, err := to.Begin(ctx, uint64(bytes), sums)
	if err != nil {
		return upload.Result{}, err
	}
	chunks := int64(len(sums) / sha256.Size)
	if missing := int64(len(begun.Missing)); missing < chunks {
		p.say("%d of %d MiB are there already", chunks-missing, chunks)
	}
	group, putCtx := errgroup.WithContext(ctx)
	group.SetLimit(putsAtOnce)
	for n, index := range begun.Missing {
		at := int64(index) * upload.ChunkBytes
		if at >= bytes {
			return upload.Result{}, fmt.Errorf("the server asks for chunk %d of %d", index, chunks)
		}
		if putCtx.Err() != nil {
			break
		}
		p.step("uploading", uint64(n)*upload.ChunkBytes, uint64(len(begun.Missing))*upload.ChunkBytes)
		group.Go(func() error {
			part := make([]byte, min(upload.ChunkBytes, bytes-at))
			if _, err := r.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			return to.Put(putCtx, begun.ID, index, part)
		})
	}
	if err := group.Wait(); err != nil {
		return upload.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return upload.Result{}, err
	}
	return to.Finish(ctx, begun.ID, f, func(done, total uint64) { p.step("converting", done, total) })
}
