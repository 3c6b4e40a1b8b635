// Package tool holds `nimbrel store`: the subcommands that look into a store, back it up, restore it and change it.
//
// A store is a directory that no server has open, named with --dir; backup, stats and watch ask the running server when
// there is none, and get, scan, put and txn what `store serve` serves, named with --connect. A directory in use is refused
// with the fix named. Rows, logs and transactions are printed as one JSON object a line; the other commands print words, and
// JSON with --json.
//
// Deliberately absent: writes to a running cloud's store, which belongs to the parts, and serving over TCP. Start with Command.
package tool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/statedir"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/tuple"
)

// Finding is one broken statement of those who own the rows.
type Finding struct {
	Statement, Subject, Detail string
}

// Options say what the commands cannot know.
type Options struct {
	// Check evaluates the cloud's invariants on an engine, for `store verify --check`. Nil: there is no such flag.
	Check func(ctx context.Context, e store.Engine) ([]Finding, error)
}

// place says where to read.
type place struct {
	dir, socket string
	connect     string
	cell        uint32
	tenant      string
	json        bool
}

// Command returns "store" with its subcommands.
func Command(o Options) *cobra.Command {
	var p place
	c := &cobra.Command{
		Use:   "store",
		Short: "Back up, verify, restore and look into the store",
		Long: "Back up, verify, restore and look into the store.\n\nA key is given as its elements, one argument each: " +
			"text as it is, integers as #5.\nRows are printed as JSON, one a line; CBOR maps show their field numbers.",
	}
	flags := c.PersistentFlags()
	flags.StringVar(&p.dir, "dir", "", "the `directory` of a store whose server is down")
	flags.StringVar(&p.socket, "socket", statedir.OperatorSocket(statedir.Default()), "the server's operator `socket`, for backup, stats and watch")
	flags.Uint32Var(&p.cell, "cell", 0, "cell of the key")
	flags.StringVar(&p.tenant, "tenant", "", "tenant of the key (scan and watch: default all tenants of all cells)")
	for _, worded := range []*cobra.Command{backupCommand(&p), verifyCommand(&p, o), restoreCommand(&p), statsCommand(&p)} {
		worded.Flags().BoolVar(&p.json, "json", false, "print JSON")
		c.AddCommand(worded)
	}
	for _, rows := range []*cobra.Command{getCommand(&p), scanCommand(&p), putCommand(&p), txnCommand(&p)} {
		rows.Flags().StringVar(&p.connect, "connect", "", "`unix:PATH` of what store serve serves")
		c.AddCommand(rows)
	}
	c.AddCommand(watchCommand(&p), logCommand(&p), serveCommand())
	return c
}

// needDir refuses a command that works on a directory only.
func (p *place) needDir(otherwise string) error {
	if p.dir == "" && p.connect == "" {
		return errors.New("name the store's directory with --dir: its server must be down; " + otherwise)
	}
	return nil
}

// prefix is that of the elements, or of everything when nothing was asked for.
func (p *place) prefix(c *cobra.Command, elements []string) ([]byte, error) {
	var prefix []byte
	if c.Flags().Changed("tenant") || c.Flags().Changed("cell") || len(elements) > 0 {
		prefix = store.HandlePrefix(p.cell, p.tenant)
	}
	return parseKey(prefix, elements)
}

func getCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use:     "get ELEMENT...",
		Short:   "Print one row",
		Example: "  nimbrel store get --dir /var/lib/nimbrel/store --tenant main instance i-0123456789abcdef0",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := parseKey(store.HandlePrefix(p.cell, p.tenant), args)
			if err != nil {
				return err
			}
			return p.read(c.Context(), func(ctx context.Context, s store.Snapshot) error {
				return printRow(ctx, c.OutOrStdout(), s, key, args)
			})
		},
	}
}

func scanCommand(p *place) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:     "scan [ELEMENT...]",
		Short:   "Print the rows whose keys start with the elements",
		Example: "  nimbrel store scan --dir /var/lib/nimbrel/store --limit 10",
		RunE: func(c *cobra.Command, args []string) error {
			prefix, err := p.prefix(c, args)
			if err != nil {
				return err
			}
			return p.read(c.Context(), func(ctx context.Context, s store.Snapshot) error {
				return printRange(ctx, c.OutOrStdout(), s, prefix, limit)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 1000, "most rows to print, 0 for all")
	return c
}

// read opens the directory read only and calls fn with its newest state.
func (p *place) read(ctx context.Context, fn func(ctx context.Context, s store.Snapshot) error) (err error) {
	if err := p.needDir("a running server's rows are `nimbrel rows scan`"); err != nil {
		return err
	}
	e, err := p.open(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	s, err := e.Snapshot(ctx, 0)
	if err != nil {
		return err
	}
	defer s.Release()
	return fn(ctx, s)
}

// open opens the directory, or connects.
func (p *place) open(ctx context.Context, readOnly bool) (store.Engine, error) {
	switch {
	case p.connect != "" && p.dir != "":
		return nil, errors.New("--dir and --connect exclude each other")
	case p.connect != "":
		return p.remote(ctx)
	}
	return embed.Open(p.dir, embed.Options{ReadOnly: readOnly})
}

// parseKey appends the elements to a key.
func parseKey(key []byte, elements []string) ([]byte, error) {
	for _, e := range elements {
		if !strings.HasPrefix(e, "#") {
			key = tuple.AppendText(key, e)
			continue
		}
		if n, err := strconv.ParseUint(e[1:], 10, 64); err == nil {
			key = tuple.AppendUint(key, n)
		} else if n, err := strconv.ParseInt(e[1:], 10, 64); err == nil {
			key = tuple.AppendInt(key, n)
		} else {
			return nil, fmt.Errorf("key element %q: an integer follows #, or write the text without it", e)
		}
	}
	return key, nil
}

func printRow(ctx context.Context, w io.Writer, s store.Snapshot, key []byte, args []string) error {
	v, version, found, err := s.Get(ctx, key)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("no row %s: `store scan` lists what there is", strings.Join(args, " "))
	}
	_, err = w.Write(appendRow(nil, store.KV{Key: key, Value: v, Version: version}))
	return err
}

func printRange(ctx context.Context, w io.Writer, s store.Snapshot, prefix []byte, limit int) error {
	out := bufio.NewWriter(w)
	o := store.RangeOptions{Begin: prefix, End: store.PrefixEnd(prefix)}
	for left := limit; limit == 0 || left > 0; {
		if o.Limit = store.MaxRangeRows; limit > 0 {
			o.Limit = min(left, o.Limit)
		}
		rows, err := s.Range(ctx, o)
		if err != nil {
			return err
		}
		for _, kv := range rows {
			if _, err := out.Write(appendRow(nil, kv)); err != nil {
				return err
			}
		}
		if len(rows) < o.Limit {
			break
		}
		left -= len(rows)
		o.Begin = append(append([]byte{}, rows[len(rows)-1].Key...), 0)
	}
	return out.Flush()
}
