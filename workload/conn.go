package workload

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/internal/admission"
	"github.com/sallyport/sallyport/internal/connlimit"
	"github.com/sallyport/sallyport/sds"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	// Connections of users that no registration names: how many, and how many of one user. Whoever
	// has ranges of users for containers has many.
	maxStrangers        = 512
	maxStrangersPerUser = 32
	// Streams of those, which have the bundles alone.
	maxStrangeStreams        = 128
	maxStrangeStreamsPerUser = 8
	// What a user has that a registration names: connections, streams, and among these those that
	// may bring a large message.
	maxConnections   = 256
	maxStreams       = 1024
	maxSecretStreams = 64

	// maxMessage bounds a message: an Envoy's first one has 120 KB.
	maxMessage = 1 << 20
	maxHeader  = 16 << 10
	// window is how much a sender may place in a stream before it is read: gRPC's least.
	window = 64 << 10
)

// listen returns l with the bounds of connections. Root, whom nothing names, counts too: it may pass on what others say.
func (s *Server) listen(l net.Listener) net.Listener {
	return connlimit.Listen(l, connlimit.Config{Total: maxStrangers, PerPeer: maxStrangersPerUser, Root: true, Refused: func(string) { s.metrics.denied(reasonLimit) }})
}

func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(transport{insecure.NewCredentials(), s}),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.ForceServerCodecV2(admission.NewCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(256),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(4 * window),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: 15 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// conn is a connection and the process that made it.
type conn struct {
	net.Conn
	process *attest.Process
	leave   func()
	once    sync.Once
	stopped chan struct{}

	mu sync.Mutex
	// told are the leafs that it was told now.
	told []*sds.SVID
}

// maxTold is how many leafs a connection remembers to have been told.
const maxTold = 64

// first reports whether the process was not told of a leaf yet.
func (c *conn) first(s *sds.SVID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.told, s) {
		return false
	}
	if c.told = append(c.told, s); len(c.told) > maxTold {
		c.told = c.told[1:]
	}
	return true
}

// Close closes the connection.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		close(c.stopped)
		c.leave()
		err = errors.Join(err, c.process.Close())
	})
	return err
}

// watch closes the connection when its process ends: whoever has it then is another one.
func (c *conn) watch() {
	select {
	case <-c.process.Ended():
		_ = c.Conn.Close()
	case <-c.stopped:
	}
}

// user is what a user that a registration names has.
type user struct{ connections, streams, secrets int }

// transport is no security at all, but it says, as AuthInfo, which process is at the other end.
type transport struct {
	credentials.TransportCredentials
	server *Server
}

type authInfo struct {
	credentials.AuthInfo
	conn *conn
}

// ServerHandshake attests a connection that the server's listener accepted.
func (t transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	limited, ok := raw.(*connlimit.Conn)
	if !ok {
		return nil, nil, errors.New("the connection did not come by the listener")
	}
	p, err := attest.Attest(limited.Conn)
	if err != nil {
		t.server.metrics.denied(reasonAttestation)
		return nil, nil, err
	}
	c := &conn{Conn: raw, process: p, stopped: make(chan struct{}), leave: func() {}}
	if t.server.known(p) {
		if !t.server.connect(c) {
			t.server.metrics.denied(reasonLimit)
			return nil, nil, errors.Join(errors.New("too many connections of uid "+strconv.Itoa(p.UID)), p.Close())
		}
		limited.Trust()
	}
	_, info, err := t.TransportCredentials.ServerHandshake(c)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	go c.watch()
	return c, authInfo{info, c}, nil
}

// Clone returns a copy.
func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone(), t.server}
}

// known reports whether a registration names a process, or at least its user by number.
func (s *Server) known(p *attest.Process) bool {
	v, err := s.view()
	if err != nil || p.Nobody() != nil {
		return false
	}
	n := s.namings.of(v)
	return n.user(p.UID) || len(n.services(p)) > 0
}

// connect counts a connection of a user that a registration names.
func (s *Server) connect(c *conn) bool {
	uid := c.process.UID
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.user(uid)
	if u.connections >= maxConnections {
		return false
	}
	u.connections++
	c.leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		u.connections--
		s.forget(uid)
	}
	return true
}

// user is what a user has. s.mu is held.
func (s *Server) user(uid int) *user {
	u := s.users[uid]
	if u == nil {
		u = &user{}
		s.users[uid] = u
	}
	return u
}

// forget forgets a user that has nothing. s.mu is held.
func (s *Server) forget(uid int) {
	if u := s.users[uid]; u != nil && *u == (user{}) {
		delete(s.users, uid)
	}
}

// enter counts a stream or call. The error is a gRPC status.
func (s *Server) enter(c *conn, secrets bool) (leave func(), err error) {
	uid := c.process.UID
	known := s.known(c.process)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.user(uid)
	full := known && (u.streams >= maxStreams || secrets && u.secrets >= maxSecretStreams) ||
		!known && (u.streams >= maxStrangeStreamsPerUser || s.strangers >= maxStrangeStreams)
	if full {
		s.forget(uid)
		s.metrics.denied(reasonLimit)
		return nil, status.Errorf(codes.Unavailable, "uid %d has too many streams: end some, or try again", uid)
	}
	count := func(n int) {
		u.streams += n
		if secrets {
			u.secrets += n
		}
		if !known {
			s.strangers += n
		}
	}
	count(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		count(-1)
		s.forget(uid)
	}, nil
}

// connOf is the connection that a stream came by.
func connOf(ctx context.Context) (*conn, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(authInfo); ok {
			return info.conn, nil
		}
	}
	return nil, status.Error(codes.Internal, "the stream did not come by the listener")
}

// admit counts a stream or call of a method, if its headers are right.
func (s *Server) admit(ctx context.Context, method string) (leave func(), err error) {
	c, err := connOf(ctx)
	if err != nil {
		return nil, err
	}
	kind := kindOf(method)
	s.metrics.requests.WithLabelValues(kind.label).Inc()
	if kind.header {
		// The specification wants exactly this, so that no browser or proxy can be made to ask.
		if v := metadata.ValueFromIncomingContext(ctx, securityHeader); len(v) != 1 || v[0] != "true" {
			s.metrics.denied(reasonHeader)
			return nil, status.Error(codes.InvalidArgument, "security header missing from request")
		}
	}
	left, err := s.enter(c, kind.secrets)
	if err != nil {
		return nil, err
	}
	s.metrics.streams.Inc()
	return func() { s.metrics.streams.Dec(); left() }, nil
}

// securityHeader is what each request of the Workload API carries, with the value "true".
const securityHeader = "workload.spiffe.io"

func (s *Server) interceptStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	leave, err := s.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer leave()
	return next(server, stream)
}

func (s *Server) interceptUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	leave, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer leave()
	return next(ctx, request)
}
