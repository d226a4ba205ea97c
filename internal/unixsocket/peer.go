package unixsocket

import (
	"errors"
	"net"
)

// Peer is the process at the other end of a connection, as the kernel names it.
type Peer struct{ PID, UID int }

// PeerOf asks the kernel who made a connection. Of one that is not on a Unix socket it is an error.
func PeerOf(conn net.Conn) (p Peer, err error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a Unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	controlErr := raw.Control(func(fd uintptr) { p, err = credentials(int(fd)) })
	return p, errors.Join(controlErr, err)
}
