package consul

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// lead is what a discovery comes to for those who dial it.
type lead struct {
	// chain is what is published; nil: the default one, which leads to the service's own instances.
	chain *chain.Chain
	// gateway is the mode of mesh gateways that the default chain asks for in another datacenter.
	gateway string
	// groups are the endpoints that it leads to, each once, sorted by what they are published as.
	groups []group
	// far says that some are another datacenter's than the agent's.
	far bool
	// refused are why some of its targets have no endpoints, sorted.
	refused []string
	err     error // why it leads nowhere
}

// group is a part of a service's instances that have one identity.
type group struct {
	name       identity.Name
	datacenter string // empty: the agent's
	subset     string
	filter     string
	passing    bool // instances with a warning count as critical
}

// published is what its endpoints are found by.
func (g group) published() string {
	more := ""
	if g.subset != "" {
		more = subsetMark + g.subset
	}
	return targetName(g.name.Service, g.datacenter, more)
}

// asked is what the agent is asked for. A subset's filter goes to the agent: it is evaluated over
// all that Consul knows of an instance, by the code that evaluates it for Consul's own sidecars, so
// nothing of its meaning can differ. That is a query for each filter, of which the entries of a
// service have few, in the place of one for all instances. OnlyPassing is applied here, as by
// Consul, and takes none more.
func (g group) asked() string {
	more := ""
	if g.filter != "" {
		more = filterMark + g.filter
	}
	return targetName(g.name.Service, g.datacenter, more)
}

// subsetName is what Consul takes as the name of a subset: it becomes the first label of a server
// name.
var subsetName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// lead is what d comes to for those who dial the service in the datacenter, from own. mode is that of
// mesh gateways, if those who dial say one.
func (d *discovery) lead(service, datacenter, own, mode string) *lead {
	l := &lead{err: d.err}
	switch {
	case l.err != nil:
		return l
	case d.chain.Default:
		if start := d.chain.Targets[startTarget(d.chain)]; start != nil {
			l.gateway = start.GatewayMode
			t := *start
			t.GatewayMode = ""
			if reason := refuseTarget(&t); reason != "" { // an ExternalSNI alone is no entry that says how it is dialled
				l.err = fmt.Errorf("the target %.200s %s", t.ID, reason)
				return l
			}
		}
		l.groups = []group{{name: identity.NewName(service), datacenter: datacenter}}
		l.far = datacenter != ""
		return l
	}
	c := *d.chain
	c.Service, c.Datacenter, c.Targets = identity.NewName(service), cmp.Or(datacenter, own), make(map[string]*chain.Target, len(c.Targets))
	l.chain = &c
	groups := map[string]group{}
	for _, id := range slices.Sorted(maps.Keys(d.chain.Targets)) {
		t := *d.chain.Targets[id]
		if t.Datacenter == own {
			t.GatewayMode = "" // they lead to other datacenters alone
		} else {
			t.GatewayMode = cmp.Or(mode, t.GatewayMode)
		}
		if gatewayProblem(t.GatewayMode) == "" {
			t.GatewayMode = ""
		}
		c.Targets[id] = &t
		if reason := refuseTarget(&t); reason != "" {
			l.refused = append(l.refused, fmt.Sprintf("the target %.200s %s: it has no endpoints", id, reason))
			continue
		}
		g := group{name: t.Service, datacenter: t.Datacenter, subset: t.Subset, filter: t.Filter, passing: t.OnlyPassing}
		if g.datacenter == own {
			g.datacenter = ""
		}
		l.far = l.far || g.datacenter != ""
		groups[g.published()] = g
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		l.groups = append(l.groups, groups[name])
	}
	if len(l.groups) == 0 {
		l.err = errors.New("it leads nowhere")
		if t := c.Targets[startTarget(&c)]; t != nil {
			l.err = fmt.Errorf("the target %.200s %s", t.ID, refuseTarget(t))
		}
	}
	return l
}

// startTarget is the ID of the target of a chain that begins at a resolver; empty: it does not.
func startTarget(c *chain.Chain) string {
	if n := c.Nodes[c.Start]; n != nil && n.Resolver != nil {
		return n.Resolver.Target
	}
	return ""
}

// refuseTarget says why a target has no endpoints; empty: it has.
func refuseTarget(t *chain.Target) string {
	switch {
	case t.Peer != "":
		return fmt.Sprintf("is of the peer %.60q, and peers are not supported yet", t.Peer)
	case t.Service.Namespace != identity.Default || t.Service.Partition != identity.Default:
		return "is in a namespace or a partition, which are not supported yet"
	case t.External:
		return "has an ExternalSNI, which is not supported yet"
	case t.GatewayMode != "":
		return "is dialled through mesh gateways (mode " + t.GatewayMode + "), which are not supported yet"
	case t.Service.Check() != nil:
		return "has a name that cannot be part of an identity"
	case identity.CheckDatacenter(t.Datacenter) != nil:
		return fmt.Sprintf("is in the datacenter %.60q, which cannot be part of an identity", t.Datacenter)
	case t.Subset != "" && !subsetName.MatchString(t.Subset):
		return fmt.Sprintf("is a subset whose name %.100q is none of Consul's", t.Subset)
	case len(t.Filter) > longestFilter:
		return fmt.Sprintf("has a filter of %d bytes, and %d are the most", len(t.Filter), longestFilter)
	}
	return ""
}
