//go:build tools

// Package vault pins the Vault that `make test-vault` runs Consul's CA on. It is a module of its own, so that Vault's dependencies stay out of sallyport's.
package vault

import _ "github.com/hashicorp/vault"
