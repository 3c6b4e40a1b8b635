// Package assert panics on broken invariants.
//
// An assertion states what the program's own code guarantees. It is never used for bad input, a failed disk or a lost
// peer: those are operating errors and are returned. Assertions are cheap and always on.
package assert

import "fmt"

// That panics unless ok holds. The format names the invariant and the values that break it.
func That(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}
