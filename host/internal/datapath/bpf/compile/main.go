// Command compile builds bpf/datapath.o with clang and records what it was built from beside it. "go generate" runs it
// in the package's folder.
package main

import (
	"fmt"
	"os"

	"github.com/nimbrel/nimbrel/host/internal/datapath/bpf/compile/source"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compile data path:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := source.Compile("bpf", "datapath.o"); err != nil {
		return err
	}
	sum, err := source.Digest("bpf")
	if err != nil {
		return err
	}
	return os.WriteFile("bpf/datapath.o.sha256", []byte(sum+"\n"), 0o644)
}
