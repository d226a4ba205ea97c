package unixsocket

import "golang.org/x/sys/unix"

// credentials asks for the other end of a socket (LOCAL_PEERCRED and LOCAL_PEERPID, unix(4)).
func credentials(fd int) (Peer, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Peer{}, err
	}
	pid, _ := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return Peer{PID: pid, UID: int(cred.Uid)}, nil
}
