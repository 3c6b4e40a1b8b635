package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// Command is `nimbrel dev`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Bring up, look at and end a whole cloud on this machine", Args: cobra.NoArgs}
	cmd.AddCommand(upCommand(), downCommand(), statusCommand(), logsCommand())
	return cmd
}

// here is the cloud of the state directory, with progress on the command's error output.
func here(cmd *cobra.Command) (*Cloud, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &Cloud{Dir: statedir.Default(), Binary: binary, Progress: func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
	}}, nil
}

func upCommand() *cobra.Command {
	var hosts, zones, extra int
	var fake bool
	var underlay string
	var at Places
	var o UpOptions
	cmd := &cobra.Command{
		Use: "up", Short: "Bring the cloud up, or what is missing of it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := here(cmd)
			if err != nil {
				return err
			}
			if real, why := CanBeReal(); !real && !fake {
				c.say("fake hosts, no virtual machines: %s", why)
				fake = true
			}
			if at.Underlay, err = netip.ParsePrefix(underlay); err != nil {
				return fmt.Errorf("--underlay %q: want an IPv4 network such as %s", underlay, DefaultUnderlay)
			}
			o.Plan = DefaultPlan(fake, hosts, at)
			o.Plan.Zones, o.Plan.Extra = zones, extra
			o.Places = cmd.Flags().Changed("port") || cmd.Flags().Changed("prefix") || cmd.Flags().Changed("underlay")
			return c.Up(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&hosts, "hosts", defaultHosts, "how `many` hosts")
	cmd.Flags().IntVar(&zones, "zones", defaultZones, "how `many` zones fake hosts are spread over")
	cmd.Flags().IntVar(&extra, "fake-hosts", 0, "how `many` fake hosts beside the real ones")
	cmd.Flags().BoolVar(&fake, "fake", false, "use fake hosts: simulated guests, no root needed")
	cmd.Flags().IntVar(&at.Port, "port", DefaultPort, "`port` of the EC2 API on loopback; the host link and metrics have the next two")
	cmd.Flags().StringVar(&at.Prefix, "prefix", DefaultPrefix, "what the `names` of namespaces and links begin with")
	cmd.Flags().StringVar(&underlay, "underlay", DefaultUnderlay, "`network` of the hosts")
	cmd.Flags().StringVar(&o.Image, "image", "", "raw disk `file` to register as a public image")
	cmd.Flags().StringVar(&o.ImageName, "image-name", "nimbrel-guest", "its `name`")
	return cmd
}

func downCommand() *cobra.Command {
	var agreed bool
	cmd := &cobra.Command{
		Use: "down", Short: "End the cloud and remove everything it made", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := here(cmd)
			if err != nil {
				return err
			}
			return c.Down(cmd.Context(), agreed)
		},
	}
	cmd.Flags().BoolVar(&agreed, "yes", false, "also when instances run")
	return cmd
}

func statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the cloud's processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := here(cmd)
			if err != nil {
				return err
			}
			all, err := c.Status()
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PROCESS\tPID\tRUNNING\tSTARTED\tLOG")
			for _, p := range all {
				fmt.Fprintf(w, "%s\t%d\t%v\t%s\t%s\n", p.Name, p.PID, p.Running, p.Started.Local().Format("15:04:05"), p.Log)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func logsCommand() *cobra.Command {
	var limit int64
	cmd := &cobra.Command{
		Use: "logs [PROCESS]", Short: "Print the end of a process's log (default: server)", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := here(cmd)
			if err != nil {
				return err
			}
			name := "server"
			if len(args) == 1 {
				name = args[0]
			}
			if limit < 1 || filepath.Base(name) != name {
				return fmt.Errorf("process %q, %d bytes: want a name of `nimbrel dev status` and a positive number", name, limit)
			}
			return printTail(cmd.OutOrStdout(), filepath.Join(c.LogDir(), name+".log"), limit)
		},
	}
	cmd.Flags().Int64Var(&limit, "bytes", 16<<10, "print at most this `many`")
	return cmd
}

func printTail(w io.Writer, path string, limit int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Seek(max(0, info.Size()-limit), io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
