// Package env is what a package takes from its surroundings when tests must own it: the clock and randomness.
//
// Disk and network enter with their first users.
package env

import (
	"crypto/rand"
	"io"
	"time"
)

// Clock tells the time. Implementations are safe for concurrent use.
type Clock interface {
	Now() time.Time
}

// Real is the machine's clock.
type Real struct{}

// Now returns the current time with its monotonic reading.
func (Real) Now() time.Time { return time.Now() }

// Env carries a clock and a source of randomness. The zero value is not usable; take System or build one in a test.
type Env struct {
	Clock  Clock
	Random io.Reader
}

// System is the machine's own clock and randomness.
func System() Env { return Env{Clock: Real{}, Random: rand.Reader} }
