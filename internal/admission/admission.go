// Package admission judges who speaks to a gRPC server of the control plane before anything of it
// is kept: no message is read, and no connection stays, before its token was judged.
//
// A stream's token is judged when its headers have come, in gRPC's tap handle, which must not block:
// by signature, or by what is remembered of it. What only somebody else can tell, Consul's agent, is
// asked before the first message is read; until then the sender can place no more than a window of
// fixed size. Behind the token a proxy has a number of streams and calls that an Envoy does not reach.
package admission

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/connlimit"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// Connections that have not shown a good token: how many, how many of one peer, and for how
	// long.
	maxStrangers        = 1024
	maxStrangersPerPeer = 256
	patience            = 10 * time.Second
	// maxRefused is how many streams are refused on a connection of a stranger before it is closed.
	maxRefused = 100
	// Streams that wait for somebody to judge their token: how many, how many of one peer, and how
	// many that do not even say whose they are.
	maxUndecided        = 1024
	maxUndecidedPerPeer = 256
	maxNameless         = 16
	// judgeTime bounds how long a token may take to be judged.
	judgeTime = 5 * time.Second

	// maxStreams is how many streams a connection may have. Envoy opens another one beyond it.
	maxStreams = 256
	// maxHeader bounds the headers of a stream, in bytes: a token of 8 KiB and what goes with it.
	maxHeader = 32 << 10
	// window is how much a sender may place in a stream before it is read: gRPC's least.
	window = 64 << 10
	// maxMessage bounds a message; the largest lists all that an Envoy has. maxNamelessMessage
	// bounds the first one of a stream whose headers do not say whose it is.
	maxMessage         = 2 << 20
	maxNamelessMessage = 1 << 20
	// idle is how long a connection may be without streams.
	idle = 15 * time.Minute
)

// method is what is known of a method that is served.
type method struct {
	stream bool // its token is a stream's, not a call's
	// perProxy bounds those of one proxy at a time.
	perProxy int
	// timeout bounds it; 0: it is not bounded.
	timeout time.Duration
	// reading bounds how many messages of one proxy are read at a time, so that those that do not
	// come to an end hold little; 0: it is not bounded.
	reading int
}

// methods are those that are served, by name. Envoy asks about 1,024 requests at a time at most
// (the circuit breaker of its cluster), and there may be two Envoys of a proxy for a while.
func methods() map[string]method {
	return map[string]method{
		discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName: {stream: true, perProxy: 8},
		// It is refused by the server, which says so in the status.
		discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName: {stream: true, perProxy: 8},
		authv3.Authorization_Check_FullMethodName:                                       {perProxy: 2048, timeout: 10 * time.Second, reading: 32},
		alsv3.AccessLogService_StreamAccessLogs_FullMethodName:                          {perProxy: 64},
	}
}

// Config is what a Gate needs. Both fields are required.
type Config struct {
	Callers token.Authorizer
	// Refused is told of each stream and connection that is refused. It must not block.
	Refused func(Refusal)
}

// Refusal is a stream or connection that was refused.
type Refusal struct {
	// Peer is where it came from: "uid 1000", "10.1.2.3".
	Peer string
	// Proxy is whom it called itself, unproven; empty: nobody.
	Proxy identity.ProxyID
	// Method is the full name of the method; empty for a connection.
	Method string
	Err    error // a gRPC status
}

// Gate guards one listener. Make it with New.
type Gate struct {
	config  Config
	methods map[string]method

	mu        sync.Mutex
	inUse     map[usage]*use
	undecided map[string]int // streams whose token is being judged, by peer
	waiting   int            // all of those
	nameless  int            // those of them that do not say whose they are
	held      map[*admitted]bool
	// rejudged counts calls of Rejudge.
	rejudged atomic.Uint64
}

// usage is what is counted behind the token.
type usage struct {
	proxy  identity.ProxyID
	method string
}

type use struct {
	streams int
	reading chan struct{} // nil: not bounded
}

// New returns a gate.
func New(c Config) *Gate {
	return &Gate{config: c, methods: methods(), inUse: map[usage]*use{}, undecided: map[string]int{}, held: map[*admitted]bool{}}
}

// Listen returns l with the bounds of connections that have not shown a good token.
func (g *Gate) Listen(l net.Listener) net.Listener {
	return connlimit.Listen(l, connlimit.Config{
		Total: maxStrangers, PerPeer: maxStrangersPerPeer, Patience: patience,
		Refused: func(peer string) {
			g.config.Refused(Refusal{Peer: peer, Err: status.Error(codes.ResourceExhausted, "too many connections without a good token")})
		},
	})
}

// ServerOptions are the options of a server whose listener Listen made. creds is the transport's
// security; nil: it has none.
func (g *Gate) ServerOptions(creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(newTransport(creds)),
		grpc.InTapHandle(g.tap),
		grpc.StreamInterceptor(g.intercept),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(16 * window),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: idle}),
	}
}
