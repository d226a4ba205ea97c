package attest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// getsockopt reads an option of a socket into value and returns how long it is, also where that is
// too long. The library's own calls do not return it.
func getsockopt(fd, option int, value []byte) (int, error) {
	n := uint32(len(value))                                                                                                                                                            //nolint:gosec // it is small
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(option), uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&n)), 0) //nolint:gosec // the kernel writes no more than it is told there is
	if errno != 0 {
		return int(n), errno
	}
	return int(n), nil
}
