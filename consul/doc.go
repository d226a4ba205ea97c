// Package consul is the local Consul agent as the source of a mesh: its catalog, intentions and
// configuration entries (catalog.Source), its certificates (sds.Source), and its ACL tokens as the
// proof of who a proxy is (token.Authority).
//
// Everything is read over the agent's HTTP API by blocking queries, one for each distinct service,
// destination and chain that the proxies of the agent's own node need, however many proxies share it.
// What is not known is never taken to be empty: a query that fails, an answer that ACLs filtered or
// that has no index takes nothing away, and a proxy appears only when its intentions, its protocol
// and what holds for the mesh are known. What Consul can say and this package cannot is refused where
// it is said, and named in the Status; everything else goes on.
//
// The package has four parts, each of which knows those before it and none after it:
//
//   - The query engine asks the agent, and knows how each query is doing: client, query, limiter,
//     staleness.
//   - The readers turn answers into what the catalog has, and ask nothing.
//   - aclcache keeps what the agent says of tokens.
//   - The Agent: watcher and bulk see to it that what the node's proxies need is asked for, and by
//     elsewhere what is said of other destinations that somebody asks about; assembly puts contents
//     together out of what is known, authorizer and certificate are its other faces.
//
// The package knows nothing of Envoy's configuration. It is the only one that imports Consul's client.
//
// Concurrency: an Agent may be used by several goroutines. All that Run starts ends before Run returns.
package consul
