package awsjson

import (
	"fmt"
	"slices"
)

// Check collects the first broken constraint of a value. The zero value is ready.
type Check struct{ err error }

// Err returns the first broken constraint, nil when all hold.
func (c *Check) Err() error { return c.err }

func (c *Check) failf(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// Length holds a text (in bytes), a blob or a list to its bounds; max 0 means none.
func (c *Check) Length(at string, length, min, max int) {
	switch {
	case length < min:
		c.failf("%s has length %d; the least is %d", at, length, min)
	case max > 0 && length > max:
		c.failf("%s has length %d; the most is %d", at, length, max)
	}
}

// Range holds a number to its bounds.
func (c *Check) Range(at string, value, min, max int64) {
	if value < min || value > max {
		c.failf("%s is %d; it must be from %d to %d", at, value, min, max)
	}
}

// OneOf holds a text to the values of an enumeration.
func OneOf[T ~string](c *Check, at string, value T, allowed []T) {
	if !slices.Contains(allowed, value) {
		c.failf("%s is %q; it must be one of %v", at, string(value), allowed)
	}
}
