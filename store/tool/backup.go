package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nimbrel/nimbrel/internal/runbook"
	"github.com/nimbrel/nimbrel/store/admin"
	"github.com/nimbrel/nimbrel/store/backup"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/svc/awsjson"
)

// server is the store of the server behind the socket.
func (p *place) server() *admin.Client {
	return &admin.Client{HTTP: awsjson.UnixClient(p.socket), URL: "http://operator"}
}

// explain says what to do about a server that cannot be reached.
func (p *place) explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("no server answers at %s: name its socket with --socket, or with --dir the directory of a store whose server is down", p.socket)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("no permission for %s: it belongs to whoever started the cloud; try with sudo", p.socket)
	}
	return err
}

func backupCommand(p *place) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "backup --to DIRECTORY", Short: "Back up the running server's store, or with --dir one whose server is down", Args: cobra.NoArgs,
		Long: "Backup writes the store's files as they are at one version, with their digests, into a new directory, and verifies them.\n" +
			"The server goes on meanwhile; on its own disk it keeps what it replaces until the backup ends. Keys and images are not in the\n" +
			"store: copy root.key, authority and images of the server's directory too.",
		Example: "  nimbrel store backup --to /backup/nimbrel-2026-11-24",
		RunE:    func(c *cobra.Command, _ []string) error { return p.backUp(c, to) },
	}
	c.Flags().StringVar(&to, "to", "", "the backup's `directory`, which must not exist")
	_ = c.MarkFlagRequired("to")
	return c
}

// backedUp is what `store backup --json` prints.
type backedUp struct {
	Dir      string           `json:"dir"`
	PausedUs int64            `json:"pausedUs"` // for how long the server's commits rested
	Manifest *backup.Manifest `json:"manifest"`
	Report   *backup.Report   `json:"report"`
}

func (p *place) backUp(c *cobra.Command, to string) error {
	out := backedUp{Dir: to}
	source, err := p.source(c.Context(), &out)
	if err != nil {
		return err
	}
	d := source.Describe()
	steps := newSteps(c.ErrOrStderr())
	out.Manifest, err = backup.Write(c.Context(), to, source, time.Now(), func(r backup.Room) error {
		steps.say("version %d of history %v: %s are to be written%s", d.Version, d.History, backup.Size(r.Bytes), free(r))
		return nil
	}, steps.step)
	if err != nil {
		return err
	}
	if out.Report, err = backup.Verify(c.Context(), to, steps.step); err != nil {
		return err
	}
	if p.json {
		err = printJSON(c.OutOrStdout(), out)
	} else {
		m := out.Manifest
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d of history %s, %s in %d files; commits rested for %v\n",
			to, m.Version, m.History, backup.Size(m.Bytes()), len(m.Files), (time.Duration(out.PausedUs) * time.Microsecond).Round(100*time.Microsecond))
	}
	return errors.Join(err, found(c.OutOrStdout(), out.Report, p.json))
}

func free(r backup.Room) string {
	if r.Free == 0 {
		return ""
	}
	return ", " + backup.Size(int64(min(r.Free, 1<<62))) + " are free"
}

// source is the directory's, or the server's.
func (p *place) source(ctx context.Context, out *backedUp) (backup.Source, error) {
	if p.dir != "" {
		s, err := backup.OfDirectory(p.dir)
		if errors.Is(err, embed.ErrLocked) {
			err = fmt.Errorf("%w; or leave --dir out, and the server makes the backup while it runs", err)
		}
		return s, err
	}
	s, paused, err := p.server().Backup(ctx)
	out.PausedUs = paused.Microseconds()
	return s, p.explain(err)
}

func verifyCommand(p *place, o Options) *cobra.Command {
	var invariants bool
	c := &cobra.Command{
		Use: "verify DIRECTORY", Short: "Read a whole backup, or a store whose server is down, and say what is wrong", Args: cobra.ExactArgs(1),
		Long: "Verify compares a backup's files with its manifest, reads every entry of the store, holds its log against its rows, and\n" +
			"recounts its pools. It changes nothing, and exits with 1 when anything is wrong.",
		Example: "  nimbrel store verify /backup/nimbrel-2026-11-24",
		RunE: func(c *cobra.Command, args []string) error {
			r, err := backup.Verify(c.Context(), args[0], newSteps(c.ErrOrStderr()).step)
			if err != nil {
				return err
			}
			if invariants && r.OK() {
				if err := p.invariants(c.Context(), args[0], o, r); err != nil {
					return err
				}
			}
			if p.json {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				err = printReport(c.OutOrStdout(), r)
			}
			return errors.Join(err, found(c.OutOrStdout(), r, p.json))
		},
	}
	if o.Check != nil {
		c.Flags().BoolVar(&invariants, "check", false, "check the cloud's invariants too, as `nimbrel check` does on a server")
	}
	return c
}

// invariants adds what the parts find in their rows.
func (p *place) invariants(ctx context.Context, dir string, o Options, r *backup.Report) error {
	e, err := backup.Open(dir)
	if err != nil {
		return err
	}
	findings, err := o.Check(ctx, e)
	for _, f := range findings {
		r.Add(backup.Problem(f))
	}
	return errors.Join(err, e.Close())
}

func restoreCommand(p *place) *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use: "restore --from BACKUP --to DIRECTORY", Short: "Verify a backup and make a store of it, with a history of its own", Args: cobra.NoArgs,
		Long: "Restore makes a store of a backup in a new directory. It begins a new history, so that hosts and followers of the lost one\n" +
			"start over instead of taking old versions for new ones. See store-restore.md in\n" + runbook.Folders + " for the whole way.",
		Example: "  nimbrel store restore --from /backup/nimbrel-2026-11-24 --to /var/lib/nimbrel/server/store",
		RunE: func(c *cobra.Command, _ []string) error {
			steps := newSteps(c.ErrOrStderr())
			r, err := backup.Restore(c.Context(), from, to, time.Now(), func(r backup.Room) error {
				steps.say("%s are to be written%s", backup.Size(r.Bytes), free(r))
				return nil
			}, steps.step)
			damaged := (*backup.NotWhole)(nil)
			if errors.As(err, &damaged) {
				_ = printReport(c.ErrOrStderr(), damaged.Report)
			}
			if err != nil {
				return err
			}
			if p.json {
				return printJSON(c.OutOrStdout(), r)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: version %d, history %s, which was %s\n", r.Dir, r.Version, r.History, r.From)
			return err
		},
	}
	c.Flags().StringVar(&from, "from", "", "the `backup`")
	c.Flags().StringVar(&to, "to", "", "the store's `directory`, which must not exist or be empty")
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagRequired("to")
	return c
}

func printReport(w io.Writer, r *backup.Report) error {
	kind := "store"
	if r.Backup {
		kind = "backup"
	}
	if _, err := fmt.Fprintf(w, "%s: %s of version %d (history %s, kept from version %d): %d rows in %d states, %d log entries, %d records, %d pools, %s in %d files\n",
		r.Dir, kind, r.Version, r.History, r.Floor, r.Rows, r.RowVersions, r.LogEntries, r.Records, r.Pools, backup.Size(r.Bytes), r.Files); err != nil {
		return err
	}
	for _, p := range r.Problems {
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", p.Statement, p.Subject, p.Detail); err != nil {
			return err
		}
	}
	return nil
}

// found ends a command that found something.
func found(w io.Writer, r *backup.Report, quiet bool) error {
	if r.OK() {
		if !quiet {
			fmt.Fprintln(w, "verified: nothing is wrong")
		}
		return nil
	}
	return fmt.Errorf("verify %s: %d problems", r.Dir, r.Count)
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// steps shows how far a long command is, a line for every quarter of a step.
type steps struct {
	w     io.Writer
	name  string
	shown int64
}

func newSteps(w io.Writer) *steps { return &steps{w: w} }

func (s *steps) say(format string, args ...any) { fmt.Fprintf(s.w, "store: "+format+"\n", args...) }

func (s *steps) step(name string, done, total int64) {
	if total <= 0 {
		return
	}
	quarter := done * 4 / total
	if name == s.name && quarter <= s.shown {
		return
	}
	s.name, s.shown = name, quarter
	s.say("%s %d%%", name, quarter*25)
}
