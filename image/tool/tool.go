// Package tool is the nimbrel image command: work on images that are local files.
//
// Deliberately absent: anything that talks to a running cloud; `nimbrel image import` is the operator's command line's.
package tool

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/image/pack"
)

// Command returns "image" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build guest images",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(buildCommand(), workerCommand())
	return cmd
}

func buildCommand() *cobra.Command {
	var opts pack.Options
	var sizeMiB int64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the bootable guest image and its kernel and initramfs",
		Long: `Builds one disk image that boots by BIOS and by UEFI, and the same guest as kernel and initramfs.

It needs no privileges. The kernel is Debian's linux-image-cloud-amd64, downloaded once with apt-get and cached; what
else is missing is named as the packages to install. A second build of the same inputs returns at once.`,
		Example: `  nimbrel image build --out ./images
  nimbrel image build --out ./images --format qcow2 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.VirtualBytes = sizeMiB << 20
			if !asJSON {
				opts.Progress = func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), "image:", step) }
			}
			start := time.Now()
			result, err := pack.Build(cmd.Context(), opts)
			if err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), result, time.Since(start), asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.OutDir, "out", "", "directory that receives the image (required)")
	f.StringVar(&opts.CacheDir, "cache", pack.CacheDir(), "directory that keeps downloaded parts")
	f.StringVar(&opts.GoInit, "init", "", "prebuilt guest program; default: build it from source")
	f.StringVar(&opts.ModuleDir, "module", "", "source of this module; default: found from the working directory")
	f.StringVar(&opts.KernelDeb, "kernel-deb", "", "downloaded linux-image-*-cloud-amd64 package; default: apt's")
	f.StringVar(&opts.Format, "format", pack.FormatRaw, "disk format: raw or qcow2")
	f.Int64Var(&sizeMiB, "size-mib", pack.DefaultVirtualBytes>>20, "size of the disk in MiB")
	f.BoolVar(&opts.Offline, "offline", false, "never download; use the cache")
	f.BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	if err := cmd.MarkFlagRequired("out"); err != nil {
		panic(err)
	}
	return cmd
}

func report(w io.Writer, result pack.Result, took time.Duration, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(result)
	}
	how := "built"
	if result.Cached {
		how = "found built"
	}
	_, err := fmt.Fprintf(w, "%s in %.1f s, kernel %s\ndisk    %s (%s, %d MiB, sha256 %s)\nkernel  %s\ninitrd  %s\n",
		how, took.Seconds(), result.KernelRelease, result.Disk, result.DiskFormat, result.VirtualBytes>>20, result.SHA256, result.Kernel, result.Initrd)
	return err
}
