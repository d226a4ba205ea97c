// Package sds holds the credentials of the mesh: it watches one leaf per identity in use and the
// roots, verifies each before anybody gets it, and hands them to xds. It knows neither where
// certificates come from (that is a Source), nor the secrets that Envoy gets (that is snapshot),
// nor which proxy may have which (that is xds).
//
// Concurrency: Credentials, Leafs and Roots may be used by several goroutines. What they return is
// immutable and shared by all who ask; nobody may change it. Private keys are in memory only, and
// no type of this package prints one.
package sds
