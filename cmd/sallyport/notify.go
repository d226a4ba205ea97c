package main

import (
	"net"
	"os"
)

// notify tells the service manager about this process, as sd_notify(3) does; state is "READY=1",
// say. Without $NOTIFY_SOCKET nobody wants to know. Who does not listen any more is not waited for.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' { // of Linux' abstract sockets
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte(state))
	return err
}
