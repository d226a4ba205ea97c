package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// resolver is a resolver node of an upstream's chain: it is served by one cluster, whose levels are its targets.
type resolver struct {
	node    string // its key in the chain
	cluster string
	plain   string // the cluster's name but for its settings
	// targets are those that answer, each when those before it cannot, without those that cannot be reached.
	targets        []target
	balancer       *chain.LoadBalancer
	failover       bool
	connectTimeout time.Duration
}

// target is one of a chain with the identity that it has to have.
type target struct {
	key string // its ID, by which the chain has it
	id  identity.Service
	sni string
}

// resolvers are the nodes of u's chain that need a cluster, sorted by key. A tcp service has one, at the chain's start: its cluster has the
// name of the service's own instances wherever the chain leads, so that redirects and failover are nothing to the listener.
func (b *builder) resolvers(u upstream) []resolver {
	c := u.Chain
	keys := slices.Sorted(maps.Keys(c.Nodes))
	if !u.Service.Protocol.L7() {
		keys = []string{c.Start}
	}
	var out []resolver
	said := map[string]bool{}
	for _, key := range keys {
		n := c.Nodes[key]
		if n == nil || n.Type != chain.ResolverNode || n.Resolver == nil {
			if !u.Service.Protocol.L7() {
				b.warn("upstream %s (%s) is not reached: its chain begins with %q, where tcp has no requests to route", u.Name(), u.Origin, key)
				out = append(out, resolver{node: key, plain: u.plainCluster()})
			}
			continue
		}
		r := resolver{
			node: key, plain: u.plainCluster(), balancer: n.LoadBalancer, failover: len(n.Resolver.Failover) > 0,
			connectTimeout: cmp.Or(u.ConnectTimeout, max(n.Resolver.ConnectTimeout, 0), connectTimeout),
		}
		for i, id := range append([]string{n.Resolver.Target}, n.Resolver.Failover...) {
			t, err := b.target(id, c.Targets[id])
			if i == 0 && u.Service.Protocol.L7() {
				r.plain = strings.ToValidUTF8(cmp.Or(t.sni, id, key), "?")
			}
			switch {
			case err == nil && !slices.ContainsFunc(r.targets, func(o target) bool { return o.key == id }):
				r.targets = append(r.targets, t)
			case err != nil && !said[id]:
				said[id] = true
				b.warn("upstream %s (%s): %s is not reached: %v", u.Name(), u.Origin, id, err)
			}
		}
		out = append(out, r)
	}
	return out
}

// target is t with what is to be known of it. An error says why it cannot be reached.
func (b *builder) target(key string, t *chain.Target) (target, error) {
	switch {
	case t == nil:
		return target{}, errors.New("its chain does not say what it is")
	case t.Peer != "":
		return target{}, fmt.Errorf("it is of the peer %q, and other clusters are not supported yet", t.Peer)
	}
	out := target{key: key, id: identity.Service{TrustDomain: b.in.Mesh.TrustDomain, Datacenter: t.Datacenter, Name: t.Service}}
	out.sni = out.id.SNI()
	if t.Subset != "" {
		out.sni = t.Subset + "." + out.sni
	}
	switch elsewhere := t.Datacenter != b.in.Mesh.Datacenter; {
	case !utf8.ValidString(key + t.Subset):
		return target{}, errors.New("its name is no text in UTF-8")
	case out.id.ID().IsZero():
		return out, fmt.Errorf("it cannot be an identity of %s in %q: names are made of letters, digits, '.', '-' and '_'", out.id.TrustDomain, t.Datacenter)
	case t.External:
		return out, fmt.Errorf("it is dialled as %q (ExternalSNI), which takes a terminating gateway: they are not supported yet", t.SNI)
	case elsewhere && t.GatewayMode != "" && t.GatewayMode != "none":
		return out, fmt.Errorf("it is behind mesh gateways (mode %q), which are not supported yet", t.GatewayMode)
	}
	return out, nil
}

// settings are what r's cluster depends on beside the node.
func (r resolver) settings(u catalog.Upstream) settings {
	s := settingsOf(u)
	s.ConnectTimeout = r.connectTimeout
	return s
}

// text is the node, as far as its cluster depends on it.
func (r resolver) text() string {
	keys := make([]string, len(r.targets))
	for i, t := range r.targets {
		keys[i] = t.key
	}
	text := fmt.Sprintf("%s %t %q", r.node, r.failover, keys)
	if lb := r.balancer; lb != nil {
		text += " " + lb.Policy
		if lb.RingHash != nil {
			text += fmt.Sprintf(" %+v", *lb.RingHash)
		}
		if lb.LeastRequest != nil {
			text += fmt.Sprintf(" %+v", *lb.LeastRequest)
		}
	}
	return text
}

// levels are the endpoints of r's targets in c, each address once.
func (r resolver) levels(c *catalog.Chain) []level {
	levels := make([]level, len(r.targets))
	for i, t := range r.targets {
		levels[i] = level{t.key, c.Endpoints[t.key].List}
	}
	return distinct(levels)
}

// needsDNS reports whether one of r's endpoints has a name that Envoy has to resolve.
func (r resolver) needsDNS(c *catalog.Chain) bool {
	return slices.ContainsFunc(r.targets, func(t target) bool { return needsDNS(c.Endpoints[t.key]) })
}

// sameEndpoints reports whether those of r's targets are the same in both.
func (r resolver) sameEndpoints(c, o *catalog.Chain) bool {
	return !slices.ContainsFunc(r.targets, func(t target) bool { return c.Endpoints[t.key] != o.Endpoints[t.key] })
}

// resolverCluster is the name of the cluster of a node of u's chain; empty: it has none.
func (u upstream) resolverCluster(node string) string {
	for _, r := range u.resolvers {
		if r.node == node {
			return r.cluster
		}
	}
	return ""
}

// form is all that a cluster depends on but for its endpoints.
type form struct {
	settings
	node string // empty: it has the service's own instances
}

// nameClusters names the clusters of all upstreams, which are in the order of their listeners: each name is of the first one that has it, and
// those of others get a hash before it. Those of what listeners of tcp name come first, and those of services without a chain: what only
// routes name takes no name from them.
func nameClusters(all []upstream) {
	taken := map[string]form{}
	name := func(plain string, f form) string {
		take := func(name string) bool {
			other, ok := taken[name]
			if !ok {
				taken[name] = f
			}
			return !ok || other == f
		}
		hashed := func(more string) string { return hash(append(f.text(), more...))[:8] + "~" + plain }
		if take(plain) {
			return plain
		}
		if f.node != "" { // of such there may be several in a chain, with the same settings
			for _, more := range []string{"", "chain"} {
				if name := hashed(more); take(name) {
					return name
				}
			}
		}
		name := hashed(f.node)
		take(name)
		return name
	}
	for i, u := range all {
		switch {
		case u.Chain == nil:
			all[i].cluster = name(u.plainCluster(), form{settings: settingsOf(u.Upstream)})
		case !u.Service.Protocol.L7():
			r := &u.resolvers[0]
			r.cluster = name(r.plain, form{r.settings(u.Upstream), r.text()})
			all[i].cluster = r.cluster
		}
	}
	for _, u := range all {
		if u.Chain == nil || !u.Service.Protocol.L7() {
			continue
		}
		for i := range u.resolvers {
			r := &u.resolvers[i]
			r.cluster = name(r.plain, form{r.settings(u.Upstream), r.text()})
		}
	}
}
