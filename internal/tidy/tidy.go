// Package tidy checks what compilers and linters do not: lengths, leftover markers, banned calls with the replacement
// named, keys of log records, and blobs. Its test reads every tracked file of the repository.
//
// Lists of exceptions only shrink: an entry that is no longer needed fails the test too.
package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
)

// Limits, in lines and bytes. DESIGN's sizes are what people find easy; these are where a person must have said why.
const (
	fileLinesMax     = 800
	testLinesMax     = 1200
	functionLinesMax = 100
	lineRunesMax     = 200
	blobBytesMax     = 1 << 20
)

// ban is a call that product code must not make in some folders.
type ban struct {
	call    string   // as written, package-qualified
	folders []string // "" is everywhere
	except  []string
	instead string
}

var bans = []ban{
	{"time.Now", []string{"store/internal/transactor", "store/tuple", "store/guard", "compute/fit", "dispatch/session", "host/internal/policy", "host/internal/reconcile"}, nil, "take the time as a parameter: pure packages have no clock"},
	{"context.Background", []string{"store", "rpc", "dispatch", "account", "vpc", "compute", "image", "ec2", "host", "svc"}, []string{"image/guest/init", "image/imagetest"}, "take a context from the caller: only main and tests make one"},
	{"panic", []string{"compute", "vpc", "account", "ec2", "host", "dispatch", "rpc"}, nil, "return an error, or assert.That for a broken invariant"},
	{"fmt.Println", []string{"store", "rpc", "dispatch", "account", "vpc", "compute", "ec2", "host"}, nil, "log with slog, or write to the io.Writer you were given"},
	{"os.Exit", []string{""}, []string{"cmd", "image/guest", "test", "apigen", "host/internal/datapath/bpf/compile"}, "return an error: only a main package ends the process"},
}

// problem is one finding, with where.
type problem struct {
	where, what string
}

func (p problem) String() string { return p.where + ": " + p.what }

// checkText reports long lines, markers and length of any text file.
func checkText(path, text string) (found []problem) {
	lines := strings.Split(text, "\n")
	limit := fileLinesMax
	if strings.HasSuffix(path, "_test.go") {
		limit = testLinesMax
	}
	if strings.HasSuffix(path, ".go") && len(lines) > limit {
		found = append(found, problem{path, fmt.Sprintf("%d lines, at most %d: split it by what changes together", len(lines), limit)})
	}
	for i, line := range lines {
		where := fmt.Sprintf("%s:%d", path, i+1)
		for _, marker := range []string{"FIX" + "ME", "XX" + "X"} {
			if strings.Contains(line, marker) {
				found = append(found, problem{where, "marker " + marker + ": mend it or open an issue"})
			}
		}
		if strings.HasSuffix(path, ".go") && len([]rune(line)) > lineRunesMax && !strings.Contains(line, "`") && !strings.Contains(line, `"`) {
			found = append(found, problem{where, fmt.Sprintf("line of %d characters, at most %d", len([]rune(line)), lineRunesMax)})
		}
	}
	return found
}

// checkGo reports long functions and banned calls of one product file.
func checkGo(path, text string) (found []problem) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
	if err != nil {
		return []problem{{path, err.Error()}}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1
			if lines > functionLinesMax {
				found = append(found, problem{set.Position(n.Pos()).String(), fmt.Sprintf("function %s has %d lines, at most %d", n.Name.Name, lines, functionLinesMax)})
			}
		case *ast.CallExpr:
			if b := banned(path, callName(n)); b != nil {
				found = append(found, problem{set.Position(n.Pos()).String(), b.call + ": " + b.instead})
			}
			for _, what := range logKeys(n) {
				found = append(found, problem{set.Position(n.Pos()).String(), what})
			}
		}
		return true
	})
	return found
}

func callName(call *ast.CallExpr) string {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		if x, ok := fn.X.(*ast.Ident); ok {
			return x.Name + "." + fn.Sel.Name
		}
	}
	return ""
}

func banned(path, call string) *ban {
	for i, b := range bans {
		if b.call == call && inFolders(path, b.folders) && !inFolders(path, b.except) {
			return &bans[i]
		}
	}
	return nil
}

func inFolders(path string, folders []string) bool {
	for _, f := range folders {
		if f == "" || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}
