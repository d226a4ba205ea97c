package bootstrap

import (
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Defaults of Params.
const (
	defaultMaxConnections = 50000
	defaultRegexSize      = 10000
	DefaultDrainTime      = 30 * time.Second
)

// Params is what a bootstrap is made of. Fields without a default named in their comment must be
// set.
type Params struct {
	// ProxyID is the proxy's ID in the catalog and becomes node.id, which must agree with the
	// token.
	ProxyID string
	// Identity is the service that the proxy stands in for. Its name becomes node.cluster and the
	// local_cluster label.
	Identity identity.Service

	// XDSSocket is the absolute path of the control plane's socket for Envoys on its own machine.
	// Exactly one of XDSSocket and XDSAddress is set.
	XDSSocket string
	// XDSAddress is host:port of the control plane's TLS endpoint for an Envoy elsewhere; XDSCA and
	// XDSURI go with it.
	XDSAddress string
	// XDSCA is the roots that the endpoint's certificate is verified with, in PEM.
	XDSCA string
	// XDSURI is the URI SAN that the endpoint's certificate must have.
	XDSURI string

	// TokenFile is the absolute path of the file that holds what TokenFile returns; it ends in
	// .json. Envoy watches its directory: a new token is written beside it and renamed over it.
	// Envoy exits if the file is missing at its start.
	TokenFile string

	// AdminSocket is the absolute path at which Envoy's administration interface listens, with mode
	// 0600. Exactly one of AdminSocket and AdminBind is set.
	AdminSocket string
	// AdminBind is ip:port (or localhost:port) of the administration interface. Every user of the
	// machine can reach it there, so from Envoy 1.37 on it answers the paths that change nothing,
	// and no others. Envoy 1.36 cannot restrict it.
	AdminBind string
	// AdminRemote permits an AdminBind that is not a loopback address.
	AdminRemote bool
	// Network names the network namespace that Envoy will run in, in up to 256 bytes: Envoys of one
	// cannot listen on one port. Empty: it is not said.
	Network string
	// PrometheusBindAddr is ip:port of a listener that answers GET /metrics with Envoy's metrics;
	// empty: none.
	PrometheusBindAddr string
	// StatsTags are labels that all metrics have, "team=shop", beside those of the proxy's identity,
	// which hold where the names are the same.
	StatsTags []string

	// EnvoyVersion is the Envoy that will read the bootstrap. An Envoy refuses a bootstrap with a
	// field that it does not know, so for the zero Version only fields are used that every
	// supported Envoy knows.
	EnvoyVersion Version

	// MaxConnections bounds the downstream connections of the whole Envoy; 0: 50000. The
	// administration interface and the metrics listener do not count.
	MaxConnections int64
	// RegexSize bounds the compiled size of a regular expression
	// (re2.max_program_size.error_level), 100 to 1<<20; zero stands for 10000. Envoy's own default
	// of 100 refuses the expression that denies a few names in a handshake.
	RegexSize int
	// DrainTime is how long the connections of a filter chain that was withdrawn may live on, in
	// whole seconds; 0: DefaultDrainTime. It is a flag of Envoy (see Args) that the node's metadata
	// repeats to the control plane.
	DrainTime time.Duration
}

// withDefaults returns p with the documented defaults in place of zero fields. Build and Args call
// it themselves.
func (p Params) withDefaults() Params {
	if p.MaxConnections == 0 {
		p.MaxConnections = defaultMaxConnections
	}
	if p.RegexSize == 0 {
		p.RegexSize = defaultRegexSize
	}
	if p.DrainTime == 0 {
		p.DrainTime = DefaultDrainTime
	}
	return p
}
