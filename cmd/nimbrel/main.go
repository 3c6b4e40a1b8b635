// Command nimbrel is the whole cloud in one binary: the server, a host's agent, the one-machine cloud, and the operator's
// command line. This package holds flags, configuration and wiring, and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/nimbrel/nimbrel/cli"
	"github.com/nimbrel/nimbrel/dev"
	"github.com/nimbrel/nimbrel/host/doctor"
	imagetool "github.com/nimbrel/nimbrel/image/tool"
	storetool "github.com/nimbrel/nimbrel/store/tool"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(status(err))
}

// status turns a command's error into the process's exit status and says what went wrong. The status of a command that
// ran in a guest is passed on.
func status(err error) int {
	var exit *cli.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Status
	case errors.Is(err, cli.ErrFindings), errors.Is(err, doctor.ErrMissing):
		return 1 // each has been printed
	}
	fmt.Fprintln(os.Stderr, "error:", advise(err))
	return 1
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "nimbrel", Short: "A self-hosted cloud that speaks the EC2 API",
		Long:    "Nimbrel is a self-hosted cloud in one binary. Begin with `sudo nimbrel dev up`, then `eval \"$(nimbrel env)\"` and AWS's own tools.",
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	images := imagetool.Command()
	images.Short = "Build, import and list images"
	images.AddCommand(cli.ImageCommands()...)
	cmd.AddCommand(serverCommand(), agentCommand(), dev.Command(), images, storetool.Command(storetool.Options{Check: checkStore}))
	cmd.AddCommand(doctor.Command(imagetool.ProbeWorker), configCommand(), bundleCommand(), manCommand(cmd))
	cmd.AddCommand(cli.Commands()...)
	return cmd
}

func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "Write a manual page for each command", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return doc.GenManTree(root, &doc.GenManHeader{Title: "NIMBREL", Section: "1", Source: "Nimbrel " + version}, args[0])
		},
	}
}
