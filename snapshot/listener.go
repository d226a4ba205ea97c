package snapshot

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// publicListener is the name of the inbound listener and its counters, as in Consul, whose
	// dashboards expect it.
	publicListener = "public_listener"
	// earlyData bounds the bytes of a client that are buffered until the application is dialled.
	// Envoy requires a bound.
	earlyData   = 64 << 10
	idleTimeout = time.Hour
)

// listenerName names a listener as Consul does, with its address: Envoy cannot move a listener, so
// one at another address has to have another name.
func listenerName(name, address string, port uint16) string {
	return name + ":" + address + ":" + strconv.Itoa(int(port))
}

// inboundListener accepts the connections to the proxy's service. Any change of it drains all of
// them, so it does not hold what depends on intentions, on their enforcement or on users' filters:
// that is in a secret and extension configurations (tcp), or in the routes and extension
// configurations (http). Only the chain's name changes in order to drain them.
func (b *builder) inboundListener() *listenerv3.Listener {
	in := b.in.Proxy.Inbound
	if !isIP(in.Address) {
		b.fail("the inbound address %q is not an IP address: Envoy cannot listen on a name", in.Address)
	}
	if in.Port == 0 {
		b.fail("the inbound port is not known")
	}
	l := &listenerv3.Listener{
		Name:                          listenerName(publicListener, in.Address, in.Port),
		Address:                       listenAddress(in.Address, in.Port),
		TrafficDirection:              corev3.TrafficDirection_INBOUND,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		ConnectionBalanceConfig:       balance(in.BalanceConnections),
		EnableReusePort:               b.reusePort(),
		AccessLog:                     append(b.connectionLog(), b.handshakeLog()...),
	}
	chain := &listenerv3.FilterChain{Name: b.chainName(), TransportSocketConnectTimeout: durationpb.New(10 * time.Second)}
	if in.MaxConnections > 0 {
		chain.Filters = append(chain.Filters, b.networkFilter("envoy.filters.network.connection_limit", &limitv3.ConnectionLimit{
			StatPrefix:     "inbound_connection_limit",
			MaxConnections: wrapperspb.UInt64(uint64(in.MaxConnections)),
		}))
	}
	chain.TransportSocket = b.inboundTLS(b.validationName())
	if in.Protocol.L7() {
		chain.Filters = append(chain.Filters, b.inboundHTTP())
	} else {
		// Else /healthcheck/fail would end connections at their next byte, by check_drain_close.
		l.DrainType = listenerv3.Listener_MODIFY_ONLY
		for _, s := range []slot{rulesSlot, authzSlot, networkExtensions, proxySlot} {
			chain.Filters = append(chain.Filters, b.networkSlot(s))
		}
	}
	l.FilterChains = []*listenerv3.FilterChain{chain}
	return l
}

// reusePort keeps other Envoys of the same user off a port: the kernel would give them some of its
// connections. Where that was not so when Envoy was started it stays as it is.
func (b *builder) reusePort() *wrapperspb.BoolValue {
	if !b.in.Envoy.ExclusivePorts {
		return nil
	}
	return wrapperspb.Bool(false)
}

// chainName is the service's name and its generation. Where live connections are not to end when
// access is revoked, it does not depend on that one.
func (b *builder) chainName() string {
	generation := b.in.Generation
	if b.in.Proxy.Inbound.Revocation != catalog.Drain {
		generation = b.in.Ended
	}
	return b.in.Proxy.Service.String() + "/" + strconv.FormatUint(generation, 10)
}

// tcpProxy leads a connection to the application.
func (b *builder) tcpProxy() *anypb.Any {
	idle := idleTimeout
	if t := b.in.Proxy.Inbound.IdleTimeout; t.Set {
		idle = max(t.Duration, 0) // 0: never
	}
	proxy := &tcpv3.TcpProxy{
		StatPrefix:       publicListener,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: localApp},
		IdleTimeout:      durationpb.New(idle),
		AccessLog:        b.tcpLog(),
	}
	// An older Envoy would ignore the unknown field silently. A drain that an operator asks Envoy for
	// ends connections by it, too, so those have it alone that a revocation is to end.
	if b.in.Envoy.DrainClose && b.in.Proxy.Inbound.Revocation == catalog.Drain {
		proxy.CheckDrainClose = wrapperspb.Bool(true)
	}
	if b.in.Envoy.ConnectMode { // as above
		proxy.UpstreamConnectMode = tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
		proxy.MaxEarlyDataBytes = wrapperspb.UInt32(earlyData)
		if b.enforcement() == catalog.ExtAuthz || foreign(b.in.Policy) {
			// The application is not dialled, and none of its bytes are passed on, before the
			// check or, of callers of other trust domains, the rules, which wait for the client's first byte.
			proxy.UpstreamConnectMode = tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_DATA
		}
	}
	return b.any(proxy)
}

func (b *builder) inboundHTTP() *listenerv3.Filter {
	m := b.externalHCM(publicListener, b.in.Proxy.Inbound.Protocol)
	m.RouteSpecifier = routesNamed(publicRouteName(b.in.Proxy.Service))
	if !b.in.Mesh.DropForwardedClientCert {
		// Replaces the header of the client by its verified identity.
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	}
	m.AccessLog = append(b.requestLog(), b.publicLog()...)
	m.HttpFilters = []*hcmv3.HttpFilter{
		b.httpSlot(logSlot), b.httpSlot(jwtSlot), b.denyAllFilter(), b.httpAuthz(), b.httpSlot(httpExtensions), b.routerFilter(),
	}
	return b.networkFilter("envoy.filters.network.http_connection_manager", m)
}

// listener is the name of u's listener.
func (u upstream) listener() string {
	name := u.Name()
	if u.BindSocket != "" {
		return name + ":" + u.BindSocket
	}
	return listenerName(name, u.host(), u.BindPort)
}

// host is the address that the application dials.
func (u upstream) host() string { return cmp.Or(u.BindAddress, "127.0.0.1") }

// upstreamListener accepts the application's connections to the service that u dials. It is the
// same for all L7 protocols: the one that the service speaks is set in its cluster.
func (b *builder) upstreamListener(u upstream) *listenerv3.Listener {
	name := u.Name()
	l := &listenerv3.Listener{
		Name:                          u.listener(),
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		ConnectionBalanceConfig:       balance(u.BalanceConnections),
		FilterChains:                  []*listenerv3.FilterChain{{Name: name}},
	}
	if u.BindSocket != "" {
		l.Address = pipe(u.BindSocket, cmp.Or(u.BindSocketMode, 0o600))
	} else {
		host := u.host()
		if !isIP(host) {
			b.fail("upstream %s (%s): the address %q is not an IP address: Envoy cannot listen on a name", name, u.Origin, host)
		}
		if u.BindPort == 0 {
			b.fail("upstream %s (%s): neither a port nor a socket to listen on is known", name, u.Origin)
		}
		l.Address, l.EnableReusePort = socketAddress(host, u.BindPort), b.reusePort()
	}
	// As Consul names it: its dashboards cut service, namespace, partition and datacenter out of
	// it.
	stats := fmt.Sprintf("upstream.%s.%s.%s.%s", u.id.Service, u.id.Namespace, u.id.Partition, u.id.Datacenter)
	if u.Foreign != "" {
		stats = foreignStats(u.Foreign)
	}
	filter := b.networkFilter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix:       stats,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: u.cluster},
		// The service's own proxy ends idle connections; Envoy's default here is an hour.
		IdleTimeout: durationpb.New(0),
		AccessLog:   b.upstreamLog(u),
	})
	if u.Service.Protocol.L7() {
		filter = b.networkFilter("envoy.filters.network.http_connection_manager", &hcmv3.HttpConnectionManager{
			StatPrefix:               stats,
			CodecType:                hcmv3.HttpConnectionManager_AUTO,
			ForwardClientCertDetails: hcmv3.HttpConnectionManager_SANITIZE,
			// The service's own proxy limits idle streams; Envoy's default here is 5 minutes.
			StreamIdleTimeout:   durationpb.New(0),
			HttpProtocolOptions: b.http1(u.Destination),
			HttpFilters:         []*hcmv3.HttpFilter{b.routerFilter()},
			RouteSpecifier:      routesNamed(u.routes()),
			AccessLog:           b.upstreamLog(u),
		})
	}
	l.FilterChains[0].Filters = []*listenerv3.Filter{filter}
	return l
}

// routesNamed refers to routes by RDS, so that a change of them does not change the listener.
func routesNamed(name string) *hcmv3.HttpConnectionManager_Rds {
	return &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: fromADS}}
}

// balance distributes connections evenly over Envoy's workers if exact is set.
func balance(exact bool) *listenerv3.Listener_ConnectionBalanceConfig {
	if !exact {
		return nil
	}
	return &listenerv3.Listener_ConnectionBalanceConfig{
		BalanceType: &listenerv3.Listener_ConnectionBalanceConfig_ExactBalance_{ExactBalance: &listenerv3.Listener_ConnectionBalanceConfig_ExactBalance{}},
	}
}

func (b *builder) routerFilter() *hcmv3.HttpFilter {
	const name = "envoy.filters.http.router"
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{
		TypedConfig: b.constant(name, func() proto.Message { return &routerv3.Router{SuppressEnvoyHeaders: true} }),
	}}
}

func (b *builder) networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.any(config)}}
}

func (b *builder) httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(config)}}
}
