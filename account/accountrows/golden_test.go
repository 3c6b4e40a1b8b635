package accountrows

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/row"
)

var update = flag.Bool("update", false, "write the golden rows anew; only for a new version's file")

const golden = "testdata/rows_v1.txt"

type goldenRow struct {
	name   string
	key    store.Template
	value  any
	decode func([]byte) (any, error)
}

func goldenOf[T any](name string, key store.Template, value T) goldenRow {
	return goldenRow{name: name, key: key, value: value, decode: func(b []byte) (any, error) { return row.Decode[T](b) }}
}

func goldenRows() []goldenRow {
	return []goldenRow{
		goldenOf("account", key(FamilyAccount, "123456789012"), accountRow{ID: "123456789012", Name: "dev", CreatedMs: 1700000000000}),
		goldenOf("access-key", key(FamilyAccessKey, "AKIA1"), accessKeyRow{
			ID: "AKIA1", Account: "123456789012", Sealed: []byte{1, 2, 3}, Disabled: true, CreatedMs: 1700000000000,
		}),
		goldenOf("key-pair", keyPairKey("123456789012", "k"), keyPairRow{
			ID: "key-1", Account: "123456789012", Name: "k", Type: account.KeyEd25519, Fingerprint: "f", PublicKey: "p", CreatedMs: 1700000000000,
		}),
	}
}

// TestGoldenRows: rows and keys of version 1 are written and read as they were first released.
func TestGoldenRows(t *testing.T) {
	var lines strings.Builder
	for _, g := range goldenRows() {
		fmt.Fprintf(&lines, "%s %x %x\n", g.name, g.key.Base, row.Encode(g.value).Base)
	}
	fmt.Fprintf(&lines, "left %x %x\n", leftKey("123456789012", account.QuotaVCPUs).Base, store.Int(64).Base)
	if *update {
		if err := os.WriteFile(golden, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if lines.String() != string(want) {
		t.Errorf("rows changed; got\n%s", lines.String())
	}
	for i, g := range goldenRows() {
		var name string
		var k, v []byte
		if _, err := fmt.Sscanf(strings.Split(string(want), "\n")[i], "%s %x %x", &name, &k, &v); err != nil {
			t.Fatal(err)
		}
		if got, err := g.decode(v); err != nil || !reflect.DeepEqual(got, g.value) {
			t.Errorf("%s reads as %+v, %v", name, got, err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, k := range [][]byte{nil, {0xff}, store.Prefix("account", "account"), store.Prefix("other", "account", "x"), store.Prefix("account", "account", 1)} {
		if f, parts, err := ParseKey(k); err == nil {
			t.Errorf("%x was read as %s %v", k, f, parts)
		}
	}
}
