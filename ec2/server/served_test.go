package server_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/internal/honesty"
)

// TestServedActionsAreTheHonestOnes compares the methods of api with the sections of the honesty table.
func TestServedActionsAreTheHonestOnes(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var methods []string
	for _, path := range files {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv != nil && f.Name.IsExported() && receiver(f) == "api" {
				methods = append(methods, f.Name.Name)
			}
		}
	}
	slices.Sort(methods)
	if actions := honesty.Actions(); !slices.Equal(methods, actions) {
		t.Errorf("methods %v\nsections %v", methods, actions)
	}
}

func receiver(f *ast.FuncDecl) string {
	star, ok := f.Recv.List[0].Type.(*ast.StarExpr)
	if !ok {
		return ""
	}
	name, _ := star.X.(*ast.Ident)
	return name.Name
}

// TestEveryActionAnswers sends every generated action with nothing in it: none of them is an internal error.
func TestEveryActionAnswers(t *testing.T) {
	d := openDoor(t, 1)
	for name := range ec2gen.Actions {
		a := d.call(name)
		if a.status >= http.StatusInternalServerError || (a.code == "UnsupportedOperation") == honesty.Served(name) {
			t.Errorf("%s: %d %s %s", name, a.status, a.code, a.text)
		}
	}
}

// TestEveryFilterIsEvaluated asks each Describe action for each of its filters, as the answer to an unknown one lists
// them.
func TestEveryFilterIsEvaluated(t *testing.T) {
	d := openDoor(t, 1)
	d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "1", "MaxCount", "1", "SubnetId", string(d.Subnet))
	d.ok("CreateKeyPair", "KeyName", "k", "KeyType", "ed25519")
	d.ok("CreateTags", "ResourceId.1", string(d.VPC), "Tag.1.Key", "k", "Tag.1.Value", "v")
	d.await("<name>running</name>", "DescribeInstances")
	filters := 0
	for name, action := range ec2gen.Actions {
		if !action.Filtered || !honesty.Served(name) {
			continue
		}
		unknown := d.refused("InvalidParameterValue", name, "Filter.1.Name", "no-such", "Filter.1.Value.1", "x")
		_, list, found := strings.Cut(unknown.text, "The filters of this action are: ")
		if !found {
			t.Errorf("%s: %s", name, unknown.text)
		}
		all := items(d.ok(name))
		for filter := range strings.SplitSeq(strings.TrimSuffix(list, "."), ", ") {
			filter = strings.ReplaceAll(filter, "<key>", "k")
			some := items(d.ok(name, "Filter.1.Name", filter, "Filter.1.Value.1", "*"))
			none := items(d.ok(name, "Filter.1.Name", filter, "Filter.1.Value.1", "no-such-value"))
			if some > all || none != 0 {
				t.Errorf("%s by %s: %d of %d with anything, %d with no such value", name, filter, some, all, none)
			}
			filters++
		}
	}
	if filters < 250 {
		t.Errorf("%d filters", filters)
	}
}

// items counts what a Describe answer has at its first level of lists.
func items(a answer) int { return strings.Count(a.body, "<item>") }

// TestPages walks through the pages of a Describe action.
func TestPages(t *testing.T) {
	d := openDoor(t, 1)
	d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "7", "MaxCount", "7", "SubnetId", string(d.Subnet))
	d.ok("RunInstances", "ImageId", string(d.Image), "InstanceType", "nb1.tiny", "MinCount", "4", "MaxCount", "4", "SubnetId", string(d.Subnet))
	var seen []string
	token := []string{"MaxResults", "5"}
	for pages := 0; ; pages++ {
		a := d.ok("DescribeInstances", token...)
		seen = append(seen, a.all("instanceId")...)
		next := a.all("nextToken")
		if len(next) == 0 {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		token = []string{"MaxResults", "5", "NextToken", next[0]}
	}
	slices.Sort(seen)
	if len(seen) != 11 || len(slices.Compact(seen)) != 11 {
		t.Errorf("seen %v", seen)
	}
	d.refused("InvalidNextToken", "DescribeVolumes", token...)
	d.as("stranger").refused("InvalidNextToken", "DescribeInstances", token...)
}
