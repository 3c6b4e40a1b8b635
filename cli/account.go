package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

func (c *client) accounts() *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "Make and list accounts, set quotas", Args: cobra.NoArgs}
	cmd.AddCommand(c.accountCreate(), c.accountList(), c.accountQuota())
	return cmd
}

func (c *client) accountCreate() *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Make an account with one access key, whose secret is shown this once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := c.api().CreateAccount(cmd.Context(), &operatorgen.CreateAccountInput{Name: args[0]})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(out)
			}
			fmt.Fprintf(c.out, "account            %s\naccess key id      %s\nsecret access key  %s  (not shown again)\n", out.AccountId, out.AccessKeyId, out.SecretAccessKey)
			return nil
		},
	}
}

func (c *client) accountList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List accounts with what is left of their quotas", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			accounts, err := pages(func(token string) ([]operatorgen.Account, string, error) {
				out, err := c.api().ListAccounts(cmd.Context(), &operatorgen.ListAccountsInput{MaxResults: maxResults(), NextToken: token})
				if err != nil {
					return nil, "", c.explain(err)
				}
				return out.Accounts, out.NextToken, nil
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, a := range accounts {
				for _, q := range a.Quotas {
					rows = append(rows, []string{a.AccountId, a.Name, q.Name, strconv.FormatInt(q.Left, 10), strconv.FormatInt(q.Limit, 10)})
				}
			}
			return c.table(accounts, "ACCOUNT NAME QUOTA LEFT LIMIT", rows)
		},
	}
}

func (c *client) accountQuota() *cobra.Command {
	return &cobra.Command{
		Use: "quota ACCOUNT QUOTA LIMIT", Short: "Set a quota's limit; what is in use stays", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			limit, err := strconv.ParseInt(args[2], 10, 64)
			if err != nil {
				return fmt.Errorf("limit %q: want a number", args[2])
			}
			out, err := c.api().SetQuota(cmd.Context(), &operatorgen.SetQuotaInput{AccountId: args[0], Name: args[1], Value: limit})
			if err != nil {
				return c.explain(err)
			}
			if c.json {
				return c.printJSON(out)
			}
			fmt.Fprintf(c.out, "%s of account %s: %d left of %d\n", args[1], args[0], out.Left, limit)
			return nil
		},
	}
}
