package chain

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/identity"
)

// dotted is a service's name as it is in the names of nodes.
func dotted(n identity.Name) string { return n.Service + "." + n.Namespace + "." + n.Partition }

// target is the one of that service; without datacenter and peer the one of the chain's own datacenter. It is made once.
func (w *compiler) target(service identity.Name, subset, datacenter, peer string) *Target {
	t := &Target{Service: service, Subset: subset, Datacenter: datacenter, Peer: peer}
	where := "external." + peer
	if peer == "" {
		if t.Datacenter == "" {
			t.Datacenter = w.entries.Datacenter
		}
		where = t.Datacenter
	} else {
		t.Datacenter = ""
	}
	t.ID = dotted(service) + "." + where
	if subset != "" && peer == "" {
		t.ID = subset + "." + t.ID
	}
	if known := w.targets[t.ID]; known != nil {
		return known
	}
	if peer == "" {
		t.Name = sni(t, w.entries.TrustDomain)
		t.SNI = t.Name
	}
	w.targets[t.ID] = t
	return t
}

// sni is how a target is called on the wire, as Consul calls it.
func sni(t *Target, trustDomain string) string {
	name := t.Service.Service + "." + t.Service.Namespace + "."
	internal := ".internal."
	if t.Service.Partition != identity.Default {
		name += t.Service.Partition + "."
		internal = ".internal-v1."
	}
	if t.Subset != "" {
		name = t.Subset + "." + name
	}
	return name + t.Datacenter + internal + trustDomain
}

// elsewhere is t with what a redirect or failover says otherwise. Another service ends the subset, unless that says one, too; a peer counts
// only where it is named.
func (w *compiler) elsewhere(t *Target, service, subset, datacenter, peer string) *Target {
	to, s, dc := t.Service, t.Subset, t.Datacenter
	if service != "" && service != to.Service {
		to.Service, s = service, ""
	}
	if subset != "" {
		s = subset
	}
	if datacenter != "" {
		dc = datacenter
	}
	return w.target(to, s, dc, peer)
}

// resolver makes the node that a target comes to by redirects and default subsets, and returns its key. by is who names the target.
func (w *compiler) resolver(t *Target, by *Mistake) (string, error) {
	n, known, r, err := w.resolve(t, by)
	if err != nil || known {
		return string(ResolverNode) + ":" + n.Name, err
	}
	key := w.put(n)
	return key, w.failover(n, r)
}

// resolve follows redirects and default subsets. Of a peer's service that is done with the entries of this mesh which have its name, as Consul
// does wherever it has loaded those for another target. known: the node was made already. Else r is the entry that it is made of; nil: there is none.
func (w *compiler) resolve(t *Target, by *Mistake) (n *Node, known bool, r *Resolver, err error) {
	var way []string // IDs of the targets on it
	for {
		if n := w.nodes[string(ResolverNode)+":"+t.ID]; n != nil {
			return n, true, nil, nil
		}
		if t.Peer == "" {
			if err := w.speak(t.Service, by); err != nil {
				return &Node{}, false, nil, err
			}
		}
		if slices.Contains(way, t.ID) {
			return &Node{}, false, nil, by.say("detected circular resolver redirect: [%s]", strings.Join(append(way, t.ID), " -> "))
		}
		if way = append(way, t.ID); len(way) > maxDepth {
			return &Node{}, false, nil, by.say("discovery chain %q redirects more than %d times", w.service.Service, maxDepth)
		}
		w.use(t.Service)
		r = w.entries.Resolvers[t.Service.Fold()]
		if r == nil {
			break
		}
		next := t
		if d := r.Redirect; d != nil {
			next = w.elsewhere(t, d.Service, d.Subset, d.Datacenter, d.Peer)
		}
		if next != t {
			by = &Mistake{Kind: ResolverKind, Service: r.Service, Origin: r.Origin, Path: []string{"Redirect"}}
			t = next
			continue
		}
		if t.Subset != "" || r.DefaultSubset == "" {
			break
		}
		by = &Mistake{Kind: ResolverKind, Service: r.Service, Origin: r.Origin, Path: []string{"DefaultSubset"}}
		t = w.elsewhere(t, "", r.DefaultSubset, "", "")
	}
	n, err = w.resolution(t, r, by)
	return n, false, r, err
}

// resolution is the node of a target that nothing redirects, without its failover.
func (w *compiler) resolution(t *Target, r *Resolver, by *Mistake) (*Node, error) {
	n := &Node{Type: ResolverNode, Name: t.ID, Resolver: &Resolution{Default: true, ConnectTimeout: defaultConnectTimeout, Target: t.ID}}
	if r != nil {
		if r.ConnectTimeout > 0 {
			n.Resolver.ConnectTimeout = r.ConnectTimeout
		}
		n.Resolver.RequestTimeout, n.Resolver.Default, n.LoadBalancer = r.RequestTimeout, r.empty(), r.LoadBalancer
	}
	if t.Subset != "" {
		var s Subset
		ok := false
		if r != nil {
			s, ok = r.Subsets[t.Subset]
		}
		if !ok {
			return &Node{}, by.say("service %q does not have a subset named %q", t.Service.Service, t.Subset)
		}
		t.Filter, t.OnlyPassing = s.Filter, s.OnlyPassing
	}
	if o := w.overrides.ConnectTimeout; o > 0 && o != n.Resolver.ConnectTimeout {
		n.Resolver.ConnectTimeout = o
		w.overridden.connectTimeout = true
	}
	t.ConnectTimeout = n.Resolver.ConnectTimeout
	if err := w.external(t, r); err != nil {
		return &Node{}, err
	}
	w.retained[t.ID] = true
	return n, nil
}

// external sets what defaults say of the way to a target.
func (w *compiler) external(t *Target, r *Resolver) error {
	d := w.entries.Defaults[t.Service.Fold()]
	if d != nil && d.ExternalSNI != "" {
		t.SNI, t.External = d.ExternalSNI, true
		by := Mistake{Kind: ResolverKind, Service: t.Service}
		switch {
		case r == nil:
			return nil
		case r.Redirect != nil:
			by.Path = []string{"Redirect"}
		case len(r.Subsets) > 0:
			by.Path = []string{"Subsets"}
		case len(r.Failover) > 0:
			by.Path = []string{"Failover"}
		default:
			return nil
		}
		by.Origin = r.Origin
		what := map[string]string{"Redirect": "redirects", "Subsets": "subsets", "Failover": "failover"}[by.Path[0]]
		return by.say("service %q has an external SNI set; cannot define %s for external services", t.Service.Service, what)
	}
	if d != nil {
		t.GatewayMode = d.GatewayMode
	}
	if t.GatewayMode == "" {
		t.GatewayMode = w.entries.Proxy.GatewayMode
	}
	if o := w.overrides.GatewayMode; o != "" && o != t.GatewayMode {
		t.GatewayMode = o
		w.overridden.gatewayMode = true
	}
	return nil
}

// empty reports whether the entry says nothing.
func (r *Resolver) empty() bool {
	return r.DefaultSubset == "" && len(r.Subsets) == 0 && r.Redirect == nil && len(r.Failover) == 0 && r.ConnectTimeout == 0 && r.RequestTimeout == 0 &&
		r.LoadBalancer == nil
}

// failover resolves what answers when the target of a node cannot. Their own failover does not count.
func (w *compiler) failover(n *Node, r *Resolver) error {
	if r == nil {
		return nil
	}
	t := w.targets[n.Resolver.Target]
	name := t.Subset
	f, ok := r.Failover[name]
	if !ok {
		name = "*"
		if f, ok = r.Failover[name]; !ok {
			return nil
		}
	}
	var list []*Target
	switch {
	case len(f.Datacenters) > 0:
		for _, dc := range f.Datacenters {
			list = append(list, w.elsewhere(t, f.Service, f.Subset, dc, ""))
		}
	case len(f.Targets) > 0:
		for _, o := range f.Targets {
			list = append(list, w.elsewhere(t, o.Service, o.Subset, o.Datacenter, o.Peer))
		}
	default:
		list = []*Target{w.elsewhere(t, f.Service, f.Subset, "", "")}
	}
	by := &Mistake{Kind: ResolverKind, Service: r.Service, Origin: r.Origin, Path: []string{"Failover", name}}
	for _, o := range list {
		if o == t {
			continue
		}
		to, _, _, err := w.resolve(o, by)
		if err != nil {
			return err
		}
		n.Resolver.Failover = append(n.Resolver.Failover, to.Resolver.Target)
	}
	return nil
}
