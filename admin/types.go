// Package admin is the control plane's own API: JSON over HTTP on a Unix socket (admin.sock), for the commands that ask a
// running control plane. Who may connect is what the socket's mode says; who may have a token is judged by the uid of the
// process at the other end.
package admin

import (
	"log/slog"
	"time"
)

// TokenRequest asks for a proxy's token and for what else its bootstrap needs. Exactly one of SidecarFor, the ID of a service instance, and ProxyID is set.
type TokenRequest struct {
	SidecarFor string        `json:"sidecar_for,omitempty"`
	ProxyID    string        `json:"proxy_id,omitempty"`
	TTL        time.Duration `json:"ttl,omitempty"` // nanoseconds; 0: the control plane's default
}

// TokenResponse is a token and what a bootstrap is made of.
type TokenResponse struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`

	ProxyID     string `json:"proxy_id"`
	Service     string `json:"service"`
	Namespace   string `json:"namespace"`
	Partition   string `json:"partition"`
	Datacenter  string `json:"datacenter"`
	TrustDomain string `json:"trust_domain"`
	Origin      string `json:"origin"` // where the proxy is defined: "web.hcl:3"

	// XDSSocket is the path of the socket that Envoys on this machine use.
	XDSSocket string `json:"xds_socket"`
	// XDSAddress is host:port of the TLS endpoint for Envoys elsewhere; empty if there is none.
	XDSAddress string `json:"xds_address,omitempty"`
	// XDSCA is the PEM of the roots that the TLS endpoint's certificate is verified with, XDSURI its URI SAN.
	XDSCA  string `json:"xds_ca,omitempty"`
	XDSURI string `json:"xds_uri,omitempty"`

	PrometheusBindAddr string `json:"prometheus_bind_addr,omitempty"`
	// Listeners are what the proxy's Envoy will bind: "127.0.0.1:21000", or the path of a Unix socket.
	Listeners []Listener `json:"listeners"`
}

// Listener is an address that an Envoy will bind.
type Listener struct {
	Name    string `json:"name"`              // "public_listener", or the upstream's name
	Address string `json:"address,omitempty"` // host:port
	Socket  string `json:"socket,omitempty"`
	Origin  string `json:"origin,omitempty"`
}

// LogValue keeps the token out of logs.
func (r TokenResponse) LogValue() slog.Value {
	return slog.GroupValue(slog.String("proxy", r.ProxyID), slog.Time("expires", r.Expires))
}

// String keeps the token out of whatever prints a response.
func (r TokenResponse) String() string { return "token of " + r.ProxyID }
