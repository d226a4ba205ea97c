// Package xds serves each proxy's Envoy its configuration, over the delta variant of Envoy's
// aggregated discovery service.
//
// A Server has two halves. The publisher (Server.Run) is one goroutine: whenever the catalog, the
// trust bundles, a leaf or the set of streams changes, it builds the configuration of the connected
// proxies that the change concerns and gives it, as an immutable target, to their sessions. A
// session is one stream: it knows what its Envoy subscribed to, has and refused, and sends what is
// missing, in the order that Envoy needs, with one unanswered response per type. A session waits
// for its own Envoy only, and nothing waits for a session, so a slow Envoy delays no other. What its
// order depends on and the Envoy does not say when it comes back, the next stream takes over.
//
// A session can only send what is in its target, and a target holds one proxy's resources and
// secrets: there is no request by which a proxy could get another one's.
//
// The package does not know how proxies prove who they are (Config.Authorize), where certificates
// come from (package sds) or what Envoy configuration means (package snapshot).
package xds
