package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nimbrel/nimbrel/operator/operatorgen"
)

const (
	askTimeout = 30 * time.Second
	pageSize   = 1000
)

// part is one entry to be.
type part struct {
	name string
	read func(context.Context) ([]byte, error)
}

// parts lists the entries in order.
func (o Options) parts() []part {
	var all []part
	if o.API != nil {
		all = append(all, o.cloud()...)
	}
	for i, url := range o.MetricsURLs {
		all = append(all, part{fmt.Sprintf("metrics/%d.txt", i), func(ctx context.Context) ([]byte, error) { return fetch(ctx, url) }})
	}
	for i, dir := range append([]string{o.StateDir}, o.AgentStateDirs...) {
		if dir == "" {
			continue
		}
		all = append(all, part{fmt.Sprintf("files/%d.txt", i), func(context.Context) ([]byte, error) { return tree(dir) }})
		logs, _ := filepath.Glob(filepath.Join(dir, "log", "*.log"))
		for _, path := range logs[:min(len(logs), maxFiles)] {
			all = append(all, part{"logs/" + filepath.Base(path), func(context.Context) ([]byte, error) { return tail(path) }})
		}
	}
	for _, unit := range o.Journal {
		all = append(all, part{"logs/" + unit + ".journal", func(ctx context.Context) ([]byte, error) { return journal(ctx, unit) }})
	}
	names := make([]string, 0, len(o.Parts))
	for name := range o.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all = append(all, part{name, o.Parts[name]})
	}
	return all
}

// cloud is what the server tells.
func (o Options) cloud() []part {
	ask := func(name string, read func(context.Context) (any, error)) part {
		return part{name, func(ctx context.Context) ([]byte, error) {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			v, err := read(ctx)
			if err != nil {
				return nil, err
			}
			return json.MarshalIndent(v, "", "  ")
		}}
	}
	size := new(int32(pageSize))
	return []part{
		ask("status.json", func(ctx context.Context) (any, error) { return o.API.GetStatus(ctx, &operatorgen.GetStatusInput{}) }),
		ask("check.json", func(ctx context.Context) (any, error) { return o.API.RunCheck(ctx, &operatorgen.RunCheckInput{}) }),
		ask("hosts.json", func(ctx context.Context) (any, error) {
			return pages(func(token string) ([]operatorgen.Host, string, error) {
				out, err := o.API.ListHosts(ctx, &operatorgen.ListHostsInput{MaxResults: size, NextToken: token})
				if err != nil {
					return nil, "", err
				}
				return out.Hosts, out.NextToken, nil
			})
		}),
		ask("instances.json", func(ctx context.Context) (any, error) {
			return pages(func(token string) ([]operatorgen.Instance, string, error) {
				out, err := o.API.ListInstances(ctx, &operatorgen.ListInstancesInput{MaxResults: size, NextToken: token})
				if err != nil {
					return nil, "", err
				}
				return out.Instances, out.NextToken, nil
			})
		}),
		ask("operations.json", func(ctx context.Context) (any, error) {
			return pages(func(token string) ([]operatorgen.Operation, string, error) {
				out, err := o.API.ListOperations(ctx, &operatorgen.ListOperationsInput{MaxResults: size, NextToken: token})
				if err != nil {
					return nil, "", err
				}
				return out.Operations, out.NextToken, nil
			})
		}),
		ask("row-counts.json", func(ctx context.Context) (any, error) { return rowCounts(ctx, o.API) }),
	}
}

// pages collects the pages of a list, to its bound.
func pages[T any](page func(token string) ([]T, string, error)) ([]T, error) {
	all := []T{}
	for token := ""; len(all) < maxListed; {
		items, next, err := page(token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" {
			break
		}
		token = next
	}
	return all, nil
}

// rowCounts counts the store's rows by the first two texts of their keys. No value is kept.
func rowCounts(ctx context.Context, api operatorgen.API) (map[string]int, error) {
	counts := map[string]int{}
	in := operatorgen.StoreScanInput{Limit: new(int32(pageSize))}
	for total := 0; total < maxRows; {
		out, err := api.StoreScan(ctx, &in)
		if err != nil {
			return nil, err
		}
		for _, row := range out.Rows {
			counts[table(row.Key)]++
			in.After = row.Key
		}
		total += len(out.Rows)
		if !out.More || len(out.Rows) == 0 {
			return counts, nil
		}
	}
	counts["(and more)"]++
	return counts, nil
}

// table is what a key belongs to: its first two elements, as far as they are texts.
func table(key string) string {
	var parts []any
	if err := json.Unmarshal([]byte(key), &parts); err != nil {
		return "(unreadable)"
	}
	var names []string
	for _, p := range parts[:min(len(parts), 2)] {
		text, isText := p.(string)
		if !isText {
			break
		}
		names = append(names, text)
	}
	return strings.Join(names, "/")
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(io.LimitReader(answer.Body, maxLogBytes))
}

// tree lists names, sizes and modes of files. Nothing is opened.
func tree(root string) ([]byte, error) {
	var text strings.Builder
	entries := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if entries++; entries > maxListed {
			fmt.Fprintln(&text, "(and more)")
			return fs.SkipAll
		}
		if err != nil {
			fmt.Fprintf(&text, "%s: %v\n", path, err)
			return nil
		}
		if info, err := d.Info(); err == nil {
			fmt.Fprintf(&text, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		}
		return nil
	})
	return []byte(text.String()), err
}

// tail is the end of a file, from the begin of a line.
func tail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-maxLogBytes)
	content, err := io.ReadAll(io.NewSectionReader(f, from, maxLogBytes))
	if from > 0 {
		content = wholeLines(content)
	}
	return content, err
}

// wholeLines leaves out the line that a text was cut off in: half a line may be half a secret, which the scrubber would
// not know.
func wholeLines(text []byte) []byte {
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return rest
}

// journal is the end of a unit's journal. What comes before it is read and let go.
func journal(ctx context.Context, unit string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return output(exec.CommandContext(ctx, "journalctl", "-q", "--no-pager", "-o", "short-iso", "-n", "20000", "-u", unit))
}

// output is the end of what a program prints, from the begin of a line, and never more than maxLogBytes in memory.
func output(cmd *exec.Cmd) ([]byte, error) {
	end := &ending{keep: maxLogBytes}
	cmd.Stdout = end
	err := cmd.Run()
	return end.text(), err
}

// ending is a ring that keeps the last bytes of what is written to it.
type ending struct {
	keep    int
	ring    []byte
	next    int // where the oldest byte is, once the ring is full
	dropped bool
}

func (e *ending) Write(p []byte) (int, error) {
	n := len(p)
	if room := e.keep - len(e.ring); room > 0 {
		part := p[:min(room, len(p))]
		e.ring, p = append(e.ring, part...), p[len(part):]
	}
	e.dropped = e.dropped || len(p) > 0
	p = p[max(0, len(p)-e.keep):]
	for len(p) > 0 {
		k := copy(e.ring[e.next:], p)
		p, e.next = p[k:], (e.next+k)%e.keep
	}
	return n, nil
}

// text is what is kept, without the line that the beginning was cut off from.
func (e *ending) text() []byte {
	all := slices.Concat(e.ring[e.next:], e.ring[:e.next])
	if e.dropped {
		return wholeLines(all)
	}
	return all
}
