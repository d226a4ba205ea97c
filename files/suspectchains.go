package files

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// suspectChains warns of what in the entries that chains are made of leads to nobody, or does not do what it looks like.
func (a *assembly) suspectChains() {
	for _, e := range a.routings() {
		a.suspectUndefined(e)
		switch e.kind {
		case aRouter:
			a.suspectRouter(e)
		case aSplitter:
			a.suspectSplitter(e)
		case aResolver:
			a.suspectResolver(e)
		}
	}
}

// suspectUndefined warns of an entry of a service that nobody registers, if it leads there.
func (a *assembly) suspectUndefined(e *routing) {
	services, undefined := a.defined()
	c := a.compileChain(e.name)
	if c == nil || services[identity.NewName(e.name).Fold().Service] != nil {
		return
	}
	for _, t := range c.Targets {
		if t.Service == c.Service {
			a.warning(e.at, "%s of %s: %s", e.kind, e.name, undefined(e.name))
			return
		}
	}
}

func (a *assembly) suspectRouter(e *routing) {
	for i, r := range e.router.Routes {
		path := []string{"Routes", strconv.Itoa(i)}
		if d := r.Destination; d != nil && (d.Service != "" || d.Subset != "") {
			a.suspectLeg(e, "the route", d.Service, d.Subset, append(path, "Destination"))
		}
		if i < len(e.router.Routes)-1 && matchesAll(r.Match) {
			a.warning(e.place(path), "this route matches every request, so none of those below it ever does")
			return
		}
	}
}

// matchesAll reports whether every request meets m.
func matchesAll(m *chain.HTTPMatch) bool {
	return m == nil || m.PathExact == "" && m.PathRegex == "" && (m.PathPrefix == "" || m.PathPrefix == "/") && len(m.Header)+len(m.QueryParam)+len(m.Methods) == 0
}

func (a *assembly) suspectSplitter(e *routing) {
	for i, s := range e.splitter.Splits {
		path := []string{"Splits", strconv.Itoa(i)}
		if s.Weight > 0 && s.Weight < 0.005 {
			a.warning(e.place(append(path, "Weight")), "a Weight of %g comes to none: weights are rounded to 0.01", s.Weight)
		}
		if s.Weight > 0 {
			a.suspectLeg(e, "the split", s.Service, s.Subset, path)
		}
	}
}

// suspectLeg warns of something in e that leads to nobody.
func (a *assembly) suspectLeg(e *routing, what, service, subset string, path []string) {
	if service == "" {
		service = e.name
	}
	if subset == "" && service != e.name && a.routing[title{ofSplitter, identity.NewName(service).Fold().Service}] != nil {
		return // whose own splits are looked at
	}
	if to, known := a.answers(service, subset); !known {
		a.warning(e.place(path), "%s leads to %s, which has no instance that can be dialled", what, to)
	}
}

// answers reports whether a service, or a subset of it, has instances after redirects and the default subset, and what it then comes to.
func (a *assembly) answers(service, subset string) (to string, some bool) {
	for range len(a.routing) + 1 { // no longer way is without a circle
		r := a.routing[title{ofResolver, identity.NewName(service).Fold().Service}]
		if r == nil {
			break
		}
		d := r.resolver.Redirect
		if d == nil {
			if subset == "" {
				subset = r.resolver.DefaultSubset
			}
			break
		}
		if d.Service != "" && d.Service != service {
			service, subset = d.Service, ""
		}
		if d.Subset != "" {
			subset = d.Subset
		}
		if d.Service == "" || d.Service == r.name {
			break
		}
	}
	n := a.names[service]
	if subset == "" {
		return service, n != nil && n.endpoints != nil && len(n.endpoints.List) > 0
	}
	return fmt.Sprintf("the subset %s of %s", subset, service), n != nil && n.subsets[subset] != nil && len(n.subsets[subset].List) > 0
}

func (a *assembly) suspectResolver(e *routing) {
	r := e.resolver
	if r.Redirect != nil {
		a.suspectRedirect(e)
	}
	for _, n := range a.sorted {
		if n.resolver != e || n.endpoints == nil || len(n.endpoints.List) == 0 {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(r.Subsets)) {
			if s := n.subsets[name]; r.Subsets[name].Filter != "" && s != nil && len(s.List) == 0 {
				a.warning(e.place([]string{"Subsets", name, "Filter"}), "the filter of subset %s matches none of the %d instances of %s", name, len(n.endpoints.List), n.name)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.Failover)) {
		f, path := r.Failover[key], []string{"Failover", key}
		targets := f.Targets
		if len(targets) == 0 {
			targets = []chain.FailoverTarget{{Service: f.Service, Subset: f.Subset}}
		}
		for i, t := range targets {
			if len(f.Targets) > 0 {
				path = []string{"Failover", key, "Targets", strconv.Itoa(i)}
			}
			if t.Service != "" || t.Subset != "" {
				a.suspectLeg(e, "the failover", t.Service, t.Subset, path)
			}
		}
	}
	a.suspectBalancer(e)
}

// suspectRedirect warns of what a resolver says beside a redirect, and of one that leads to nobody.
func (a *assembly) suspectRedirect(e *routing) {
	r := e.resolver
	if r.DefaultSubset != "" || len(r.Subsets) > 0 || r.ConnectTimeout != 0 || r.RequestTimeout != 0 || r.LoadBalancer != nil {
		if r.Redirect.Service != "" && r.Redirect.Service != e.name {
			a.warning(e.place([]string{"Redirect"}), "beside this Redirect nothing else of the resolver counts: timeouts, the balancer and subsets are those of %s", r.Redirect.Service)
		}
	}
	if to, some := a.answers(e.name, ""); !some {
		a.warning(e.place([]string{"Redirect"}), "the redirect leads to %s, which has no instance that can be dialled", to)
	}
}

// suspectBalancer warns of a balancer by which nobody comes back to the instance that he had, though it looks so.
func (a *assembly) suspectBalancer(e *routing) {
	l, path := e.resolver.LoadBalancer, []string{"LoadBalancer"}
	if l == nil {
		return
	}
	if c := a.compileChain(e.name); c != nil && c.Protocol == "tcp" && len(l.HashPolicies) > 0 {
		a.warning(e.place(append(path, "HashPolicies")), "HashPolicies have no meaning for %s, which is tcp: there is nothing in it that could be hashed", e.name)
		return
	}
	if (l.Policy == "ring_hash" || l.Policy == "maglev") && len(l.HashPolicies) == 0 {
		a.warning(e.place(append(path, "Policy")), "%s without HashPolicies hashes nothing: instances are chosen at random", l.Policy)
	}
	for i, h := range l.HashPolicies {
		at := e.place(append(path, "HashPolicies", strconv.Itoa(i)))
		switch {
		case h.SourceIP:
			a.warning(at, "SourceIP hashes the address of the application behind the sidecar that dials: all that it asks goes to one instance")
		case h.Field == "cookie" && (h.Cookie == nil || h.Cookie.TTL == 0 && !h.Cookie.Session):
			a.warning(at, "a cookie %s without CookieConfig { TTL } or { Session } is set by nobody but the application: until it does, instances are chosen at random", h.FieldValue)
		}
	}
}
