package agent

import (
	"os"
	"testing"

	"github.com/nimbrel/nimbrel/host/hosttest/standin"
)

func TestMain(m *testing.M) {
	standin.Main()
	os.Exit(m.Run())
}
