package tool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/admin"
	"github.com/nimbrel/nimbrel/store/backup"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/internal/mvcc"
)

func statsCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "stats", Short: "Show the running store's counts, sizes and hot keys", Args: cobra.NoArgs,
		Long: "Stats shows what the store counted since its server started, and what it uses now. With --dir it opens a store whose server\nis down: then there are sizes and versions only.",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := p.stats(c.Context())
			if err != nil {
				return err
			}
			if p.json {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStats(c.OutOrStdout(), s)
		},
	}
}

func (p *place) stats(ctx context.Context) (*admin.Stats, error) {
	if p.dir == "" {
		s, err := p.server().Stats(ctx)
		return s, p.explain(err)
	}
	e, err := embed.Open(p.dir, embed.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	s := admin.Summarize(e)
	return &s, e.Close()
}

func printStats(w io.Writer, s *admin.Stats) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "history %s\nversion %d, kept from %d\n", s.History, s.Durable, s.Floor)
	fmt.Fprintf(out, "commits %d, conflicts %d, guard failures %d, refused %d, waiting %d\n", s.Commits, s.Conflicts, s.GuardFailures, s.Refused, s.Waiting)
	if s.Batches > 0 {
		fmt.Fprintf(out, "batches %d, %.1f commits each, half durable within %d µs, 99%% within %d µs\n",
			s.Batches, float64(s.BatchCommits)/float64(s.Batches), s.SyncP50Us, s.SyncP99Us)
	}
	size := func(n uint64) string { return backup.Size(int64(min(n, 1<<62))) }
	fmt.Fprintf(out, "disk %s, of which log %s; history %s of %s or %v\n", size(s.DiskBytes), size(s.LogBytes), size(s.HistoryBytes),
		size(s.Bounds.HistoryBytes), time.Duration(s.Bounds.HistoryMs)*time.Millisecond)
	fmt.Fprintf(out, "memory: cache %s of %s, tables in the making %s\n", size(s.CacheBytes), size(uint64(s.Bounds.CacheBytes)), size(s.MemTableBytes))
	for _, list := range []struct {
		name string
		keys []admin.KeyCount
	}{{"written most, about", s.HotKeys}, {"conflicts", s.ConflictKeys}, {"guard failures", s.GuardKeys}} {
		for _, k := range list.keys {
			name := "all other keys"
			if len(k.Key) > 0 {
				name = string(appendKey(nil, k.Key))
			}
			fmt.Fprintf(out, "%s: %d %s\n", list.name, k.Count, name)
		}
	}
	return out.Flush()
}

func watchCommand(p *place) *cobra.Command {
	var from int64
	var reveal bool
	var count int
	c := &cobra.Command{
		Use: "watch [ELEMENT...]", Short: "Print what the running store commits, one JSON object a line", Args: cobra.ArbitraryArgs,
		Long:    "Watch prints each transaction that touches a key under the elements, with the length of what it wrote, until it is interrupted.\nWith --reveal it prints values too; the audit log notes it.",
		Example: "  nimbrel store watch --tenant nimbrel compute instance",
		RunE: func(c *cobra.Command, args []string) error {
			prefix, err := p.prefix(c, args)
			if err != nil {
				return err
			}
			var begin *store.Version
			if c.Flags().Changed("from") {
				v := store.Version(max(0, from))
				begin = &v
			}
			left := count
			err = p.server().Watch(c.Context(), begin, prefix, reveal, func(e admin.Event) error {
				if e.Progress {
					return nil
				}
				if _, err := c.OutOrStdout().Write(appendEvent(nil, e)); err != nil {
					return err
				}
				if left--; left == 0 {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) || errors.Is(err, context.Canceled) {
				return nil
			}
			return p.explain(err)
		},
	}
	c.Flags().Int64Var(&from, "from", 0, "begin after this `version`; default: now")
	c.Flags().IntVar(&count, "count", 0, "end after this `many` transactions; 0 goes on")
	c.Flags().BoolVar(&reveal, "reveal", false, "print values too, secrets included; the audit log notes it")
	return c
}

var errEnough = errors.New("enough")

func logCommand(p *place) *cobra.Command {
	log := &cobra.Command{Use: "log", Short: "Read the log of a store whose server is down", Args: cobra.NoArgs}
	var after uint64
	var limit int
	dump := &cobra.Command{
		Use: "dump", Short: "Print what each version that is kept wrote, one JSON object a line", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := p.needDir("a running server's is `nimbrel store watch`"); err != nil {
				return err
			}
			s, err := mvcc.Open(p.dir, mvcc.Options{ReadOnly: true})
			if err != nil {
				return err
			}
			return errors.Join(dumpLog(c.OutOrStdout(), s, store.Version(after), limit), s.Close())
		},
	}
	dump.Flags().Uint64Var(&after, "after", 0, "begin after this `version`")
	dump.Flags().IntVar(&limit, "limit", 1000, "most `versions` to print, 0 for all")
	log.AddCommand(dump)
	return log
}

func dumpLog(w io.Writer, s *mvcc.State, after store.Version, limit int) error {
	out := bufio.NewWriter(w)
	n := 0
	var failed error
	err := s.Log(after, func(e mvcc.Entry) bool {
		line := append([]byte(`{"version":`), strconv.FormatUint(uint64(e.Version), 10)...)
		line = append(line, `,"timeMs":`...)
		line = strconv.AppendInt(line, e.TimeMs, 10)
		line = append(line, `,"written":`...)
		line = strconv.AppendUint(line, e.Written, 10)
		line = append(line, `,"keys":[`...)
		for i, key := range e.Keys {
			if i > 0 {
				line = append(line, ',')
			}
			line = appendKey(line, key)
		}
		_, failed = out.Write(append(line, ']', '}', '\n'))
		n++
		return failed == nil && (limit == 0 || n < limit)
	})
	return errors.Join(err, failed, out.Flush())
}

// appendEvent appends a transaction as one line of JSON.
func appendEvent(dst []byte, e admin.Event) []byte {
	dst = append(dst, `{"version":`...)
	dst = strconv.AppendUint(dst, uint64(e.Version), 10)
	dst = append(dst, `,"changes":[`...)
	for i, c := range e.Changes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendKey(append(dst, `{"key":`...), c.Key)
		switch {
		case c.Deleted:
			dst = append(dst, `,"deleted":true`...)
		case c.Value != nil:
			dst = appendValue(append(dst, `,"value":`...), *c.Value)
		default:
			dst = strconv.AppendInt(append(dst, `,"bytes":`...), int64(c.Bytes), 10)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']', '}', '\n')
}
