package intention

import (
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
)

// Policy is what the intentions of one destination come to: a rule for each source that an intention names exactly, and one
// rule for the rest. It is immutable. The nil Policy denies everybody.
type Policy struct {
	destination identity.Name
	scope       Scope
	exact       map[string]*Intention // by the source's service: all sources are in the destination's partition and namespace
	rest        *Intention            // nil: the scope's default
}

// Compile makes the policy of a destination out of intentions in any order; those that are about other destinations are
// left out. The destination must not be the wildcard. The result depends on the set of intentions only, never on their order.
func Compile(destination identity.Name, all []Intention, scope Scope) *Policy {
	p := &Policy{destination: destination, scope: scope, exact: map[string]*Intention{}}
	p.scope.Datacenters = slices.Clone(scope.Datacenters)
	slices.Sort(p.scope.Datacenters)
	var about []Intention
	for _, i := range all {
		if i.Destination == destination || i.Destination.IsWildcard() && sameSpace(i.Destination, destination) {
			about = append(about, i)
		}
	}
	slices.SortFunc(about, Compare)
	for n := range about { // highest precedence first, so the first rule for a source stays
		i := &about[n]
		switch {
		case i.Source.Peer != "" || !sameSpace(i.Source.Name, destination):
			// Never a local identity, or one of a namespace that Decide refuses whatever is said of it.
		case p.rest != nil:
			// "*" to this destination was seen: what follows is less exact, also where it names its source
			// (Consul: the destination's exactness comes first).
		case i.Source.IsWildcard():
			p.rest = i
		case p.exact[i.Source.Service] == nil:
			p.exact[i.Source.Service] = i
		}
	}
	return p
}

func sameSpace(a, b identity.Name) bool {
	return a.Partition == b.Partition && a.Namespace == b.Namespace
}

// Reason is why a Decision came out as it did.
type Reason uint8

// The reasons. Only ByIntention and ByDefault can allow.
const (
	// NoPolicy: nothing is known of the destination.
	NoPolicy Reason = iota
	// ByIntention: Decision.Intention decided.
	ByIntention
	// ByDefault: no intention is about the source.
	ByDefault
	// ForeignTrustDomain: the source's trust domain is not the mesh's.
	ForeignTrustDomain
	// UnknownDatacenter: the source's datacenter is not one of the mesh's.
	UnknownDatacenter
	// ForeignNamespace: the source is of another partition or namespace than the destination.
	ForeignNamespace
)

// String is the reason in words.
func (r Reason) String() string {
	switch r {
	case ByIntention:
		return "intention"
	case ByDefault:
		return "default policy"
	case ForeignTrustDomain:
		return "foreign trust domain"
	case UnknownDatacenter:
		return "unknown datacenter"
	case ForeignNamespace:
		return "foreign namespace"
	case NoPolicy:
		return "unknown destination"
	}
	return "unknown reason"
}

// Decision is the answer for one source. The zero Decision denies.
type Decision struct {
	Action Action
	Reason Reason
	// Intention is the one that decided; nil unless Reason is ByIntention. It must not be changed.
	Intention *Intention
}

// Allowed reports whether the source may connect.
func (d Decision) Allowed() bool { return d.Action == Allow }

// Decide says whether the source may connect to p's destination. It is one look-up whatever the number of intentions, and
// does not allocate. Only identities of the trust domain, of a known datacenter and of the destination's own partition and
// namespace are ever allowed.
func (p *Policy) Decide(source identity.Service) Decision {
	if p == nil {
		return Decision{}
	}
	if source.TrustDomain != p.scope.TrustDomain || source.TrustDomain.IsZero() {
		return Decision{Reason: ForeignTrustDomain}
	}
	if !slices.Contains(p.scope.Datacenters, source.Datacenter) {
		return Decision{Reason: UnknownDatacenter}
	}
	if !sameSpace(source.Name, p.destination) || source.Service == "" || source.IsWildcard() {
		return Decision{Reason: ForeignNamespace}
	}
	i := p.exact[source.Service]
	if i == nil {
		i = p.rest
	}
	if i == nil {
		return Decision{Action: p.scope.Default, Reason: ByDefault}
	}
	return Decision{Action: i.effect(), Reason: ByIntention, Intention: i}
}

// Destination is the service that p protects; zero of a nil policy.
func (p *Policy) Destination() identity.Name { return p.orNone().destination }

// Scope is what p was compiled with; zero of a nil policy. Its Datacenters are sorted and must not be
// changed.
func (p *Policy) Scope() Scope { return p.orNone().scope }

// Exact yields the sources that have a rule of their own and what it says, sorted by name; none of a
// nil policy.
func (p *Policy) Exact() iter.Seq2[identity.Name, Action] {
	return func(yield func(identity.Name, Action) bool) {
		exact := p.orNone().exact
		for _, service := range slices.Sorted(maps.Keys(exact)) {
			i := exact[service]
			if !yield(i.Source.Name, i.effect()) {
				return
			}
		}
	}
}

// Rest is what is said of all sources that Exact does not name; a nil policy denies them.
func (p *Policy) Rest() Action {
	if p = p.orNone(); p.rest != nil {
		return p.rest.effect()
	}
	return p.scope.Default
}

// orNone is p, or a policy that denies everybody if p is nil.
func (p *Policy) orNone() *Policy {
	if p == nil {
		return &Policy{}
	}
	return p
}

// Allowed is the set of identities that p lets in. Of a nil policy it is empty.
func (p *Policy) Allowed() Set {
	if p == nil || p.scope.TrustDomain.IsZero() {
		return Set{}
	}
	s := Set{TrustDomain: p.scope.TrustDomain.Name(), Datacenters: p.scope.Datacenters, Rest: p.Rest() == Allow}
	for name, action := range p.Exact() {
		if (action == Allow) != s.Rest {
			s.Except = append(s.Except, name.Service)
		}
	}
	return s
}
