package consul

import (
	"errors"
	"fmt"
	"time"
)

// route is what a default chain comes to.
type route struct {
	connectTimeout time.Duration
	gateway        string // the mode of mesh gateways, should it lead to another datacenter than the agent's
}

// defaultRoute is how the service name is dialled in a datacenter, or why it cannot be: a chain leads to the service's own instances
// there, or it is not supported yet.
func (c *chain) defaultRoute(name, datacenter string) (route, error) {
	start := c.Nodes[c.StartNode]
	switch {
	case start == nil:
		return route{}, errors.New("the chain has no start")
	case start.Type == "router":
		return route{}, fmt.Errorf("service-router/%s: routes are not supported yet", name)
	case start.Type == "splitter":
		return route{}, fmt.Errorf("service-splitter/%s: splits are not supported yet", name)
	case start.Type != "resolver" || start.Resolver == nil:
		return route{}, fmt.Errorf("a chain that begins with %.60q is not supported yet", start.Type)
	}
	r := start.Resolver
	target := c.Targets[r.Target]
	entry := "service-resolver/" + name + ": "
	timeout, ok := r.RequestTimeout.Duration()
	switch {
	case target == nil:
		return route{}, errors.New("the chain has no target")
	case r.Failover != nil:
		return route{}, errors.New(entry + "failover is not supported yet")
	case target.Peer != "":
		return route{}, errors.New(entry + "peers are not supported yet")
	case !isDefault(target.Namespace) || !isDefault(target.Partition):
		return route{}, errors.New(entry + "namespaces and partitions are not supported yet")
	case target.Service != name:
		return route{}, fmt.Errorf("%sredirection to the service %.60q is not supported yet", entry, target.Service)
	case target.Datacenter != datacenter:
		return route{}, fmt.Errorf("%sredirection to the datacenter %.60q is not supported yet", entry, target.Datacenter)
	case target.ServiceSubset != "":
		return route{}, errors.New(entry + "subsets are not supported yet")
	case target.External:
		return route{}, fmt.Errorf("service-defaults/%s: ExternalSNI is not supported yet", name)
	case start.LoadBalancer != nil && start.LoadBalancer.Policy != "" && start.LoadBalancer.Policy != "round_robin":
		return route{}, fmt.Errorf("%sthe load balancer %.60q is not supported yet", entry, start.LoadBalancer.Policy)
	case !ok || timeout > 0:
		return route{}, errors.New(entry + "RequestTimeout is not supported yet")
	}
	out := route{gateway: target.MeshGateway.Mode}
	if !r.Default {
		out.connectTimeout, _ = r.ConnectTimeout.Duration()
	}
	return out, nil
}
