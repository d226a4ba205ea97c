// Package snapshot makes Envoy's configuration: Build makes the resources of an Input. Build is
// pure: no clock, no I/O, no globals, no View. So an Envoy needs an update exactly when its Input
// has changed. All Envoy configuration but the bootstrap is made here.
package snapshot

import "github.com/sallyport/sallyport/catalog"

// Input is everything that a proxy's resources depend on. What it points to is immutable, so equal
// Inputs (==) give equal resources; Inputs that are not equal may, too.
type Input struct {
	// ProxyView is the catalog's. With nil, Build returns an error.
	*catalog.ProxyView
	// Generation is raised when access to the service is revoked and live connections have to end:
	// it is part of the inbound filter chain's name, so another one drains them.
	Generation uint64
	// Ended is Generation for the services whose live connections a revocation does not end: it is
	// raised when all have to.
	Ended uint64
	// Redials is another one when connections that the proxy has made to HTTP services are of no use any more, as they were made with a
	// certificate that was revoked: clusters with another one have no connections. Empty: none was.
	Redials string
	// Envoy is what the proxy's Envoy can do.
	Envoy Features
}
