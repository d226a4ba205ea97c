//go:build tools

// Package consul pins the Consul that the end-to-end tests run beside. It is a module of its own, so that Consul's dependencies stay out of sallyport's.
package consul

import _ "github.com/hashicorp/consul"
