//go:build tools

// Package vault pins the Vault of the tests. A module of its own, as Vault's dependencies are not sallyport's.
package vault

import _ "github.com/hashicorp/vault"
