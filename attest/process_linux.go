package attest

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

func attest(conn *net.UnixConn) (p *Process, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { p, err = peerOf(int(fd)) })
	return p, errors.Join(controlErr, err)
}

// peerOf asks for the other end of a socket: SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD, all of the
// time of connect.
func peerOf(fd int) (*Process, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, os.NewSyscallError("SO_PEERCRED", err)
	}
	p := &Process{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid), groups: groupsOf(fd)}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return p, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESRCH):
		return nil, errEnded
	case err != nil:
		return nil, os.NewSyscallError("SO_PEERPIDFD", err)
	}
	unix.CloseOnExec(pidfd)
	// Only what does not block is watched by the runtime's poller.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("pidfd", err), unix.Close(pidfd))
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	if err := p.alive(); err != nil {
		return nil, errors.Join(err, p.pidfd.Close())
	}
	return p, nil
}

// groupsOf are the supplementary groups of the other end of a socket; nil if they cannot be had.
func groupsOf(fd int) []int {
	raw := make([]byte, 4*32)
	for {
		n, err := getsockopt(fd, unix.SO_PEERGROUPS, raw)
		if errors.Is(err, unix.ERANGE) && n > len(raw) {
			raw = make([]byte, n)
			continue
		}
		if err != nil {
			return nil
		}
		var out []int
		for gid := range slices.Chunk(raw[:n], 4) {
			out = append(out, int(binary.NativeEndian.Uint32(gid)))
		}
		return out
	}
}

// alive returns errEnded if the process has ended. A process that has, and whose number may be
// another's by now, makes its pidfd readable for good.
func (p *Process) alive() error {
	if p.pidfd == nil {
		return errNoPidfd
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	ended := true
	if controlErr := raw.Control(func(fd uintptr) { ended, err = readable(int(fd)) }); controlErr != nil {
		return controlErr
	}
	if err == nil && ended {
		err = errEnded
	}
	return err
}

// waitEnd waits until the process of a pidfd ends. It is false if the file was closed before.
func waitEnd(pidfd *os.File) bool {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		var pollErr error
		ended, pollErr = readable(int(fd))
		return ended || pollErr != nil
	})
	return err == nil && ended
}

func readable(fd int) (bool, error) {
	for {
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // files have small numbers
		n, err := unix.Poll(set, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		return n > 0, err
	}
}

// overflowUID is the user that the kernel shows in the place of those that have no number here.
var overflowUID = sync.OnceValue(func() int {
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return n
		}
	}
	return 65534
})
