package e2e

import (
	"fmt"
	"net"
	"strconv"
	"testing"
)

// Blocks of ports lie below those that kernels give to clients by default.
const (
	firstPort = 20000
	blocks    = 100
	blockSize = 4 // EC2 API, host link, metrics; the last one is the claim
)

// place is where one cloud is on the machine.
type place struct {
	port     int // EC2 API; the host link and metrics have the next two
	prefix   string
	underlay string
}

// claimPlace finds a place that nobody else has and keeps it until the test ends: the claim is a port that this process
// listens on, so it cannot outlive the process and needs no file.
func claimPlace(t testing.TB) place {
	t.Helper()
	for i := range blocks {
		port := firstPort + i*blockSize
		claim, err := net.Listen("tcp", local(port+blockSize-1))
		if err != nil {
			continue
		}
		if !allFree(port, blockSize-1) {
			_ = claim.Close()
			continue
		}
		t.Cleanup(func() { _ = claim.Close() })
		return place{port: port, prefix: fmt.Sprintf("e%02d", i), underlay: fmt.Sprintf("198.18.%d.0/24", 100+i)}
	}
	t.Fatalf("all %d blocks of ports from %d on are in use", blocks, firstPort)
	return place{}
}

func allFree(port, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", local(port+i))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
