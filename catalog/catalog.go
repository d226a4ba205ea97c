// Package catalog is the domain model: the services of a mesh, their sidecar proxies and the intentions between them.
//
// A Source publishes Contents, everything it knows, as often as it likes; View.Next turns them into the
// next View, sharing what did not change. A View is immutable, and between two Views pointer-equal means
// unchanged: that is what makes the rest of the program incremental without a list of what depends on
// what. The package knows neither Envoy nor where contents come from.
package catalog

import (
	"context"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Contents is all that a source knows. Each list is sorted and has each thing once: services and
// endpoints by name, datacenter and subset, proxies and registrations by ID, destinations by name, chains by service, datacenter and
// protocol. Nobody changes it, or what it points to, after it was published; a pointer that is published again says that nothing behind it
// changed.
type Contents struct {
	Mesh       Mesh
	Services   []*Service
	Endpoints  []*Endpoints
	Proxies    []*Proxy
	Intentions []*Destination
	// Chains are the discovery chains by which proxies dial services, but for those that are Default: who dials a service of which none is
	// here, in the datacenter and speaking the protocol that it is for, reaches the service's own instances. Endpoints has those of each of their targets.
	Chains []*chain.Chain
	// ChainEntries are what chains are compiled of; nil: they are compiled elsewhere, and what Chains has is all that is known.
	ChainEntries *chain.Entries
	// TokenProviders are who issues tokens that intentions ask for, sorted by name. There may be others.
	TokenProviders []*TokenProvider
	// Registrations are the instances of services that are known themselves, not only by who dials them or by their proxies.
	Registrations []*Registration
	// Sidecars and Entries are what was registered and written as such, sorted by ID, and by kind and name. They are for those who ask
	// as Consul's API is asked; nothing else depends on them. Empty beside Consul.
	Sidecars []*Sidecar
	Entries  []*Entry
	// Revoked are the certificates and identities that are nobody's any more; nil: there are none.
	Revoked *intention.Revoked
	// Whole says that Intentions are all there are: of a destination that none of them names nothing is said. Else that is known of
	// those alone that Intentions have, if without any, and of the services of Proxies and Registrations. It stays as it is.
	Whole bool
	// Seen is when the source first noticed what led to these contents; zero: when it publishes them.
	Seen time.Time
}

// Destination is what the intentions say of one destination.
type Destination struct {
	Name       identity.Name // the wildcard: all destinations of its partition and namespace
	Intentions []intention.Intention
}

// Source is where contents come from.
type Source interface {
	// Run calls publish with the complete contents, first when they are known and then whenever they may have changed,
	// until ctx ends. Publishing equal contents again is allowed and costs little. A source that loses its origin
	// publishes nothing: what is not known is never published as empty. Run returns nil when ctx ended.
	Run(ctx context.Context, publish func(Contents)) error
}

// Mesh is what holds for all services.
type Mesh struct {
	TrustDomain spiffeid.TrustDomain
	// Datacenter is the one that the proxies are in.
	Datacenter string
	// Datacenters are all that identities may come from, Datacenter among them, sorted.
	Datacenters []string
	// Federated are the other trust domains whose bundles are known, sorted by name. Intentions and upstreams
	// may name their workloads. Sources leave it empty: see Store.Federate.
	Federated []spiffeid.TrustDomain
	// Default is what holds between services that no intention is about.
	Default intention.Action
	// Incoming and Outgoing bound the TLS versions of sidecars; the zero value is TLS 1.3 alone.
	Incoming, Outgoing TLS
	// DropForwardedClientCert is Consul's mesh.HTTP.SanitizeXForwardedClientCert. Unless it is set, inbound
	// http requests carry x-forwarded-client-cert with the service's own URI (By), the hash and the URI of
	// the caller's certificate, and nothing that the caller wrote there.
	DropForwardedClientCert bool
}

// TLS bounds the versions of TLS. The zero value is 1.3 alone.
type TLS struct {
	// Allow12 accepts TLS 1.2 with AEAD suites beside 1.3 (sidecars under Consul's own control plane speak it as clients).
	Allow12 bool
}

// Protocol is what an application speaks. The zero value is TCP.
type Protocol uint8

// The protocols, as service-defaults spells them in lower case.
const (
	TCP Protocol = iota
	HTTP
	HTTP2
	GRPC
)

// String is the protocol as Consul spells it.
func (p Protocol) String() string {
	switch p {
	case HTTP:
		return "http"
	case HTTP2:
		return "http2"
	case GRPC:
		return "grpc"
	case TCP:
	}
	return "tcp"
}

// ParseProtocol is the opposite of String. The empty text is TCP; ok is false for anything that Protocol does not know.
func ParseProtocol(s string) (p Protocol, ok bool) {
	switch s {
	case "", "tcp":
		return TCP, true
	case "http":
		return HTTP, true
	case "http2":
		return HTTP2, true
	case "grpc":
		return GRPC, true
	}
	return TCP, false
}

// L7 reports whether Envoy decides for each request rather than for each connection.
func (p Protocol) L7() bool { return p != TCP }

// Service is what those who dial a service need to know of it, but for its endpoints. It is
// comparable.
type Service struct {
	Name identity.Name
	// Datacenter is the one that it is dialled in; empty: the mesh's own, which is never spelled out.
	Datacenter string
	Protocol   Protocol
}

// Endpoints are the sidecars through which a service, or a subset of it, is reached in a datacenter.
type Endpoints struct {
	Name       identity.Name
	Datacenter string // as that of Service
	// Subset is that of a chain's target; the endpoints are those that are in it. Empty: all of the service.
	Subset string     `json:",omitzero"`
	List   []Endpoint // sorted by CompareEndpoints
}

// Endpoint is one sidecar's public listener.
type Endpoint struct {
	Address string // an IP address or a host name
	Port    uint16
	Weight  uint32 // of the healthy ones' sum; 1–128
	Healthy bool
}

// Proxy is one sidecar.
type Proxy struct {
	ID identity.ProxyID
	// Service is the one whose identity the proxy has and whose connections it takes in.
	Service identity.Name
	// Instance is the ID of the service's registration ("web-1"); `--sidecar-for` names it.
	Instance string
	// Origin is where the proxy was read: "web.hcl:3".
	Origin string
	// Host is the machine that the proxy is on, by whatever name; empty: the control plane's own, or it is not known.
	// Proxies of one machine cannot listen on one port.
	Host string `json:",omitzero"`
	// Network is the network namespace that the proxy says it is in; empty: the machine's own. Proxies of different ones
	// may listen on one port, but not on one path.
	Network string `json:",omitzero"`
	// Refused says why nothing can be made of what the proxy's registration says; empty: it can. The proxy's Envoy
	// keeps what it has then, but for who may connect.
	Refused   string `json:",omitzero"`
	Inbound   Inbound
	Bootstrap Bootstrap
	Upstreams []Upstream
	// RefuseHTTP10 has those who dial upstreams and exposed paths in HTTP/1.0 answered with 426, as
	// Envoy's default is.
	RefuseHTTP10 bool `json:",omitzero"`
	// Exposed are the paths that anybody may ask for, sorted by CompareExposed.
	Exposed []ExposedPath
	// AccessLogs are what Envoy writes of what it has served.
	AccessLogs AccessLogs `json:",omitzero"`
}

// Inbound is how a proxy takes connections in and hands them to its application. It is comparable.
type Inbound struct {
	Address string // where Envoy listens; an IP address
	Port    uint16
	// LocalAddress and LocalPort are the application's, unless LocalSocket, the path of a Unix socket, is set.
	LocalAddress string
	LocalPort    uint16
	LocalSocket  string
	// LocalOrigin is where the port or the socket was read: "web.hcl:5"; empty: where the proxy was.
	LocalOrigin string `json:",omitzero"`

	Protocol    Protocol
	Enforcement Enforcement
	Revocation  Revocation
	// ServerFirst says that the application speaks before its client (SMTP, MySQL), which mode ext_authz cannot protect alone.
	ServerFirst bool

	ConnectTimeout time.Duration // to the application; 0: 5 s
	RequestTimeout time.Duration // of a route to the application; 0: none
	IdleTimeout    Timeout       // of streams to the application, and of tcp connections, unless set 5 minutes and an hour
	MaxConnections uint32        // 0: no limit
	// BalanceConnections spreads accepted connections exactly over Envoy's workers.
	BalanceConnections bool
	// Closed says why there is no listener for other proxies; empty: there is one. Who may connect is told
	// all the same.
	Closed string `json:",omitzero"`
}

// Timeout is an optional duration: Consul tells "not set" from "0, no timeout".
type Timeout struct {
	Set      bool
	Duration time.Duration
}

// Bootstrap is what a proxy's Envoy is told in its bootstrap rather than over xDS.
type Bootstrap struct {
	// PrometheusBindAddr is "ip:port" of a metrics listener; empty: none.
	PrometheusBindAddr string
	// StatsTags are labels that all of Envoy's metrics have, a line each: "team=shop".
	StatsTags string `json:",omitzero"`
	// UID is the user, besides root and the control plane's own, that may get the proxy's token; -1: nobody else.
	// Sources set -1 where nothing is configured, for zero is root.
	UID int
}

// Enforcement is where intentions are enforced. The zero value is RBAC.
type Enforcement uint8

// The enforcements.
const (
	RBAC     Enforcement = iota // in Envoy, without asking
	ExtAuthz                    // by asking the control plane
	Both
)

// String is the enforcement as configurations spell it.
func (e Enforcement) String() string {
	switch e {
	case ExtAuthz:
		return "ext_authz"
	case Both:
		return "both"
	case RBAC:
	}
	return "rbac"
}

// ParseEnforcement is the opposite of String; ok is false for anything else.
func ParseEnforcement(s string) (e Enforcement, ok bool) {
	for _, e := range []Enforcement{RBAC, ExtAuthz, Both} {
		if s == e.String() {
			return e, true
		}
	}
	return RBAC, false
}

// Revocation is what happens to live connections when access is taken away.
type Revocation uint8

// The revocations.
const (
	// Drain ends the connections of the service, those of allowed sources too. The default of tcp services.
	Drain Revocation = iota
	// NewConnections refuses new connections and leaves live ones alone. For tcp services.
	NewConnections
	// NextRequest refuses the next request of live connections; long streams may remain. The default of http services.
	NextRequest
)

// String is the revocation as configurations spell it.
func (r Revocation) String() string {
	switch r {
	case NewConnections:
		return "new"
	case NextRequest:
		return "next-request"
	case Drain:
	}
	return "drain"
}

// ParseRevocation is the opposite of String; ok is false for anything else.
func ParseRevocation(s string) (r Revocation, ok bool) {
	for _, r := range []Revocation{Drain, NewConnections, NextRequest} {
		if s == r.String() {
			return r, true
		}
	}
	return Drain, false
}

// Fits reports whether a service of protocol p can have r: connections are judged one by one only where they are not requests.
func (r Revocation) Fits(p Protocol) bool {
	switch r {
	case Drain:
		return true
	case NewConnections:
		return !p.L7()
	case NextRequest:
		return p.L7()
	}
	return false
}

// DefaultRevocation is what holds for a service of protocol p unless configured.
func DefaultRevocation(p Protocol) Revocation {
	if p.L7() {
		return NextRequest
	}
	return Drain
}

// Upstream is a service that a proxy's application dials through it. It is comparable.
type Upstream struct {
	Destination identity.Name
	// Foreign, if not empty, is a workload of another trust domain that is dialled in the place of Destination, at Address (an IP
	// address or a host name) and Port.
	Foreign identity.ID `json:",omitzero"`
	Address string      `json:",omitzero"`
	Port    uint16      `json:",omitzero"`
	// Datacenter is the one in which it is dialled; empty: the mesh's own, which may be spelled out, too.
	Datacenter string
	// BindAddress and BindPort are where the application dials, unless BindSocket, the path of a Unix socket, is set.
	BindAddress    string
	BindPort       uint16
	BindSocket     string
	BindSocketMode uint32        // permission bits; 0: 0600
	ConnectTimeout time.Duration // 0: 5 s
	Limits         Limits
	Passive        PassiveHealthCheck
	// Protocol is what is spoken to it, if that is not what its service says.
	Protocol OptionalProtocol `json:",omitzero"`
	// BalanceConnections spreads accepted connections exactly over Envoy's workers.
	BalanceConnections bool
	// Origin is where the upstream was read: "web.hcl:9".
	Origin string
}

// Name is what the upstream is called as Consul calls it: "api", and "api?dc=dc2" where a datacenter is given; a workload of
// another trust domain by its SPIFFE ID.
func (u Upstream) Name() string {
	if u.Foreign != "" {
		return string(u.Foreign)
	}
	if u.Datacenter == "" {
		return u.Destination.String()
	}
	return u.Destination.String() + "?dc=" + u.Datacenter
}

// Speaks is what is spoken to s by way of the upstream.
func (u Upstream) Speaks(s *Service) Protocol {
	if u.Protocol.Set {
		return u.Protocol.Protocol
	}
	return s.Protocol
}

// OptionalProtocol is a Protocol, or none.
type OptionalProtocol struct {
	Set      bool
	Protocol Protocol
}

// Limits are the circuit breakers of an upstream. Zero values mean that Envoy's defaults hold.
type Limits struct{ MaxConnections, MaxPendingRequests, MaxConcurrentRequests Limit }

// Limit is an optional number: Consul tells "not set" from 0, which lets nothing through.
type Limit struct {
	Set bool
	N   uint32
}

// PassiveHealthCheck is when an endpoint that fails is left out for a while (Envoy's outlier detection). Zero values, and
// fields that are not set, mean Envoy's defaults.
type PassiveHealthCheck struct {
	Set                     bool
	Interval                time.Duration
	MaxFailures             Limit // consecutive 5xx
	EnforcingConsecutive5xx Limit // percent
	MaxEjectionPercent      Limit
	BaseEjectionTime        time.Duration
}

// LogValue keeps logs short: a proxy is its ID.
func (p *Proxy) LogValue() slog.Value { return slog.StringValue(string(p.ID)) }
