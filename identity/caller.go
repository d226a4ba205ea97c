package identity

import (
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

// Caller is who a call comes from, as its token has proved it. It is comparable. A token never
// reaches a log: printing a Caller prints its proxy.
type Caller struct {
	// Proxy is empty only where a call names none, as those of older listeners, and the token is
	// not one proxy's alone (beside Consul).
	Proxy ProxyID
	// Service is the one that a call is about. Zero in the Caller of a stream.
	Service Name
	// Token is what a leaf is fetched with where the source checks it (Consul's ACL token). Empty
	// for sources that do not.
	Token string
}

// String is the proxy's ID.
func (c Caller) String() string { return string(c.Proxy) }

// GoString is String, so that %#v prints no token.
func (c Caller) GoString() string { return string(c.Proxy) }

// LogValue is String.
func (c Caller) LogValue() slog.Value { return slog.StringValue(string(c.Proxy)) }

// MarshalText is String, so that JSON prints no token.
func (c Caller) MarshalText() ([]byte, error) { return []byte(c.Proxy), nil }

// XDSCluster is the name of the cluster, in each proxy's bootstrap, through which its Envoy reaches
// the control plane. All that an Envoy asks and reports goes over it, so that it carries the
// proxy's token.
const XDSCluster = "sallyport"

// How a call says whose it is and what it is about. The configuration that makes an Envoy call
// writes them, and the token that comes with the call has to bear them out.
const (
	// ProxyHeader is the gRPC metadata that names the proxy, by ProxyID.Header.
	ProxyHeader = "x-sallyport-proxy"
	// DestinationHeader is the gRPC metadata that names the service whose proxy it is.
	DestinationHeader = "x-sallyport-destination"
	// DestinationExtension names that service once more, in ext_authz checks of http requests.
	DestinationExtension = "destination"
)
