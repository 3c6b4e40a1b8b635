package tool

import (
	"context"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/image/convert"
)

// workerName is the hidden command that a server starts to convert a file.
const workerName = "convert-worker"

// WorkerCommand is the command line that makes this binary a converting process, for image/server's options.
func WorkerCommand() ([]string, error) {
	if runtime.GOOS == "linux" {
		return []string{"/proc/self/exe", "image", workerName}, nil // this very binary, also once an upgrade has replaced its file
	}
	binary, err := os.Executable()
	return []string{binary, "image", workerName}, err
}

// ProbeWorker says whether a converting process of this binary can be confined on this machine, and works.
func ProbeWorker(ctx context.Context) error {
	command, err := WorkerCommand()
	if err != nil {
		return err
	}
	return convert.Worker{Command: command}.Probe(ctx)
}

func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use: workerName, Hidden: true, Short: "Convert the image on descriptor 3 (started by the server)",
		RunE: func(cmd *cobra.Command, args []string) error { return convert.Work(cmd.Context(), args) },
	}
}
