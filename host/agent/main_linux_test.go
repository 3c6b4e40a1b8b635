package agent

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/nimbrel/nimbrel/host/hosttest/standin"
)

func TestMain(m *testing.M) {
	if served, err := standin.Serve(os.Args, os.Stdout); served {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := flag.Set("test.parallel", "8"); err != nil { // most of a test is waiting; -parallel still decides when given
		panic(err)
	}
	os.Exit(m.Run())
}
