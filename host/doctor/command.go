package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/statedir"
)

// ErrMissing is returned by `nimbrel doctor` when something is missing; what is has been printed.
var ErrMissing = errors.New("something is missing")

// Command is `nimbrel doctor`. It exits 1 when something is missing for which there is no fallback.
// convert is Options.Convert.
func Command(convert func(context.Context) error) *cobra.Command {
	o := Options{Convert: convert}
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Say what this machine has for a cloud, what is missing, and what to do about it", Args: cobra.NoArgs,
		Long: "Doctor probes the machine for what a server and a host need, boots a test guest, measures the disk, and names the fix for what is\nmissing. It exits 1 when something is missing that nothing stands in for.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Serving = serving(o.StateDir)
			found := Examine(cmd.Context(), o)
			if err := print(cmd, found, asJSON); err != nil {
				return err
			}
			if !Works(found) {
				return ErrMissing
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.Fake, "fake", false, "look at what simulated hosts need only")
	cmd.Flags().StringVar(&o.StateDir, "state-dir", statedir.Default(), "`directory` that the cloud is to live in")
	cmd.Flags().IntVar(&o.Port, "port", 8773, "`port` of the EC2 API on loopback; the host link and metrics have the next two")
	return cmd
}

// serving says whether a cloud of the state directory answers.
func serving(stateDir string) bool {
	c, err := net.DialTimeout("unix", statedir.OperatorSocket(stateDir), time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func print(cmd *cobra.Command, found []Finding, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(found)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tVERDICT\tFOUND")
	for _, f := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.Verdict, f.Found)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range found {
		if f.Verdict == OK {
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s: %s\n", f.Name, f.Found)
		if f.Instead != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "  instead: %s\n", f.Instead)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "  fix: %s\n", f.Fix)
	}
	return nil
}
