package files

import (
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// member is an instance as those see it who dial it, and as filters see it.
type member struct {
	catalog.Endpoint
	instance *chain.Instance
	passing  bool
}

func (s *sidecar) member() member {
	r := s.registered
	i := instanceOf(&r.Registration)
	i.Service.Kind = "connect-proxy"
	if r.Weights != (catalog.Weights{}) {
		i.Service.Weights = chain.InstanceWeights{Passing: int(r.Weights.Passing), Warning: int(r.Weights.Warning)}
	}
	i.Service.Proxy = chain.InstanceProxy{
		DestinationServiceName: r.Destination.Service, DestinationServiceID: r.Instance,
		LocalServiceAddress: r.LocalAddress, LocalServicePort: int(r.LocalPort), LocalServiceSocketPath: r.LocalSocket,
	}
	return member{s.endpoint(), i, worst(r.Checks) == passing}
}

func (s *service) member() member {
	i := instanceOf(s.registration)
	i.Service.Connect.Native = true
	return member{s.endpoint(), i, s.health == passing}
}

// instanceOf is a registration as filters see it. Of nodes files know nothing.
func instanceOf(r *catalog.Registration) *chain.Instance {
	i := &chain.Instance{Service: chain.InstanceService{
		ID: r.ID, Service: r.Service.Service, Tags: r.Tags, Meta: r.Meta, Address: r.Address, Port: int(r.Port), EnableTagOverride: r.EnableTagOverride,
	}}
	i.Service.Weights = chain.InstanceWeights{Passing: 1, Warning: 1}
	for _, c := range r.Checks {
		i.Checks = append(i.Checks, chain.InstanceCheck{
			CheckID: c.ID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output, ServiceID: r.ID, ServiceName: r.Service.Service, Type: c.Type,
		})
	}
	return i
}

// makeEndpoints makes n's endpoints, and those of its subsets, of the sidecars that are among its members and of those instances that are
// dialled themselves.
func (a *assembly) makeEndpoints(n *name) {
	for _, s := range n.instances {
		if s.dialled() {
			n.members = append(n.members, s.member())
		}
	}
	n.endpoints = n.those(func(member) (is, well bool) { return true, true })
	n.subsets = nil
	if n.resolver != nil {
		n.subsets = make(map[string]*catalog.Endpoints, len(n.resolver.resolver.Subsets))
		for name, s := range n.resolver.resolver.Subsets {
			e := n.those(func(m member) (is, well bool) {
				is, err := n.resolver.filters[name].Match(m.instance) // an error: it has not what is looked at, so it is not in
				return is && err == nil, !s.OnlyPassing || m.passing
			})
			e.Subset = name
			n.subsets[name] = e
		}
	}
	n.members = nil
}

// those are the endpoints of the members that are in, of which those that are not well are not healthy.
func (n *name) those(in func(member) (is, well bool)) *catalog.Endpoints {
	e := &catalog.Endpoints{Name: identity.NewName(n.name)}
	for _, m := range n.members {
		if is, well := in(m); is {
			m.Healthy = m.Healthy && well
			e.List = append(e.List, m.Endpoint)
		}
	}
	slices.SortFunc(e.List, catalog.CompareEndpoints)
	return e
}
