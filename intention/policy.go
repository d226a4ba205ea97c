package intention

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
)

// Policy is the compiled intentions of one destination: a rule for each source that an intention
// names exactly, and one rule for the rest. The intentions about all destinations are a layer
// below, which the policies of a namespace share. A Policy is immutable. The nil Policy denies
// everybody, in all of its methods but Destination, which must not be called on it.
type Policy struct {
	destination identity.Name
	shared      *Shared
	own         rules
	// only limits the allowed sources further; see Within. Nil: it does not.
	only *Set
	// serverFirst: no source of another trust domain is allowed; see ServerFirst.
	serverFirst bool
	// revoked are the revocations of what is allowed otherwise; see Revoking. Nil: there are none.
	revoked *Revoked
}

// Shared is the intentions about all destinations of a namespace, compiled once for all their
// policies. It is immutable.
type Shared struct {
	scope Scope
	rules
	names []string // of exact, sorted
	base  *Base
}

// rules are the compiled intentions about one destination, or about all of them.
type rules struct {
	// exact is keyed by the source's service: partition and namespace are the destination's.
	exact map[string]*Intention
	rest  *Intention // that of the source "*"; nil: there is none
	// foreign are those about identities of other trust domains, of one destination alone.
	foreign map[identity.ID]*Intention
}

func newRules(destination identity.Name, all []Intention) rules {
	var r rules
	var about []Intention
	for _, i := range all {
		if i.Destination == destination {
			about = append(about, i)
		}
	}
	slices.SortFunc(about, Compare)
	for n := range about { // of two for one source, the denying one comes first and is kept
		i := &about[n]
		switch {
		case i.Source.ID != "":
			r.putForeign(i)
		case i.Source.Peer != "" || !sameSpace(i.Source.Name, destination):
			// The source is never a local identity, or is in a namespace that Decide refuses
			// anyway.
		case i.Source.IsWildcard():
			if r.rest == nil {
				r.rest = i
			}
		case r.exact[i.Source.Service] == nil:
			if r.exact == nil {
				r.exact = map[string]*Intention{}
			}
			r.exact[i.Source.Service] = i
		}
	}
	return r
}

// find is the intention about a source; nil: there is none.
func (r *rules) find(service string) *Intention {
	if i := r.exact[service]; i != nil {
		return i
	}
	return r.rest
}

// Share compiles the intentions about all destinations in the partition and namespace of in. all
// may be in any order and hold other intentions, which are ignored.
func Share(in identity.Name, all []Intention, scope Scope) *Shared {
	return ShareEntries(in, scope, all)
}

// ShareEntries is Share for intentions of several entries: of those about all destinations only
// what every entry allows is allowed that has any.
func ShareEntries(in identity.Name, scope Scope, entries ...[]Intention) *Shared {
	s := &Shared{scope: scope}
	bare, given := &Shared{scope: scope}, false
	for _, e := range entries {
		if !slices.ContainsFunc(e, func(i Intention) bool { return i.Destination == wildcard(in) }) {
			continue
		}
		r := newRules(wildcard(in), e)
		if given {
			r = bare.both(&s.rules, &r)
		}
		s.rules, given = r, true
	}
	s.scope.Datacenters = slices.Clone(scope.Datacenters)
	slices.Sort(s.scope.Datacenters)
	s.base = s.newBase(s.effect(s.rest) == Allow)
	s.names = slices.Sorted(maps.Keys(s.exact))
	for _, service := range s.names {
		if (s.exact[service].Effect() == Allow) != s.base.Rest {
			s.base.Except = append(s.base.Except, service)
		}
	}
	return s
}

func (s *Shared) newBase(rest bool) *Base {
	return &Base{TrustDomain: s.scope.TrustDomain.Name(), Datacenters: s.scope.Datacenters, Rest: rest}
}

// Policy makes the policy of a destination in s's namespace, which must not be the wildcard. own
// are the intentions about it, in any order; those about other destinations are ignored. Letter
// case does not count in a destination (identity.Name.Fold): if own spell it in several ways, those
// of each spelling are an entry, and the policy allows only what all of them do.
func (s *Shared) Policy(destination identity.Name, own []Intention) *Policy {
	return s.PolicyEntries(destination, own)
}

// PolicyEntries is Policy for intentions of several entries: the policy allows only what every one
// allows that is about the destination.
func (s *Shared) PolicyEntries(destination identity.Name, entries ...[]Intention) *Policy {
	p := &Policy{destination: destination, shared: s}
	for n, r := range entriesOf(destination, entries) {
		if n > 0 {
			r = s.both(&p.own, &r)
		}
		p.own = r
	}
	return p
}

// entriesOf compiles the entries that are about a destination, each spelling as an entry of its own.
func entriesOf(destination identity.Name, entries [][]Intention) (all []rules) {
	for _, e := range entries {
		var spellings []identity.Name
		for i := range e {
			d := e[i].Destination
			if !slices.Contains(spellings, d) && (d == destination || d.Fold() == destination.Fold()) {
				spellings = append(spellings, d)
			}
		}
		slices.SortFunc(spellings, compareNames)
		for _, spelling := range spellings {
			all = append(all, newRules(spelling, e))
		}
	}
	return all
}

// both are the rules above s that allow what a and b allow, each of them above s.
func (s *Shared) both(a, b *rules) rules {
	var r rules
	switch {
	case a.rest != nil && a.rest.Effect() == Deny:
		r.rest = a.rest
	case b.rest != nil && (a.rest != nil || b.rest.Effect() == Deny):
		r.rest = b.rest
	}
	for _, service := range merge(slices.Collect(maps.Keys(a.exact)), slices.Collect(maps.Keys(b.exact))) {
		i, j := cmp.Or(a.find(service), s.find(service)), cmp.Or(b.find(service), s.find(service))
		switch {
		case s.effect(i) == Deny:
		case s.effect(j) == Deny:
			i = j
		default:
			i = cmp.Or(i, j)
		}
		// Who is denied by default is left to rest, which allows only if both have one.
		if i != nil {
			if r.exact == nil {
				r.exact = map[string]*Intention{}
			}
			r.exact[service] = i
		}
	}
	r.foreign = bothForeign(a.foreign, b.foreign)
	return r
}

// effect is that of i, or the default if there is none.
func (s *Shared) effect(i *Intention) Action {
	if i == nil {
		return s.scope.Default
	}
	return i.Effect()
}

func wildcard(in identity.Name) identity.Name {
	in.Service = identity.Wildcard
	return in
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
	// ForeignTrustDomain: the source's trust domain is not the mesh's, and no intention names it by its
	// SPIFFE ID.
	ForeignTrustDomain
	// UnknownDatacenter: the source's datacenter is not one of the mesh's.
	UnknownDatacenter
	// ForeignNamespace: the source is of another partition or namespace than the destination.
	ForeignNamespace
	// UnknownTrustDomain: an intention allows a source of another trust domain, whose bundle is not known.
	UnknownTrustDomain
	// SpeaksFirst: an intention allows a source of another trust domain, and the application speaks
	// before its client; see ServerFirst.
	SpeaksFirst
	// NoService: the identity is of the mesh's trust domain, and no service's.
	NoService
	// ByRevocation: the source's identity, or its certificate, is revoked.
	ByRevocation
	// unrecorded: the source is allowed, but that is not recorded on disk yet; see Within.
	unrecorded
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
	case UnknownTrustDomain:
		return "no bundle of the source's trust domain"
	case SpeaksFirst:
		return "foreign source of an application that speaks first"
	case NoService:
		return "not the identity of a service"
	case ByRevocation:
		return "revoked"
	case unrecorded:
		return "not recorded yet"
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
	// Revocation is the one that denies what is allowed otherwise; nil unless Reason is ByRevocation.
	Revocation *Revocation
}

// Allowed reports whether the source may connect.
func (d Decision) Allowed() bool { return d.Action == Allow }

// Decide says whether the source may connect to p's destination. It is two look-ups whatever the
// number of intentions, and does not allocate for a source of the mesh. Of those only identities of a known
// datacenter and of the destination's own partition and namespace are ever allowed; those of another
// trust domain as DecideID says. None is that is revoked.
func (p *Policy) Decide(source identity.Service) Decision {
	if p == nil {
		return Decision{}
	}
	if td := p.shared.scope.TrustDomain; source.TrustDomain != td || td.IsZero() {
		return p.decideForeign(identity.ID(source.String()))
	}
	d := p.intended(source)
	if d.Action == Allow {
		if r := p.revoked.Identity(source); r != nil {
			return Decision{Reason: ByRevocation, Revocation: r}
		}
		if p.only != nil && !p.only.includes(source) {
			return Decision{Reason: unrecorded}
		}
	}
	return d
}

// intended is what the intentions say of a source of the mesh's trust domain, whatever is revoked or not recorded.
func (p *Policy) intended(source identity.Service) Decision {
	scope := &p.shared.scope
	if !slices.Contains(scope.Datacenters, source.Datacenter) {
		return Decision{Reason: UnknownDatacenter}
	}
	if !sameSpace(source.Name, p.destination) || source.Service == "" || source.IsWildcard() {
		return Decision{Reason: ForeignNamespace}
	}
	return p.rule(source.Service)
}

// rule is the decision about a source. An exact destination takes precedence over an exact source.
func (p *Policy) rule(service string) Decision {
	i := p.own.find(service)
	if i == nil {
		i = p.shared.find(service)
	}
	if i == nil {
		return Decision{Action: p.shared.scope.Default, Reason: ByDefault}
	}
	return Decision{Action: i.Effect(), Reason: ByIntention, Intention: i}
}

// Within is p with every source denied that is not in set. It stands for p until the sources that p
// allows are recorded. A nil p stays nil.
func (p *Policy) Within(set Set) *Policy {
	if p == nil {
		return nil
	}
	q := *p
	q.only = &set
	return &q
}

// Destination is the service that p protects. p must not be nil.
func (p *Policy) Destination() identity.Name { return p.destination }

// Scope is what p was compiled with, within the limit of Within; the zero Scope, which denies
// everybody, for a nil p. Its Datacenters are sorted and must not be changed.
func (p *Policy) Scope() Scope {
	if p == nil {
		return Scope{}
	}
	s := p.shared.scope
	if p.only != nil {
		if p.only.empty() || p.only.TrustDomain != s.TrustDomain.Name() {
			return Scope{}
		}
		s.Datacenters = filter(s.Datacenters, func(dc string) bool { return contains(p.only.Datacenters, dc) })
	}
	return s
}

// Exact yields the sources that have a rule of their own and its action, sorted by name. A nil p
// yields none.
func (p *Policy) Exact() iter.Seq2[identity.Name, Action] {
	return func(yield func(identity.Name, Action) bool) {
		for _, service := range p.named() {
			name := p.destination
			name.Service = service
			action := p.rule(service).Action
			if p.only != nil && !p.only.has(service) {
				action = Deny
			}
			if !yield(name, action) {
				return
			}
		}
	}
}

// named are the sources that Exact yields.
func (p *Policy) named() []string {
	if p == nil {
		return nil
	}
	names := slices.Collect(maps.Keys(p.own.exact))
	if p.own.rest == nil {
		names = append(names, p.shared.names...)
	}
	if p.only != nil {
		names = slices.DeleteFunc(slices.Concat(names, p.only.named()), isID)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Rest is the action for all sources that Exact does not yield; Deny for a nil p.
func (p *Policy) Rest() Action {
	if p == nil || p.only != nil && !p.only.rest() {
		return Deny
	}
	return p.shared.effect(cmp.Or(p.own.rest, p.shared.rest))
}

// Shared is the layer below p; nil for a nil p. bare: p has no rules of its own, and nothing that concerns it is revoked. Bare policies of
// one namespace with equal Shared have the same Scope, Exact and Rest.
func (p *Policy) Shared() (s *Shared, bare bool) {
	if p == nil {
		return nil, false
	}
	return p.shared, p.only == nil && p.revoked == nil && len(p.own.exact) == 0 && p.own.rest == nil && len(p.own.foreign) == 0
}

// Exact yields the services that have a rule about all destinations and its action, sorted by name.
func (s *Shared) Exact() iter.Seq2[string, Action] {
	return func(yield func(string, Action) bool) {
		for _, service := range s.names {
			if !yield(service, s.exact[service].Effect()) {
				return
			}
		}
	}
}

// Allowed is the set of identities that p allows, without the limit of Within. That of a nil policy
// is empty. Those of another trust domain are in it whether its bundle is known or not: that it goes
// takes nothing from the connections that there are.
func (p *Policy) Allowed() Set {
	if p == nil || p.shared.scope.TrustDomain.IsZero() {
		return Set{}
	}
	s := Set{Base: p.shared.base}
	if p.revoked != nil {
		s.Revoked = p.revoked.keys
	}
	if p.own.rest != nil {
		s.Base = p.shared.newBase(p.own.rest.Effect() == Allow)
	}
	for service, i := range p.own.exact {
		s.put(service, i.Effect() == Allow)
	}
	for id, i := range p.own.foreign {
		s.put(string(id), i.Effect() == Allow)
	}
	s.sort()
	return s
}
