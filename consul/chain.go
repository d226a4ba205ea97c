package consul

import (
	"errors"
	"fmt"
	"time"
)

// route is what a default chain comes to.
type route struct {
	connectTimeout time.Duration
	// the mode of mesh gateways, should it lead to another datacenter than the agent's
	gateway string
}

// defaultRoute is how the service name is dialled in a datacenter, or why it cannot be: a chain
// leads to the service's own instances there, or it is not supported yet.
func (c *chain) defaultRoute(name, datacenter string) (route, error) {
	unsupported := func(kind, format string, args ...any) (route, error) {
		return route{}, fmt.Errorf("%s/%s: %s not supported yet", kind, name, fmt.Sprintf(format, args...))
	}
	const resolver = "service-resolver"
	start := c.Nodes[c.StartNode]
	switch {
	case start == nil:
		return route{}, errors.New("the chain has no start")
	case start.Type == "router":
		return unsupported("service-router", "routes are")
	case start.Type == "splitter":
		return unsupported("service-splitter", "splits are")
	case start.Type != "resolver" || start.Resolver == nil:
		return route{}, fmt.Errorf("a chain that begins with %.60q is not supported yet", start.Type)
	}
	r := start.Resolver
	target := c.Targets[r.Target]
	timeout, ok := r.RequestTimeout.Duration()
	switch {
	case target == nil:
		return route{}, errors.New("the chain has no target")
	case r.Failover != nil:
		return unsupported(resolver, "failover is")
	case target.Peer != "":
		return unsupported(resolver, "peers are")
	case !isDefault(target.Namespace) || !isDefault(target.Partition):
		return unsupported(resolver, "namespaces and partitions are")
	case target.Service != name:
		return unsupported(resolver, "redirection to the service %.60q is", target.Service)
	case target.Datacenter != datacenter:
		return unsupported(resolver, "redirection to the datacenter %.60q is", target.Datacenter)
	case target.ServiceSubset != "":
		return unsupported(resolver, "subsets are")
	case target.External:
		return unsupported("service-defaults", "ExternalSNI is")
	case start.LoadBalancer != nil && start.LoadBalancer.Policy != "" &&
		start.LoadBalancer.Policy != "round_robin":
		return unsupported(resolver, "the load balancer %.60q is", start.LoadBalancer.Policy)
	case !ok || timeout > 0:
		return unsupported(resolver, "RequestTimeout is")
	}
	out := route{gateway: target.MeshGateway.Mode}
	if !r.Default {
		out.connectTimeout, _ = r.ConnectTimeout.Duration()
	}
	return out, nil
}
