// Package bootstrap makes the configuration that a sidecar's Envoy is started with: the bootstrap,
// the file with the proxy's token, and flags.
//
// Everything is built as protobuf messages and marshalled, never pasted into a template, so no
// parameter can become configuration. The bootstrap holds no secret: Envoy reads the token from a
// file of its own and injects it into each call to the control plane, so that neither the bootstrap
// nor a config dump holds it and a renewed token needs no restart.
//
// The functions are pure: no I/O, no clock. The package knows nothing of how a token is made, nor
// of the configuration that the control plane sends later.
package bootstrap
