package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

func (c *client) drain() *cobra.Command {
	return &cobra.Command{
		Use: "drain HOST", Short: "Keep new instances off a host, and list what still runs there", Args: cobra.ExactArgs(1),
		Long: "Drain keeps new instances off a host, launches under way included. What is there stays, and a stopped instance may start again:\nstop or terminate what is listed before the host goes. HOST is an id or a name. Drain again to see what is left.",
		RunE: func(cmd *cobra.Command, args []string) error { return c.setDraining(cmd, args[0], true) },
	}
}

func (c *client) resume() *cobra.Command {
	return &cobra.Command{
		Use: "resume HOST", Short: "Let new instances on a drained host again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.setDraining(cmd, args[0], false) },
	}
}

func (c *client) setDraining(cmd *cobra.Command, named string, draining bool) error {
	out, err := c.api().DrainHost(cmd.Context(), &operatorgen.DrainHostInput{HostId: named, Draining: draining})
	if err != nil {
		return c.explain(err)
	}
	switch {
	case c.json:
		return c.printJSON(out)
	case !draining:
		fmt.Fprintf(c.out, "%s takes new instances\n", out.HostId)
		return nil
	case out.RemainingCount == 0:
		fmt.Fprintf(c.out, "%s drains and is empty\n", out.HostId)
		return nil
	}
	fmt.Fprintf(c.out, "%s drains; %d instances are still there\n", out.HostId, out.RemainingCount)
	rows := make([][]string, len(out.Remaining))
	for i, v := range out.Remaining {
		rows[i] = []string{v.InstanceId, v.AccountId, string(v.State), v.InstanceType, v.PrivateIp}
	}
	return c.table(out.Remaining, "INSTANCE ACCOUNT STATE TYPE ADDRESS", rows)
}
