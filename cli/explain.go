package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

func (c *client) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain OPERATION|INSTANCE", Short: "Tell where an operation's or an instance's time went, and how it stands", Args: cobra.ExactArgs(1),
		Long: "Explain lists what happened to an operation (op-…) or an instance (i-…), in order of time: when it was accepted and placed, when its\nhost received it, had its image, its network and its machine, and when the guest first asked for an address. Times of source \"host\"\nare by the host's clock.",
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := c.api().Explain(cmd.Context(), &operatorgen.ExplainInput{Subject: args[0]})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(out)
			}
			fmt.Fprintln(c.out, out.Summary)
			for _, note := range out.Notes {
				fmt.Fprintln(c.out, "note:", note)
			}
			return c.table(out, "AT SINCE-START TOOK SOURCE OPERATION WHAT DETAIL", timeline(out.Events))
		},
	}
}

// timeline gives each event the time since its operation's first, and since the event before in that operation. The
// second column of times adds up to the operation's wall time.
func timeline(events []operatorgen.Event) [][]string {
	first, before := map[string]int64{}, map[string]int64{}
	rows := make([][]string, len(events))
	for i, e := range events {
		since, took := "", ""
		if begun, seen := first[e.OperationId]; seen {
			since, took = span(e.AtMs-begun), span(e.AtMs-before[e.OperationId])
		} else {
			first[e.OperationId] = e.AtMs
		}
		before[e.OperationId] = e.AtMs
		rows[i] = []string{time.UnixMilli(e.AtMs).Format("15:04:05.000"), since, took, e.Source, e.OperationId, e.What, e.Detail}
	}
	return rows
}

func span(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }
