package admission

import (
	"context"
	"net"

	"github.com/sallyport/sallyport/internal/connlimit"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

// transport is the security of a transport that also says, as AuthInfo, which connection it is.
type transport struct {
	credentials.TransportCredentials
}

func newTransport(creds credentials.TransportCredentials) transport {
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	return transport{creds}
}

// authInfo is what handlers find in a stream's peer.
type authInfo struct {
	credentials.AuthInfo
	connection *connection
}

// PeerUID is the user of the process at the other end; false unless that is on a Unix socket.
func (i authInfo) PeerUID() (uid int, ok bool) { return i.connection.UID, i.connection.UID >= 0 }

// ServerHandshake is the wrapped handshake of a connection that the gate's listener accepted.
func (t transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if c, ok := raw.(*connlimit.Conn); ok {
		info = authInfo{info, &connection{Conn: c}}
	}
	return conn, info, nil
}

// Clone returns a copy.
func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone()}
}

// connectionOf is the connection that a stream came by; nil if not by a gate.
func connectionOf(ctx context.Context) *connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, _ := p.AuthInfo.(authInfo)
	return info.connection
}
