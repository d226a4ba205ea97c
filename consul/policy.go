package consul

import (
	"cmp"
	"strconv"
)

// DefaultRevokedKey is the key of Consul's KV store with what is revoked, unless configured.
const DefaultRevokedKey = "sallyport/revoked"

// Policy returns the ACL policy, in HCL, that the control plane's own token needs on a node: what it reads and nothing more. An empty
// node stands for every node, for one token that all control planes share. revoked is the key with what is revoked; empty: DefaultRevokedKey.
func Policy(node, revoked string) string {
	agent := `agent_prefix ""`
	if node != "" {
		agent = "agent " + strconv.Quote(node)
	}
	return `# What sallyport reads beside a Consul agent. It writes nothing, and fetches no certificate with this token:
# those are fetched with the token that each proxy brings, which needs service:write on its service.

# The name of the node, and default_intention_policy.
` + agent + ` {
  policy = "read"
}

# The instances of upstreams, wherever they run.
node_prefix "" {
  policy = "read"
}

# Registrations, endpoints, protocols and chains; and the intentions, of this node's services and of those asked about.
service_prefix "" {
  policy     = "read"
  intentions = "read"
}

# Who issues tokens (jwt-provider), where intentions ask for some.
mesh = "read"

# The list of revoked certificates and identities. Who runs "sallyport revoke" brings a token that may write it.
key ` + strconv.Quote(cmp.Or(revoked, DefaultRevokedKey)) + ` {
  policy = "read"
}
`
}
