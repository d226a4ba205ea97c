// Package snapshot turns what a proxy is to do into what its Envoy is told: Build makes the Envoy
// resources of an Input. Build is pure: no clock, no I/O, no globals, no View, so "has its Input
// changed?" is the whole question of who has to be told. All Envoy configuration but secrets'
// contents and the bootstrap is made here.
package snapshot

import "github.com/sallyport/sallyport/catalog"

// Input is everything that a proxy's resources depend on. What it points to is immutable, so equal
// Inputs (==) give equal resources; Inputs that are not equal may, too.
type Input struct {
	// ProxyView is what the catalog says. Build takes nil for not enough to build anything.
	*catalog.ProxyView
	// Generation counts how often access to the service was taken away with live connections to be
	// ended: it is part of the inbound filter chain's name, so raising it drains them.
	Generation uint64
	// Envoy is what the proxy's Envoy can do.
	Envoy Features
}
