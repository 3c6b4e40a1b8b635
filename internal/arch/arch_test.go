package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
	Doc          string
	Module       *struct{ Path string }
}

// list returns this module's packages for linux, where every file of the product takes part.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports,Standard,Doc,Module", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

func TestDirection(t *testing.T) {
	pkgs := list(t)
	for _, problem := range slices.Concat(checkMay(pkgs), checkNever(pkgs), checkPure(pkgs), checkConfined(pkgs), checkDocs(pkgs)) {
		t.Error(problem)
	}
}

// TestRulesBite plants one violation of each kind and expects exactly that to be reported.
func TestRulesBite(t *testing.T) {
	plant := func(path string, imports ...string) map[string]pkg {
		pkgs := map[string]pkg{module + path: {ImportPath: module + path, Imports: imports, Doc: "x"}}
		return pkgs
	}
	indirect := plant("host/agent", module+"image/chunk")
	indirect[module+"image/chunk"] = pkg{ImportPath: module + "image/chunk", Imports: []string{module + "store"}, Doc: "x"}
	for name, problems := range map[string][]string{
		"upwards":        checkMay(plant("vpc/server", module+"compute")),
		"internals":      checkMay(plant("ec2/server", module+"compute/server")),
		"no row":         checkMay(plant("newpart", "fmt")),
		"indirect store": checkNever(indirect),
		"pure network":   checkPure(plant("compute/fit", "net/http")),
		"confined":       checkConfined(plant("compute/server", "github.com/cockroachdb/pebble/v2")),
		"no doc":         checkDocs(map[string]pkg{"x": {ImportPath: module + "x"}}),
	} {
		if len(problems) != 1 {
			t.Errorf("%s: %d problems: %v", name, len(problems), problems)
		}
	}
}

func checkMay(pkgs map[string]pkg) (problems []string) {
	for path, p := range pkgs {
		rel := strings.TrimPrefix(path, module)
		row := rowOf(rel)
		if row == nil {
			problems = append(problems, rel+": no row in internal/arch's table: say what this folder may import, and why")
			continue
		}
		for _, imp := range p.Imports {
			target, own := strings.CutPrefix(imp, module)
			if own && !allowed(row, rel, target) {
				problems = append(problems, rel+" imports "+target+": "+row.reason)
			}
		}
	}
	return problems
}

func rowOf(rel string) (best *mayRow) {
	for i := range mayTable {
		if under(rel, mayTable[i].folder) && (best == nil || len(mayTable[i].folder) > len(best.folder)) {
			best = &mayTable[i]
		}
	}
	return best
}

func allowed(row *mayRow, rel, target string) bool {
	part, _, _ := strings.Cut(rel, "/")
	if under(target, part) {
		return true
	}
	for _, leaf := range leaves {
		if strings.HasPrefix(target+"/", strings.TrimSuffix(leaf, "/")+"/") {
			return true
		}
	}
	for _, may := range row.may {
		exact, only := strings.CutSuffix(may, "!")
		if may == "*" || (only && target == exact) || (!only && under(target, may)) {
			return true
		}
	}
	return false
}

func checkNever(pkgs map[string]pkg) (problems []string) {
	for _, row := range neverTable {
		for path := range pkgs {
			if !under(strings.TrimPrefix(path, module), row.from) || strings.HasSuffix(path, "test") {
				continue
			}
			if chain := reaches(pkgs, path, row.to, map[string]bool{}); chain != "" {
				problems = append(problems, chain+": "+row.reason)
			}
		}
	}
	return problems
}

func reaches(pkgs map[string]pkg, from, to string, seen map[string]bool) string {
	if seen[from] {
		return ""
	}
	seen[from] = true
	for _, imp := range pkgs[from].Imports {
		rel, own := strings.CutPrefix(imp, module)
		if !own {
			continue
		}
		if under(rel, to) {
			return strings.TrimPrefix(from, module) + " -> " + rel
		}
		if chain := reaches(pkgs, imp, to, seen); chain != "" {
			return strings.TrimPrefix(from, module) + " -> " + chain
		}
	}
	return ""
}

func checkPure(pkgs map[string]pkg) (problems []string) {
	for folder, why := range pureFolders {
		for _, imp := range pkgs[module+folder].Imports {
			rel, own := strings.CutPrefix(imp, module)
			_, pure := pureFolders[rel]
			if own && (pure || !strings.Contains(rel, "/") || strings.HasPrefix(rel, "internal/") || rel == "store/row") {
				continue // contracts and value leaves
			}
			if !pureAllowed[imp] {
				problems = append(problems, folder+" imports "+imp+", and must stay pure: "+why)
			}
		}
	}
	return problems
}

func checkConfined(pkgs map[string]pkg) (problems []string) {
	for path, p := range pkgs {
		rel := strings.TrimPrefix(path, module)
		for _, imp := range p.Imports {
			for third, folders := range confined {
				inside := slices.ContainsFunc(folders, func(f string) bool { return under(rel, f) })
				if (imp == third || strings.HasPrefix(imp, third+"/")) && !inside {
					problems = append(problems, rel+" imports "+imp+", which only "+strings.Join(folders, ", ")+" may")
				}
			}
		}
	}
	return problems
}

func checkDocs(pkgs map[string]pkg) (problems []string) {
	for path, p := range pkgs {
		if p.Doc == "" {
			problems = append(problems, strings.TrimPrefix(path, module)+": no package comment: say what it owns and what is deliberately absent")
		}
	}
	return problems
}

func under(rel, folder string) bool {
	return rel == folder || strings.HasPrefix(rel, folder+"/")
}
