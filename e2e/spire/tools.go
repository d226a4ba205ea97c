//go:build tools

// Package spire pins the SPIRE server that `make test-spire` takes for another trust domain. It is a module of its own, so that SPIRE's dependencies stay out of sallyport's.
package spire

import _ "github.com/spiffe/spire/cmd/spire-server"
