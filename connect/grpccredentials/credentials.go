// Package grpccredentials is package connect for gRPC: credentials for servers and clients, and a
// resolver that knows where healthy instances of a service are.
//
//	grpc.NewServer(grpccredentials.Server(svc))
//	grpc.NewClient("connect:///api", grpccredentials.Client(svc)...)
//
// The target is connect:///NAME, or connect:///NAME.service.DATACENTER.consul. Its addresses follow the
// catalog, and each has to prove that it is an instance of that service in the datacenter that the
// catalog says. Targets of other schemes are refused: nobody knows who should be there.
package grpccredentials

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"

	"github.com/sallyport/sallyport/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
)

// Scheme is that of targets which the resolver of Client resolves.
const Scheme = "connect"

// protocol is gRPC's for ALPN.
const protocol = "h2"

// Server is for servers: their peers are those whom the mesh lets connect to the service. In handlers
// the peer's identity is credentials.TLSInfo.SPIFFEID of peer.FromContext.
func Server(svc *connect.Service) grpc.ServerOption {
	return grpc.Creds(credentials.NewTLS(svc.ServerTLSConfig(protocol)))
}

// Client are the options of clients: the resolver for connect:/// and the credentials that go with it.
func Client(svc *connect.Service) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithResolvers(builder{svc}),
		grpc.WithTransportCredentials(client{service: svc}),
	}
}

// ClientTo are credentials for targets that others resolve: whatever the address, it has to prove that
// it is the service with that SPIFFE ID.
func ClientTo(svc *connect.Service, peer spiffeid.ID) credentials.TransportCredentials {
	return client{service: svc, peer: peer}
}

// identity is the key of the SPIFFE ID among the attributes of an address.
type identity struct{}

// client are the credentials of clients.
type client struct {
	service *connect.Service
	// peer is who the other side has to be; zero: the attributes of the address say.
	peer spiffeid.ID
}

// ClientHandshake makes a connection of mutual TLS of one that is open.
func (c client) ClientHandshake(ctx context.Context, target string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer := c.peer
	if peer.IsZero() {
		id, ok := credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(identity{}).(spiffeid.ID)
		if !ok {
			_ = raw.Close()
			return nil, nil, fmt.Errorf("nobody knows which service %s is: write the target %s:///NAME, or use ClientTo", target, Scheme)
		}
		peer = id
	}
	conn, err := c.service.Handshake(ctx, raw, peer, protocol)
	if err != nil {
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != protocol {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("%s speaks no HTTP/2: its ALPN is %q", peer, state.NegotiatedProtocol)
	}
	if peer, err = connect.Peer(state); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	info := credentials.TLSInfo{State: state, SPIFFEID: peer.URL()}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return conn, info, nil
}

// ServerHandshake fails: these are the credentials of clients.
func (client) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are credentials of clients: use Server")
}

// Info says that it is TLS.
func (client) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone is c, which does not change.
func (c client) Clone() credentials.TransportCredentials { return c }

// OverrideServerName fails: names in DNS mean nothing here.
func (client) OverrideServerName(string) error {
	return errors.New("names of servers mean nothing here")
}

// builder makes the resolvers of targets connect:///NAME.
type builder struct{ service *connect.Service }

// Scheme is "connect".
func (builder) Scheme() string { return Scheme }

// Build watches the instances of the service until the resolver is closed.
func (b builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	name := target.Endpoint()
	if target.URL.Host != "" {
		return nil, fmt.Errorf("%s: write %s:///NAME, with three slashes", &target.URL, Scheme)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &watcher{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		known := false
		err := b.service.WatchInstances(ctx, name, func(instances []connect.Instance) {
			known = known || len(instances) > 0
			tell(cc, name, instances, known)
		})
		if ctx.Err() == nil {
			cc.ReportError(err)
		}
	}()
	return r, nil
}

// tell hands instances on. known says whether there was ever one.
func tell(cc resolver.ClientConn, name string, instances []connect.Instance, known bool) {
	instances = slices.Clone(instances)
	// The balancer that gRPC takes by itself takes the first: not the same one for everybody.
	rand.Shuffle(len(instances), func(i, j int) { instances[i], instances[j] = instances[j], instances[i] })
	var state resolver.State
	for _, i := range instances {
		address := resolver.Address{Addr: i.Address, Attributes: attributes.New(identity{}, i.ID)}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{address}})
	}
	if known {
		_ = cc.UpdateState(state) // an error says that the balancer wants to be told anew: the watch does at a change
	}
	if len(instances) == 0 {
		cc.ReportError(fmt.Errorf("%w of %s", connect.ErrNoInstance, name))
	}
}

// watcher is the resolver of one target.
type watcher struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// ResolveNow does nothing: changes come by themselves.
func (*watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the watch.
func (w *watcher) Close() {
	w.cancel()
	<-w.done
}
