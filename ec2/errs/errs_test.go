package errs

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// TestEveryCodeHasAStatus reads the constants from the source, so that one without a row is found before a client does.
func TestEveryCodeHasAStatus(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "table.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		code, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		constants++
		if status, ok := Status(code); !ok || status < 400 || status > 599 {
			t.Errorf("%s has status %d", code, status)
		}
		if spec.Names[0].Name != strings.ReplaceAll(code, ".", "") {
			t.Errorf("the constant of %s is called %s", code, spec.Names[0].Name)
		}
		return true
	})
	if constants != len(statuses) || constants < 100 {
		t.Errorf("%d constants and %d rows", constants, len(statuses))
	}
}

func TestKinds(t *testing.T) {
	for prefix, k := range kinds {
		for _, code := range []string{k.notFound, k.malformed} {
			if _, ok := Status(code); !ok {
				t.Errorf("kind %s: code %s is not in the table", prefix, code)
			}
		}
	}
	for _, c := range []struct {
		got  *Error
		want string
	}{
		{NotFound(ids.Instance("i-12345678")), "InvalidInstanceID.NotFound: The instance ID 'i-12345678' does not exist"},
		{NotFound(ids.VPC("vpc-12345678")), "InvalidVpcID.NotFound: The vpc ID 'vpc-12345678' does not exist"},
		{NotFound(ids.Volume("vol-12345678")), "InvalidVolume.NotFound: The volume ID 'vol-12345678' does not exist"},
		{NotFound(ids.SecurityGroup("sg-12345678")), "InvalidGroup.NotFound: The security group ID 'sg-12345678' does not exist"},
		{Malformed[ids.Image]("x"), `InvalidAMIID.Malformed: Invalid id: "x" (expecting "ami-...")`},
		{Malformed[ids.SecurityGroup]("x"), `InvalidGroupId.Malformed: Invalid id: "x" (expecting "sg-...")`},
	} {
		if c.got.Error() != c.want || c.got.Status != 400 {
			t.Errorf("got %v with %d, want %s", c.got, c.got.Status, c.want)
		}
	}
	if _, err := ParseID[ids.Subnet]("subnet-xyz"); !errors.Is(err, New(InvalidSubnetIDMalformed, "")) {
		t.Errorf("got %v", err)
	}
	if id, err := ParseID[ids.Subnet]("subnet-0123456789abcdef0"); err != nil || id != "subnet-0123456789abcdef0" {
		t.Errorf("got %v, %v", id, err)
	}
}

func TestError(t *testing.T) {
	if err := fmt.Errorf("run: %w", New(DryRunOperation, "x")); !errors.Is(err, DryRun) || errors.Is(err, Throttled) {
		t.Errorf("errors.Is must go by code: %v", err)
	}
	if long := Invalid("P", strings.Repeat("x", 1<<20), "Why."); len(long.Message) > 500 || DryRun.Status != 412 || Throttled.Status != 503 {
		t.Errorf("message of %d bytes", len(long.Message))
	}
	defer func() {
		if recover() == nil {
			t.Error("a code outside the table must panic")
		}
	}()
	_ = New("NoSuchCode", "x")
}

// TestUnsupportedInEC2sWords holds the words by which Ansible's amazon.aws tells a region without a feature from a failure.
func TestUnsupportedInEC2sWords(t *testing.T) {
	e := Unsupported("DescribeVpcClassicLink")
	if e.Code != UnsupportedOperation || !strings.Contains(e.Message, "The functionality you requested is not available in this region.") ||
		!strings.Contains(e.Message, "DescribeVpcClassicLink") {
		t.Errorf("%s: %s", e.Code, e.Message)
	}
}
