package files

import (
	"strings"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
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

// String is the kind as Consul spells it.
func (k routingKind) String() string {
	return [...]string{"service-resolver", "service-router", "service-splitter"}[k]
}

func (k routingKind) aspect() aspects { return ofResolver << k }

// routingOf is the kind of which that is the aspect.
func routingOf(of aspects) routingKind {
	switch of {
	case ofRouter:
		return aRouter
	case ofSplitter:
		return aSplitter
	}
	return aResolver
}

// readRouting reads an entry of that kind.
func (d *definitions) readRouting(o *definition.Decoder, kind routingKind) {
	name, fields := o.Text("Name"), o.Written(routingShapes[kind])
	e := &routing{kind: kind, at: o.At}
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
	e.name, e.written = name.Value, write(kind.String(), name.Value, o.At.String(), pairs, fields)
	d.routing = e
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

// addRouting takes e, and reports if there is another one already.
func (a *assembly) addRouting(e *routing) {
	n := a.name(e.name)
	if other := n.routing[e.kind]; other != nil {
		a.twice(title{e.kind.aspect(), e.name}, e.at, other.at)
		return
	}
	n.routing[e.kind] = e
}

// removeRouting takes back what addRouting did.
func (a *assembly) removeRouting(e *routing) {
	a.name(e.name).routing[e.kind] = nil
}
