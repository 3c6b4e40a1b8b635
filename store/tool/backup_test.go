package tool

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/admin"
	"github.com/nimbrel/nimbrel/store/embed"
)

// behindSocket serves an engine as a server does.
func behindSocket(t *testing.T, e *embed.Engine) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "st") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: admin.Handler(e, func(context.Context, string, string, error) {})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

// TestLive runs what asks a server.
func TestLive(t *testing.T) {
	_, e := filled(t)
	defer e.Close()
	socket := behindSocket(t, e)
	to := filepath.Join(t.TempDir(), "backup")
	out, err := run("backup", "--socket", socket, "--to", to)
	if err != nil || !strings.Contains(out, "version 1 of history "+e.History().String()) || !strings.Contains(out, "nothing is wrong") || !strings.Contains(out, "are to be written") {
		t.Fatalf("backup: %s%v", out, err)
	}
	if out, err = run("verify", to); err != nil || !strings.Contains(out, "3 rows") {
		t.Errorf("verify: %s%v", out, err)
	}
	out, err = run("watch", "--socket", socket, "--from", "0", "--count", "1", "--tenant", "main", "item")
	if err != nil || out != `{"version":1,"changes":[{"key":[0,"main","item","a"],"bytes":30},{"key":[0,"main","item",5,true,"0xab"],"bytes":8}]}`+"\n" {
		t.Errorf("watch: %s%v", out, err)
	}
	out, err = run("watch", "--socket", socket, "--from", "0", "--count", "1", "--reveal", "--tenant", "main", "raw")
	if err != nil || out != `{"version":1,"changes":[{"key":[0,"main","raw"],"value":"0xff00"}]}`+"\n" {
		t.Errorf("watch --reveal: %s%v", out, err)
	}
	if out, err = run("stats", "--socket", socket); err != nil || !strings.Contains(out, "commits 1, conflicts 0") {
		t.Errorf("stats: %s%v", out, err)
	}
	var s admin.Stats
	if out, err = run("stats", "--socket", socket, "--json"); err != nil || json.Unmarshal([]byte(out), &s) != nil || s.Commits != 1 {
		t.Errorf("stats --json: %s%v", out, err)
	}
}

// TestRestoreCommand goes the way of the runbook on a store without a server.
func TestRestoreCommand(t *testing.T) {
	dir, e := filled(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	to, restored := filepath.Join(root, "backup"), filepath.Join(root, "restored")
	if out, err := run("backup", "--dir", dir, "--to", to); err != nil {
		t.Fatalf("%s%v", out, err)
	}
	if _, err := run("restore", "--from", to, "--to", dir); err == nil || !strings.Contains(err.Error(), "nothing is written over") {
		t.Errorf("restore over a store: %v", err)
	}
	if out, err := run("restore", "--from", to, "--to", restored); err != nil || !strings.Contains(out, "version 1, history") {
		t.Fatalf("%s%v", out, err)
	}
	for _, at := range []string{to, restored} {
		if out, err := run("verify", "--check", at); err == nil || !strings.Contains(out, "part.rule: row: broken") {
			t.Errorf("verify --check %s does not pass on a finding: %s%v", at, out, err)
		}
	}
	before, _ := run("scan", "--dir", dir)
	if after, err := run("scan", "--dir", restored); err != nil || after != before {
		t.Errorf("restored:\n%s%v", after, err)
	}
	if out, err := run("stats", "--dir", restored); err != nil || !strings.Contains(out, "version 1, kept from 0") {
		t.Errorf("stats --dir: %s%v", out, err)
	}
	tables, err := filepath.Glob(filepath.Join(to, "store", "*.log"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	if err := os.Truncate(tables[0], 10); err != nil {
		t.Fatal(err)
	}
	if out, err := run("verify", to); err == nil || !strings.Contains(out, "the manifest says") {
		t.Errorf("a damaged backup: %s%v", out, err)
	}
	if out, err := run("restore", "--from", to, "--to", restored+"2"); err == nil || !strings.Contains(err.Error(), "nothing was restored") {
		t.Errorf("a damaged backup: %s%v", out, err)
	}
}

func TestLogDump(t *testing.T) {
	dir, e := filled(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := run("put", "--dir", dir, "--tenant", "main", "x", "--int", "4"); err != nil {
		t.Fatal(err)
	}
	out, err := run("log", "dump", "--dir", dir, "--after", "1")
	var line struct {
		Version, Written uint64
		TimeMs           int64
		Keys             [][]any
	}
	if err != nil || json.Unmarshal([]byte(out), &line) != nil || line.Version != 2 || line.TimeMs == 0 || line.Written == 0 || len(line.Keys) != 1 || line.Keys[0][2] != "x" {
		t.Errorf("%s%v", out, err)
	}
	if out, err = run("log", "dump", "--dir", dir, "--limit", "1"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("%s%v", out, err)
	}
}

func TestPut(t *testing.T) {
	dir, e := filled(t)
	if _, err := run("put", "--dir", dir, "k", "--int", "1"); !errors.Is(err, embed.ErrLocked) {
		t.Errorf("a store in use: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"--int=-7": "-7", "--text=hi": `"0x6869"`, "--hex=00ff": `"0x00ff"`} {
		if out, err := run("put", "--dir", dir, "--tenant", "t", "k", "#5", value); err != nil {
			t.Errorf("%s%v", out, err)
		}
		if out, err := run("get", "--dir", dir, "--tenant", "t", "k", "#5"); err != nil || !strings.Contains(out, `"value":`+want+"}") {
			t.Errorf("%s: %s%v", value, out, err)
		}
	}
	for _, args := range [][]string{{"k"}, {"k", "--int", "1", "--text", "x"}, {"k", "--hex", "0"}} {
		if _, err := run(append([]string{"put", "--dir", dir}, args...)...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	if _, err := run("put", "--dir", none, "k", "--int", "1"); !errors.Is(err, embed.ErrNoStore) {
		t.Errorf("no store: %v", err)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a mistyped directory was made")
	}
	if _, err := run("put", "k", "--int", "1"); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("no directory: %v", err)
	}
}

func TestTransaction(t *testing.T) {
	dir, e := filled(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	txn := func(text string) (string, error) {
		path := filepath.Join(t.TempDir(), "txn.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return run("txn", "--dir", dir, "--tenant", "shop", path)
	}
	out, err := txn(`{"operations": [
		{"op": "put", "key": ["stock", "apples"], "int": 2},
		{"op": "create-pool", "key": ["number"], "size": 10},
		{"op": "take", "key": ["number"]},
		{"op": "take-exact", "key": ["number"], "element": 5},
		{"op": "give", "key": ["number"], "element": 5},
		{"op": "insert", "key": ["a", 1, true, {"bytes": "00"}], "text": "x"},
		{"op": "add", "key": ["stock", "apples"], "delta": 3, "max": 5}]}`)
	if err != nil || !strings.Contains(out, `"element": 0`) || !strings.Contains(out, `"int": 5`) || !strings.Contains(out, `"operation": 7`) {
		t.Fatalf("%s%v", out, err)
	}
	guard := (*store.GuardError)(nil)
	if _, err := txn(`{"operations": [{"op": "delete", "key": ["stock", "apples"]}, {"op": "add", "key": ["stock", "pears"], "delta": -1, "min": 0}]}`); !errors.As(err, &guard) {
		t.Errorf("a guard that does not hold: %v", err)
	}
	if out, err := txn(`{"operations": [{"op": "expect", "key": ["stock", "apples"], "equals": 5}, {"op": "expect", "key": ["stock", "pears"], "absent": true}]}`); err != nil {
		t.Errorf("after it: %s%v", out, err)
	}
	for text, want := range map[string]string{
		``:                   "EOF",
		`{"operations": []}`: "operations",
		`{"operations": [{"op": "put", "key": ["a"]}]}`:                 "want one value",
		`{"operations": [{"op": "put", "int": 1}]}`:                     "no key",
		`{"operations": [{"op": "jump", "key": ["a"]}]}`:                "jump",
		`{"operations": [{"op": "add", "key": ["a"]}]}`:                 "delta",
		`{"operations": [{"op": "expect", "key": ["a"]}]}`:              "exists",
		`{"operations": [{"op": "give", "key": ["a"]}]}`:                "element",
		`{"operations": [{"op": "create-pool", "key": ["a"]}]}`:         "size",
		`{"operations": [{"op": "delete", "key": [1.5]}]}`:              "element 1",
		`{"operations": [{"op": "delete", "key": "a"}]}`:                "list of elements",
		`{"operations": [{"op": "delete", "key": ["a"], "max_": 1}]}`:   "max_",
		`{"operations": [{"op": "delete", "key": ["a"]}]} {"again": 1}`: "one object",
	} {
		if out, err := txn(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s%v, want %q", text, out, err, want)
		}
	}
}

func FuzzTransaction(f *testing.F) {
	f.Add([]byte(`{"operations": [{"op": "add", "key": ["a", 5], "delta": 1}, {"op": "expect", "key": [{"bytes": "00"}], "absent": true}]}`))
	f.Add([]byte(`{"operations": [{"op": "put", "key": ["a"], "hex": "0"}]}`))
	f.Add([]byte(`{"operations": [{"op": "create-pool", "key": [true], "size": 18446744073709551615}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := parseTransaction(b)
		if err != nil {
			return
		}
		db := store.New(nil, store.Options{})
		stop := errors.New("stop")
		_, err = db.Transact(context.Background(), func(tx *store.Tx) error {
			for i := range ops {
				ops[i].apply(tx)
			}
			return stop
		})
		if !errors.Is(err, stop) {
			t.Error(err)
		}
	})
}
