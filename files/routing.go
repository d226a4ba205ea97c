package files

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// routing is one of the entries that say which instances answer those who dial a service.
type routing struct {
	kind routingKind
	name string
	at   definition.Position
	// The one of its kind; the others are nil.
	resolver *chain.Resolver
	router   *chain.Router
	splitter *chain.Splitter
	written  written
	// wrong says that a mistake was reported of it.
	wrong bool
	// filters are those of a resolver's subsets; nil: all instances are in it.
	filters map[string]*chain.Filter
	// place is where what a path of keys leads to was written.
	place func(path []string) definition.Position
}

// routingKind is the kind of a routing.
type routingKind uint8

// The kinds, in the order of their names.
const (
	aResolver routingKind = iota
	aRouter
	aSplitter

	routingKinds = 3
)

// of is the kind as chains call it.
func (k routingKind) of() chain.Kind {
	return [...]chain.Kind{chain.ResolverKind, chain.RouterKind, chain.SplitterKind}[k]
}

// String is the kind as Consul spells it.
func (k routingKind) String() string { return string(k.of()) }

func (k routingKind) aspect() aspects { return ofResolver << k }

// routingOf is the kind of which that is the aspect.
func routingOf(of aspects) routingKind {
	for k := range routingKind(routingKinds) {
		if k.aspect() == of {
			return k
		}
	}
	return aResolver
}

// readRouting reads an entry of that kind.
func (d *definitions) readRouting(o *definition.Decoder, kind routingKind) {
	before := len(d.problems)
	name, fields := o.Text("Name"), o.Written(routingShapes[kind])
	e := &routing{kind: kind, at: o.At, place: o.Place}
	pairs := entryCommon(o)
	switch kind {
	case aResolver:
		e.resolver = o.Resolver(d.config.Datacenter)
	case aRouter:
		e.router = o.Router()
		upperMethods(fields)
	case aSplitter:
		e.splitter = o.Splitter()
	}
	if !o.Require("Name", name) || !o.Name("Name", name) {
		return
	}
	service := identity.NewName(name.Value)
	switch kind {
	case aResolver:
		e.resolver.Service, e.resolver.Meta = service, pairs
	case aRouter:
		e.router.Service, e.router.Meta = service, pairs
	case aSplitter:
		e.splitter.Service, e.splitter.Meta = service, pairs
	}
	if len(d.problems) == before { // else it may have been read otherwise than it was meant
		e.check(o)
	}
	e.wrong = len(d.problems) > before
	e.name, e.written = name.Value, write(kind.String(), name.Value, o.At.String(), pairs, fields)
	d.routing = e
}

// check reports what is wrong with e, whatever other entries say: what Consul refuses, and what Envoy does.
func (e *routing) check(o *definition.Decoder) {
	var wrong, unservable []*chain.Mistake
	switch e.kind {
	case aResolver:
		wrong, unservable = e.resolver.Check(), e.resolver.Unservable()
	case aRouter:
		wrong, unservable = e.router.Check(), e.router.Unservable()
	case aSplitter:
		wrong, unservable = e.splitter.Check(), e.splitter.Unservable()
	}
	known := map[string]bool{}
	for _, m := range wrong {
		known[m.Place()] = true
	}
	for _, m := range unservable {
		if !known[m.Place()] { // else it is the same in other words
			wrong = append(wrong, m)
		}
	}
	for _, m := range wrong {
		o.Mistake(e.place(m.Path), "%s", m.Message)
	}
	if e.kind != aResolver {
		return
	}
	e.filters = make(map[string]*chain.Filter, len(e.resolver.Subsets))
	for name, s := range e.resolver.Subsets {
		e.filters[name], _ = chain.ParseFilter(s.Filter) // an error is among the mistakes
	}
}

// upperMethods has the methods of a router's fields as Consul keeps them.
func upperMethods(router map[string]any) {
	in := func(of any, key string) any {
		m, _ := of.(map[string]any)
		return m[key]
	}
	routes, _ := router["Routes"].([]any)
	for _, r := range routes {
		methods, _ := in(in(in(r, "Match"), "HTTP"), "Methods").([]any)
		for i, m := range methods {
			if s, ok := m.(string); ok {
				methods[i] = strings.ToUpper(s)
			}
		}
	}
}

// title is what only one of these entries can have: letter case does not count in the names of services that chains are looked up by.
func (e *routing) title() title {
	return title{e.kind.aspect(), identity.NewName(e.name).Fold().Service}
}

// addRouting takes e, and reports if there is another one already.
func (a *assembly) addRouting(e *routing) {
	if other := a.routing[e.title()]; other != nil {
		a.twice(title{e.kind.aspect(), e.name}, e.at, other.at)
		return
	}
	a.routing[e.title()], a.chains.stale = e, true
}

// removeRouting takes back what addRouting did.
func (a *assembly) removeRouting(e *routing) {
	delete(a.routing, e.title())
	a.chains.stale = true
}

// routings are all of these entries, sorted by kind and name.
func (a *assembly) routings() []*routing {
	return slices.SortedFunc(maps.Values(a.routing), func(a, b *routing) int { return cmp.Or(cmp.Compare(a.kind, b.kind), strings.Compare(a.name, b.name)) })
}
