package files

import (
	"errors"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// chains are how those who dial services find the instances that answer them.
type chains struct {
	// stale says that entries which chains depend on are others than those that they were compiled of.
	stale   bool
	entries *chain.Entries
	// compiled are those of services that have entries, by the services' names as they are spelled there and by those who dial them.
	compiled map[string]*chain.Chain
}

// chainEntries are all entries that chains depend on.
func (a *assembly) chainEntries() *chain.Entries {
	e := &chain.Entries{
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
		Defaults: map[identity.Name]*chain.Defaults{}, Datacenter: a.config.Datacenter, TrustDomain: a.config.TrustDomain.Name(),
	}
	for _, r := range a.routing {
		name := identity.NewName(r.name).Fold()
		switch r.kind {
		case aResolver:
			e.Resolvers[name] = r.resolver
		case aRouter:
			e.Routers[name] = r.router
		case aSplitter:
			e.Splitters[name] = r.splitter
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.names)) {
		n := a.names[name]
		folded := identity.NewName(n.name).Fold()
		if d := n.defaults; d != nil && (folded.Service == n.name || e.Defaults[folded] == nil) {
			protocol, _ := a.protocolOf(n)
			e.Defaults[folded] = &chain.Defaults{Protocol: protocol.String(), Origin: d.at.String()}
		}
	}
	if d := a.proxyDefaults; d != nil && d.settings.Protocol.Set {
		e.Proxy = chain.Defaults{Protocol: d.settings.Protocol.Value.String(), Origin: d.at.String()}
	}
	return e
}

// compileChains compiles the chains of the services that have an entry, if any entry is another, and reports what is wrong with those.
func (a *assembly) compileChains() {
	c := &a.chains
	if !c.stale && c.entries != nil {
		return
	}
	c.stale, c.entries = false, a.chainEntries()
	for _, n := range a.names {
		if r := a.routing[title{ofResolver, identity.NewName(n.name).Fold().Service}]; r != n.resolver {
			n.resolver, n.endpoints = r, nil
		}
	}
	c.compiled = map[string]*chain.Chain{}
	for _, e := range a.routings() {
		a.compileChain(e.name)
	}
}

// compileChain is the chain of a service; nil: no entry says anything of the service, or what they say is wrong.
func (a *assembly) compileChain(service string) *chain.Chain {
	name := identity.NewName(service)
	if c, ok := a.chains.compiled[service]; ok || a.chains.entries == nil || a.chains.entries.Bare(name) {
		return c
	}
	c, uses, err := chain.Compile(a.chains.entries, name, chain.Overrides{})
	if m, ok := errors.AsType[*chain.Mistake](err); ok && !a.anyWrong(uses) {
		a.mistaken(m)
	}
	a.chains.compiled[service] = c
	return c
}

// anyWrong reports whether a mistake is known of an entry of one of these services, whose names are folded: others may follow from it.
func (a *assembly) anyWrong(services []identity.Name) bool {
	for _, s := range services {
		for kind := range routingKind(routingKinds) {
			if e := a.routing[title{kind.aspect(), s.Service}]; e != nil && e.wrong {
				return true
			}
		}
	}
	return false
}

// mistaken reports what is wrong with the entries that chains are made of.
func (a *assembly) mistaken(m *chain.Mistake) {
	e := a.routing[title{aspectOf(m.Kind), m.Service.Fold().Service}]
	if e == nil {
		a.problem(definition.ParsePosition(m.Origin), "%s", m.Message)
		return
	}
	a.problem(e.place(m.Path), "%s", m.Message)
}

// aspectOf is the aspect of an entry of that kind.
func aspectOf(k chain.Kind) aspects {
	for kind := range routingKind(routingKinds) {
		if kind.of() == k {
			return kind.aspect()
		}
	}
	return ofService
}

// dialledChains are the chains of those services that are dialled and have another than the one that leads to their own instances, sorted.
// It notes what they lead to.
func (a *assembly) dialledChains() (list []*chain.Chain) {
	if len(a.routing) == 0 {
		return nil
	}
	var dialled []string
	for _, n := range a.names {
		if n.dialled == a.turn {
			dialled = append(dialled, n.name)
		}
	}
	slices.Sort(dialled)
	for _, name := range dialled {
		c := a.compileChain(name)
		if c == nil || c.Default {
			continue
		}
		list = append(list, c)
		for _, t := range c.Targets {
			n := a.name(t.Service.Service)
			if len(t.SNI) > maxServerName && !n.tooLong {
				n.tooLong = true
				a.problem(a.routingAt(c.Service), "the chain of %s leads to a server name %.40q... of %d bytes, and TLS takes %d: shorten the names of the service or of the subset", name, t.SNI, len(t.SNI), maxServerName)
			}
			if n.led != a.turn {
				n.led, n.wanted = a.turn, map[string]bool{}
			}
			n.wanted[t.Subset] = true
		}
	}
	return list
}

// routingAt is where the first entry is that a service's chain is made of.
func (a *assembly) routingAt(service identity.Name) definition.Position {
	for _, kind := range []routingKind{aRouter, aSplitter, aResolver} {
		if e := a.routing[title{kind.aspect(), service.Fold().Service}]; e != nil {
			return e.at
		}
	}
	return definition.Position{}
}

// warnOfUnreached warns, at a place that dials n, if nothing answers there.
func (a *assembly) warnOfUnreached(n *name, at definition.Position) {
	c := a.compileChain(n.name)
	if c == nil || c.Default {
		if !a.reached(n) {
			a.warning(at, "upstream %s: no service of that name has a proxy here, or is native, so nothing answers", n.name)
		}
		return
	}
	for _, t := range c.Targets {
		if to := a.names[t.Service.Service]; to != nil && a.reached(to) {
			return
		}
	}
	a.warning(at, "upstream %s: its chain (%s) leads to no service that has a proxy here, or is native, so nothing answers", n.name, a.routingAt(c.Service))
}

// ledTo are the endpoints of those subsets of n that chains lead to, sorted.
func (a *assembly) ledTo(n *name) (list []*catalog.Endpoints) {
	if n.led != a.turn {
		return nil
	}
	for _, subset := range slices.Sorted(maps.Keys(n.wanted)) {
		if e := n.subsets[subset]; e != nil {
			list = append(list, e)
		}
	}
	return list
}
