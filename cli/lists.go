package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

// ErrFindings is returned by `nimbrel check` when an invariant does not hold.
var ErrFindings = errors.New("some invariants do not hold")

func (c *client) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show how the control plane is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.api().GetStatus(cmd.Context(), &operatorgen.GetStatusInput{})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(s)
			}
			fmt.Fprintf(c.out, "version   %s\nup        %s\nregion    %s\nendpoint  %s\ndriver    %s\n",
				s.Version, (time.Duration(s.UptimeMs) * time.Millisecond).Round(time.Second), s.Region, s.Endpoint, s.Driver)
			if s.Simulated {
				fmt.Fprintln(c.out, "          simulated: no host here runs real guests")
			}
			for _, part := range s.Components {
				fmt.Fprintf(c.out, "%-9s %s %s\n", part.Name, map[bool]string{true: "ok", false: "FAIL"}[part.Healthy], part.Detail)
			}
			return nil
		},
	}
}

func (c *client) hosts() *cobra.Command {
	cmd := &cobra.Command{
		Use: "hosts", Short: "List hosts, take them out of service and back", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hosts, err := pages(func(token string) ([]operatorgen.Host, string, error) {
				out, err := c.api().ListHosts(cmd.Context(), &operatorgen.ListHostsInput{MaxResults: maxResults(), NextToken: token})
				if err != nil {
					return nil, "", c.explain(err)
				}
				return out.Hosts, out.NextToken, nil
			})
			if err != nil {
				return err
			}
			rows := make([][]string, len(hosts))
			for i, h := range hosts {
				rows[i] = []string{h.HostId, h.Name, h.Zone, hostState(h), string(h.Driver), h.Address,
					fmt.Sprintf("%d/%d", h.VcpusFree, h.Vcpus), fmt.Sprintf("%d/%d", h.MemoryFreeMib, h.MemoryMib),
					strconv.Itoa(int(h.Instances)), ago(h.LastSeenAtMs)}
			}
			return c.table(hosts, "HOST NAME ZONE STATE DRIVER ADDRESS VCPUS-FREE MIB-FREE INSTANCES SEEN", rows)
		},
	}
	cmd.AddCommand(c.drain(), c.fence(), c.resume())
	return cmd
}

// hostState is a host's state, and that it drains when that does not show.
func hostState(h operatorgen.Host) string {
	if h.Draining != nil && *h.Draining && h.State != operatorgen.HostStateDraining {
		return string(h.State) + ",draining"
	}
	return string(h.State)
}

func (c *client) instances() *cobra.Command {
	in := operatorgen.ListInstancesInput{MaxResults: maxResults()}
	var state string
	cmd := &cobra.Command{
		Use: "instances", Short: "List the instances of all accounts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in.State = operatorgen.InstanceState(state)
			list, err := c.listInstances(cmd.Context(), in)
			if err != nil {
				return err
			}
			rows := make([][]string, len(list))
			for i, v := range list {
				kind := v.InstanceType
				if v.Simulated {
					kind += " (simulated)"
				}
				rows[i] = []string{v.InstanceId, v.AccountId, string(v.State), kind, v.Zone, v.HostId, v.PrivateIp, v.VpcId, moment(v.LaunchedAtMs), v.Reason}
			}
			return c.table(list, "INSTANCE ACCOUNT STATE TYPE ZONE HOST ADDRESS VPC LAUNCHED REASON", rows)
		},
	}
	cmd.Flags().StringVar(&in.AccountId, "account", "", "only of this `account`")
	cmd.Flags().StringVar(&in.HostId, "host", "", "only on this `host`")
	cmd.Flags().StringVar(&state, "state", "", "only in this `state`")
	return cmd
}

func (c *client) listInstances(ctx context.Context, in operatorgen.ListInstancesInput) ([]operatorgen.Instance, error) {
	return pages(func(token string) ([]operatorgen.Instance, string, error) {
		in.NextToken = token
		out, err := c.api().ListInstances(ctx, &in)
		if err != nil {
			return nil, "", c.explain(err)
		}
		return out.Instances, out.NextToken, nil
	})
}

func (c *client) operations() *cobra.Command {
	var in operatorgen.ListOperationsInput
	var unfinished bool
	var limit int
	cmd := &cobra.Command{
		Use: "ops [RESOURCE]", Short: "List operations, newest first", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: want at least 1", limit)
			}
			in.MaxResults = maxResults()
			if len(args) == 1 {
				in.Subject = args[0]
			}
			if unfinished {
				in.Unfinished = &unfinished
			}
			list, more, err := c.listOperations(cmd.Context(), in, limit)
			if err != nil {
				return err
			}
			if more {
				fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d: raise --limit\n", limit)
			}
			rows := make([][]string, len(list))
			for i, o := range list {
				took := ""
				if o.EndedAtMs != nil {
					took = (time.Duration(*o.EndedAtMs-o.StartedAtMs) * time.Millisecond).String()
				}
				rows[i] = []string{o.OperationId, o.Kind, o.Subject, string(o.State), moment(o.StartedAtMs), took, o.Detail}
			}
			return c.table(list, "OPERATION KIND RESOURCE STATE STARTED TOOK DETAIL", rows)
		},
	}
	cmd.Flags().BoolVar(&unfinished, "unfinished", false, "only those under way")
	cmd.Flags().IntVar(&limit, "limit", 1000, "print at most this `many`")
	return cmd
}

// listOperations turns pages until there are limit operations, and says whether there are more.
func (c *client) listOperations(ctx context.Context, in operatorgen.ListOperationsInput, limit int) (all []operatorgen.Operation, more bool, err error) {
	all = []operatorgen.Operation{}
	for {
		out, err := c.api().ListOperations(ctx, &in)
		if err != nil {
			return nil, false, c.explain(err)
		}
		all = append(all, out.Operations...)
		if len(all) > limit || out.NextToken == "" {
			return all[:min(limit, len(all))], len(all) > limit, nil
		}
		in.NextToken = out.NextToken
	}
}

func (c *client) imageList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := pages(func(token string) ([]operatorgen.Image, string, error) {
				out, err := c.api().ListImages(cmd.Context(), &operatorgen.ListImagesInput{MaxResults: maxResults(), NextToken: token})
				if err != nil {
					return nil, "", c.explain(err)
				}
				return out.Images, out.NextToken, nil
			})
			if err != nil {
				return err
			}
			rows := make([][]string, len(images))
			for i, v := range images {
				rows[i] = []string{v.ImageId, v.Name, v.State, strconv.FormatBool(v.Public), v.AccountId, strconv.FormatInt(v.SizeBytes>>20, 10), moment(v.CreatedAtMs)}
			}
			return c.table(images, "IMAGE NAME STATE PUBLIC OWNER MIB CREATED", rows)
		},
	}
}

func (c *client) check() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Recount everything and report what does not hold", Args: cobra.NoArgs,
		Long: "Check recounts addresses, quotas, capacity, references and owners from one snapshot. It exits 1 when an invariant does not hold.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := c.api().RunCheck(cmd.Context(), &operatorgen.RunCheckInput{})
			if err != nil {
				return c.explain(err)
			}
			if err := c.printCheck(out); err != nil {
				return err
			}
			if len(out.Findings) > 0 {
				return ErrFindings
			}
			return nil
		},
	}
}

func (c *client) printCheck(out *operatorgen.RunCheckOutput) error {
	if c.json {
		return c.printJSON(out)
	}
	for _, f := range out.Findings {
		fmt.Fprintf(c.out, "check %s FAIL %s: %s\n", f.Invariant, f.Subject, f.Detail)
	}
	for _, n := range out.Counts {
		if n.Broken == 0 {
			fmt.Fprintf(c.out, "check %s ok (%d rows)\n", n.Invariant, n.Checked)
		}
	}
	return nil
}

func (c *client) token() *cobra.Command {
	var ttl time.Duration
	var known string
	cmd := &cobra.Command{
		Use: "token", Short: "Make a token with which one host can join, once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			seconds := int32(ttl / time.Second)
			out, err := c.api().CreateJoinToken(cmd.Context(), &operatorgen.CreateJoinTokenInput{Role: operatorgen.JoinRoleHost, HostId: known, TtlSeconds: &seconds})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(out)
			}
			fmt.Fprintf(c.out, "nimbrel agent --server %s --join %s\n", out.Address, out.Token)
			return nil
		},
	}
	cmd.Flags().StringVar(&known, "host", "", "a `host` that has joined before and is to join again with a new key, as after its certificate expired")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "for how `long` it can be used")
	return cmd
}

func (c *client) store() *cobra.Command {
	cmd := &cobra.Command{Use: "rows", Short: "Read the server's rows, for debugging", Args: cobra.NoArgs}
	var limit int32
	var reveal bool
	scan := &cobra.Command{
		Use: "scan [PREFIX]", Short: "Print rows in key order, one JSON object a line", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := operatorgen.StoreScanInput{Limit: &limit, Reveal: &reveal}
			if len(args) == 1 {
				in.Prefix = args[0]
			}
			out, err := c.api().StoreScan(cmd.Context(), &in)
			if err != nil {
				return c.explain(err)
			}
			enc := json.NewEncoder(c.out)
			for _, row := range out.Rows {
				if err := enc.Encode(row); err != nil {
					return err
				}
			}
			if out.More {
				fmt.Fprintln(cmd.ErrOrStderr(), "there is more: raise --limit")
			}
			return nil
		},
	}
	scan.Flags().Int32Var(&limit, "limit", pageMax, "print at most this `many`")
	get := &cobra.Command{
		Use: "get KEY", Short: "Print one row", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := c.api().StoreGet(cmd.Context(), &operatorgen.StoreGetInput{Key: args[0], Reveal: &reveal})
			if err != nil {
				return c.explain(err)
			}
			if out.Row == nil {
				return fmt.Errorf("no row %s at version %d", args[0], out.ReadVersion)
			}
			return c.printJSON(out.Row)
		},
	}
	cmd.PersistentFlags().BoolVar(&reveal, "reveal", false, "show user data and sealed secrets too; the audit log notes it")
	cmd.AddCommand(scan, get)
	return cmd
}
