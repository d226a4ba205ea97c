// Package xdstest has clients of an xDS server for tests and benchmarks: Stream, for conversations
// that are written down request by request, and Envoy, which behaves as Envoy does, as far as a
// control plane can see.
package xdstest
