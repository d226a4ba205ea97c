//go:build tools

// Package cfssl pins the cfssl that `make test-cfssl` runs a plug-in's example on. It is a module of its own, so that cfssl's dependencies stay out of sallyport's.
package cfssl

import _ "github.com/cloudflare/cfssl/cmd/cfssl"
