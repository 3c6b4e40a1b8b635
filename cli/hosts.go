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

func (c *client) fence() *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use: "fence HOST", Short: "Give a host up: when it returns, it starts nothing that it was told before", Args: cobra.ExactArgs(1),
		Long: "Fence gives a host up that is gone, or that another machine replaces. When it returns it starts no guest before it has its whole\ndocument anew; guests that run go on until that document ends them. No new instance lands there until `nimbrel hosts resume`.\n\nAddresses and capacity of what was terminated there stay taken until the host confirms, so that nothing is handed out twice. With\n--off you answer for the confirmation: only when the machine is off, and stays off until it can reach this server. Terminate first\nwhat is listed, then fence; fence again after more was terminated.",
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := c.api().FenceHost(cmd.Context(), &operatorgen.FenceHostInput{HostId: args[0], Off: off})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(out)
			}
			fmt.Fprintf(c.out, "%s is fenced", out.HostId)
			if off {
				fmt.Fprintf(c.out, "; %d terminated instances gave back what they had", out.Freed)
			}
			if out.RemainingCount == 0 {
				fmt.Fprintln(c.out, "; it has no more instances")
				return nil
			}
			fmt.Fprintf(c.out, "; %d instances are still there\n", out.RemainingCount)
			return c.remaining(out.Remaining)
		},
	}
	cmd.Flags().BoolVar(&off, "off", false, "the machine is off, you have seen it: free what was terminated there")
	return cmd
}

// remaining prints what a host still has.
func (c *client) remaining(list []operatorgen.Instance) error {
	rows := make([][]string, len(list))
	for i, v := range list {
		rows[i] = []string{v.InstanceId, v.AccountId, string(v.State), v.InstanceType, v.PrivateIp}
	}
	return c.table(list, "INSTANCE ACCOUNT STATE TYPE ADDRESS", rows)
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
	return c.remaining(out.Remaining)
}
