// Package unixsocket says how long the path of a Unix socket may be, and who is at its other end.
package unixsocket

import "syscall"

// MaxPath is how many bytes the path of a Unix socket has at most on this system, its final NUL not
// counted: 107 on Linux, 103 on macOS.
const MaxPath = len(syscall.RawSockaddrUnix{}.Path) - 1
