// Package consul is the local Consul agent as the source of a mesh: its catalog, intentions and
// configuration entries (catalog.Source), its certificates (sds.Source), and its ACL tokens as the
// proof of who a proxy is (token.Authority).
//
// Everything is read over the agent's HTTP API by blocking queries, one for each distinct service,
// destination and chain that the proxies of the agent's own node need, however many proxies share
// it. What is not known is never taken to be empty: a query that fails, an answer that ACLs
// filtered or that has no index takes nothing away, and a proxy appears only when its intentions,
// its protocol and what holds for the mesh are known. What Consul can say and this package cannot
// is refused where it is said, and named in the Status; everything else goes on.
//
// The package knows nothing of Envoy's configuration. It is the only one that imports Consul's
// client.
//
// Concurrency: an Agent may be used by several goroutines. All that Run starts ends before Run
// returns.
package consul
