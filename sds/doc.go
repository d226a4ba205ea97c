// Package sds holds the credentials of the mesh as Envoy wants them: it watches one leaf per identity in use and the roots, looks at each
// before anybody gets it, and makes the secrets that xds sends. It knows neither where certificates come from (that is a Source) nor
// which proxy may have which secret (that is xds).
//
// Concurrency: Credentials, Leaf and Bundles may be used by several goroutines. What they return is immutable and shared by all who
// ask; nobody may change it. Private keys are in memory only, and no type of this package prints one.
package sds
