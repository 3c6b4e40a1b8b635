//go:build !linux

package main

func checkDisk(string) error { return nil }
