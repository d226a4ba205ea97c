package identity

import (
	"cmp"
	"log/slog"
	"net/url"
	"strings"
)

// ProxyID is the ID of a proxy's registration: "web-sidecar-proxy". Envoy's node.id is the same
// text.
type ProxyID string

// Header is id as ProxyHeader carries it. An ID may hold any character, so it is percent-encoded,
// with ! in place of %, to which Envoy gives a meaning of its own in metadata.
func (id ProxyID) Header() string {
	return strings.ReplaceAll(url.PathEscape(string(id)), "%", "!")
}

// ParseProxyID reads an ID from a value of ProxyHeader.
func ParseProxyID(header string) (ProxyID, error) {
	id, err := url.PathUnescape(strings.ReplaceAll(header, "!", "%"))
	return ProxyID(id), err
}

// Caller is who a call comes from, as proved by its token. It is comparable. Printing a Caller
// prints its proxy, so that its token never reaches a log.
type Caller struct {
	// Proxy is empty only where a call names none, as those of older listeners, and the token is
	// not one proxy's alone (beside Consul).
	Proxy ProxyID
	// Service is the service that a call is about. Zero in the Caller of a stream.
	Service Name
	// Application names an application without a sidecar ("token 7QK…", "uid 1000"), whose leafs are its own.
	// Empty in the Caller of a proxy.
	Application string
	// Token authorizes the fetch of a leaf where the source checks it (Consul's ACL token). Empty
	// for other sources.
	Token string
	// Proof is what the token says beside the proxy. Zero where it is not one of the control plane's
	// own.
	Proof Proof
}

// Proof is what a token of the control plane's own says of the proxy that it was made for. It is
// comparable.
type Proof struct {
	// ID names the token. It is no secret.
	ID string
	// Expires is when the token ends, in Unix seconds.
	Expires int64
	// Service and UID are those of the proxy's definition when the token was made; UID is -1 where
	// that named no user. A zero Service: a release made the token that bound it to neither.
	Service Name
	UID     int
}

// Bound reports whether the token is bound to what the definition of its proxy said.
func (p Proof) Bound() bool { return p.Service != Name{} }

// String is the proxy's ID, or the application's name.
func (c Caller) String() string { return cmp.Or(string(c.Proxy), c.Application) }

// GoString is String, so that %#v prints no token.
func (c Caller) GoString() string { return c.String() }

// LogValue is String.
func (c Caller) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText is String, so that JSON prints no token.
func (c Caller) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// XDSCluster is the name of the control plane's cluster in each proxy's bootstrap. All calls of an
// Envoy to the control plane go through it, so that they carry the proxy's token.
const XDSCluster = "sallyport"

// How a call names its proxy and service. The configuration that makes an Envoy call sets them, and
// the call's token has to have the right to them.
const (
	// ProxyHeader is the gRPC metadata that names the proxy, by ProxyID.Header.
	ProxyHeader = "x-sallyport-proxy"
	// DestinationHeader is the gRPC metadata that names the service whose proxy it is.
	DestinationHeader = "x-sallyport-destination"
	// DestinationExtension names that service once more, in ext_authz checks of http requests.
	DestinationExtension = "destination"
)

// Keys of an Envoy's node.metadata. The bootstrap sets them, and the control plane learns from them
// how large an expression this Envoy accepts and how long a revocation takes.
const (
	// MetadataKey is the key of the struct that has the others.
	MetadataKey = "sallyport"
	// MetadataRegexSize is the limit re2.max_program_size.error_level, a number.
	MetadataRegexSize = "re2_max_program_size"
	// MetadataDrainSeconds is Envoy's --drain-time-s, a number.
	MetadataDrainSeconds = "drain_time_s"
	// MetadataMetrics is "ip:port" of its metrics listener, or empty: it has none.
	MetadataMetrics = "metrics_bind_addr"
	// MetadataNetwork names the network namespace that it runs in; empty: it does not say.
	MetadataNetwork = "network"
	// MetadataAdmin is where its administration listens: "ip:port", or "unix:" and a path.
	MetadataAdmin = "admin_address"
	// MetadataExclusivePorts says that it was started by a release that lets no two Envoys share a
	// port, a boolean. An Envoy takes no change of that while it runs.
	MetadataExclusivePorts = "exclusive_ports"
)
