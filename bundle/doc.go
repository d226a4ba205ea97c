// Package bundle knows with what the identities of other trust domains are verified: SPIFFE bundles from files and from bundle endpoints,
// and offers the mesh's own to others.
//
// It hides where a bundle comes from, when it is asked for again and what is believed of an answer. Somebody else's server has a say in
// the roots of its own trust domain and in nothing else: bundles of different domains are never put together (SPIFFE Federation, 7.1).
// The package does not decide who may connect.
//
// Concurrency: all types may be used by several goroutines. What they return is shared and immutable.
package bundle
