//go:build !linux

package e2e

func isInit() bool { return false }

func initMain() int { panic("machines of their own are Linux's") }
