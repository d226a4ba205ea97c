//go:build !linux

package sidecar

import "syscall"

// dieWithParent is nothing here: an Envoy outlives a supervisor that was killed, and the next one
// names it as who holds the ports.
func dieWithParent() *syscall.SysProcAttr { return nil }
