package agent

import (
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
	os.Exit(m.Run())
}
