package unixsocket

import "golang.org/x/sys/unix"

// credentials asks for the other end of a socket (SO_PEERCRED, unix(7)): uid and pid as they were
// at the time of connect.
func credentials(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, err
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid)}, nil
}
