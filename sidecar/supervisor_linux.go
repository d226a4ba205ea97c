package sidecar

import "syscall"

// dieWithParent has the kernel end the child when its parent dies without a word: an Envoy that
// nobody looks after would keep the ports, and lose its control plane when its token ends.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
