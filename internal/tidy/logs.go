package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"

	"github.com/nimbrel/nimbrel/svc/obs"
)

// logMethods are slog's, with the place of the first key among the arguments.
var logMethods = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "With": 0,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2,
}

// logKeys reports keys of log records that are not in the product's list, or that only a run could tell.
func logKeys(call *ast.CallExpr) (found []string) {
	fn, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !isLogger(fn.X) {
		return nil
	}
	first, ok := logMethods[fn.Sel.Name]
	if !ok || call.Ellipsis != token.NoPos {
		return nil
	}
	for i := first; i < len(call.Args); i += 2 {
		if problem := keyProblem(call.Args[i]); problem != "" {
			found = append(found, problem)
		}
	}
	return found
}

// isLogger goes by the names that loggers have here.
func isLogger(e ast.Expr) bool {
	name := ""
	switch e := e.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		name = e.Sel.Name
	}
	return name == "slog" || strings.EqualFold(name, "log") || strings.EqualFold(name, "logger")
}

func keyProblem(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		key, err := strconv.Unquote(e.Value)
		if err != nil || !obs.IsKey(key) {
			return fmt.Sprintf("log key %s is not in svc/obs: use one that is, or add it there with its meaning", e.Value)
		}
		return ""
	case *ast.SelectorExpr:
		if strings.HasPrefix(e.Sel.Name, "Key") {
			return ""
		}
	}
	return "log key is no literal: write keys out, so that they can be found"
}
