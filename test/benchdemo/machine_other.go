//go:build !linux

package main

import (
	"errors"
	"os"
	"syscall"
	"time"
)

var errNotLinux = errors.New("this is not Linux")

func onDisk(string) error                   { return errNotLinux }
func syncData(f *os.File) error             { return f.Sync() }
func sinceBoot() (time.Duration, error)     { return 0, errNotLinux }
func group() *syscall.SysProcAttr           { return nil }
func signalGroup(int, syscall.Signal) error { return errNotLinux }
