// Package cli is the operator's command line: tables and JSON of the operators' API, and streams to guests.
//
// Each command asks the server over its unix socket. Every command has --json, which prints what the API answered.
//
// Deliberately absent: anything that a tenant does. Tenants use AWS's own tools; `nimbrel env` prepares those.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/operator/operatorgen"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// pageMax is the number of items asked for at once.
const pageMax = 100

// rawNote annotates commands that carry a guest's bytes as they are, and refuse --json.
const rawNote = "nimbrel-raw"

// client is what the commands share: flags, and the way to the server.
type client struct {
	socket string
	json   bool
	out    io.Writer
}

// Commands returns the command line's commands, sharing the flags --socket and --json, which each has.
func Commands() []*cobra.Command {
	c := &client{}
	commands := []*cobra.Command{
		c.status(), c.hosts(), c.instances(), c.operations(), c.accounts(), c.check(), c.token(),
		c.explainCommand(), c.ssh(), c.console(), c.forward(), c.environment(), c.store(),
	}
	return c.equip(commands)
}

// ImageCommands returns the commands on the cloud's images, to stand beside those on local files under `nimbrel image`.
func ImageCommands() []*cobra.Command {
	c := &client{}
	return c.equip([]*cobra.Command{c.imageList(), c.imageImport()})
}

// equip gives commands the flags that they share.
func (c *client) equip(commands []*cobra.Command) []*cobra.Command {
	for _, cmd := range commands {
		cmd.PersistentFlags().StringVar(&c.socket, "socket", statedir.OperatorSocket(statedir.Default()), "the server's operator `socket`")
		cmd.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
		cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
			c.out = cmd.OutOrStdout()
			if _, raw := cmd.Annotations[rawNote]; raw && c.json {
				return fmt.Errorf("%s --json: it carries a guest's own bytes, which have no JSON form; leave --json out", cmd.CommandPath())
			}
			return nil
		}
	}
	return commands
}

func (c *client) api() *operatorgen.Client {
	return operatorgen.NewClient(awsjson.UnixClient(c.socket), "http://operator")
}

// dial connects to the server for a stream.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	return conn, c.explain(err)
}

// explain says what to do about a server that cannot be reached.
func (c *client) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("no server answers at %s: start one with `nimbrel dev up` or `nimbrel server`, or name its socket with --socket", c.socket)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("no permission for %s: it belongs to whoever started the cloud; try with sudo", c.socket)
	}
	return err
}

// table prints rows under a header, or v as JSON.
func (c *client) table(v any, header string, rows [][]string) error {
	if c.json {
		return c.printJSON(v)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func (c *client) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// pages collects all pages of a list.
func pages[T any](page func(token string) ([]T, string, error)) ([]T, error) {
	all := []T{}
	for token := ""; ; {
		items, next, err := page(token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" {
			return all, nil
		}
		token = next
	}
}

func maxResults() *int32 {
	n := int32(pageMax)
	return &n
}

// moment prints a time in milliseconds since 1970 as seen from here; 0 is "".
func moment(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format("2006-01-02 15:04:05")
}

// ago prints how long ago a time in milliseconds since 1970 was.
func ago(ms *int64) string {
	if ms == nil {
		return ""
	}
	return time.Since(time.UnixMilli(*ms)).Round(time.Second).String() + " ago"
}
