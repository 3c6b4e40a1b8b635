//go:build !linux

package main

import (
	"errors"
	"time"
)

func sinceBoot() (time.Duration, error) { return 0, errors.New("this is not Linux") }
