//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "benchhost: virtual machines need Linux")
	os.Exit(1)
}
