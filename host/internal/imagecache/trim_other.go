//go:build !linux

package imagecache

import (
	"time"
)

// Pin does nothing: without Trim every image is kept.
func (c *Cache) Pin(string, string) error { return nil }

// Trim removes nothing.
func (c *Cache) Trim(time.Time, time.Duration, func(string) bool) ([]string, error) { return nil, nil }
