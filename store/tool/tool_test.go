package tool

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/embed"
	"github.com/nimbrel/nimbrel/store/row"
)

type item struct {
	Name  string   `cbor:"1,keyasint"`
	Count uint64   `cbor:"2,keyasint"`
	Tags  []string `cbor:"10,keyasint"`
	Hash  []byte   `cbor:"11,keyasint"`
}

func filled(t *testing.T) (dir string, e *embed.Engine) {
	t.Helper()
	dir = t.TempDir()
	e, err := embed.Open(dir, embed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.New(e, store.Options{Tenant: "main"}).Transact(context.Background(), func(tx *store.Tx) error {
		tx.Put(store.Key("item", "a"), row.Encode(item{Name: "a \"quoted\"", Count: 1 << 60, Tags: []string{"x"}, Hash: []byte{1}}))
		tx.Put(store.Key("item", 5, true, []byte{0xAB}), store.Int(-3))
		tx.Put(store.Key("raw"), store.Bytes([]byte{0xFF, 0}))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, e
}

func run(args ...string) (string, error) {
	c := Command(Options{Check: func(context.Context, store.Engine) ([]Finding, error) {
		return []Finding{{"part.rule", "row", "broken"}}, nil
	}})
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.Execute()
	return out.String(), err
}

func TestCommands(t *testing.T) {
	dir, e := filled(t)
	if _, err := run("scan", "--dir", dir); err == nil || !strings.Contains(err.Error(), "stop that one first") {
		t.Errorf("directory in use: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	const (
		a   = `{"key":[0,"main","item","a"],"version":1,"value":{"1":"a \"quoted\"","2":1152921504606846976,"10":["x"],"11":"0x01"}}` + "\n"
		b   = `{"key":[0,"main","item",5,true,"0xab"],"version":1,"value":-3}` + "\n"
		raw = `{"key":[0,"main","raw"],"version":1,"value":"0xff00"}` + "\n"
	)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"scan"}, a + b + raw},
		{[]string{"scan", "--limit", "1"}, a},
		{[]string{"scan", "--limit", "0", "--tenant", "main", "item"}, a + b},
		{[]string{"scan", "--tenant", "main", "item", "#5"}, b},
		{[]string{"scan", "--tenant", "other"}, ""},
		{[]string{"get", "--tenant", "main", "item", "a"}, a},
	} {
		got, err := run(append(c.args, "--dir", dir)...)
		if err != nil || got != c.want {
			t.Errorf("%v:\n%swant\n%s%v", c.args, got, c.want, err)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	dir, e := filled(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no row":       {[]string{"get", "--dir", dir, "nothing"}, "no row nothing"},
		"bad integer":  {[]string{"get", "--dir", dir, "#x"}, "an integer follows #"},
		"no store":     {[]string{"scan", "--dir", t.TempDir()}, "no store in this directory"},
		"no directory": {[]string{"scan", "--dir", dir + "/none"}, "no store in this directory"},
		"no flag":      {[]string{"scan"}, "--dir"},
	} {
		if _, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
