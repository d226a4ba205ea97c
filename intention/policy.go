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
	// connections: there are no requests; see ConnectionsOnly.
	connections bool
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
	case a.rest != nil && b.rest != nil:
		r.rest = narrower(a.rest, b.rest)
	case a.rest != nil:
		r.rest = a.rest.alone()
	case b.rest != nil:
		r.rest = b.rest.alone()
	}
	for _, service := range merge(slices.Collect(maps.Keys(a.exact)), slices.Collect(maps.Keys(b.exact))) {
		i, j := cmp.Or(a.find(service), s.find(service)), cmp.Or(b.find(service), s.find(service))
		switch {
		case i != nil && j != nil:
			i = narrower(i, j)
		case s.breadth(j) < s.breadth(i):
			i = j
		case s.breadth(i) == everything:
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

// breadth is that of i, or of the default if there is none.
func (s *Shared) breadth(i *Intention) breadth {
	switch {
	case i != nil:
		return i.breadth()
	case s.scope.Default == Allow:
		return everything
	}
	return nothing
}

// saysAs reports whether as much is let in by below, which is nil if nothing is said, as by i.
func (s *Shared) saysAs(below, i *Intention) bool {
	return s.breadth(below) == i.breadth() && (i.breadth() != requests || below.Permissions == i.Permissions)
}

// narrower is an intention that allows what a and b allow, of which neither is nil.
func narrower(a, b *Intention) *Intention {
	switch {
	case a.breadth() < b.breadth():
		return a
	case b.breadth() < a.breadth():
		return b
	case a.breadth() == requests && a.Permissions != b.Permissions:
		return a.conflicting()
	}
	return a
}

// conflicting is i if another entry, whose name differs in letter case, says something that cannot be joined with its permissions.
func (i *Intention) conflicting() *Intention {
	c := *i
	c.Unsupported = "Permissions beside what an entry says whose name is in other letter case"
	return &c
}

// alone is the rule for all sources of one entry where another one has none, and leaves them to the layer below; nil: that is no
// broader.
func (i *Intention) alone() *Intention {
	switch i.breadth() {
	case requests:
		return i.conflicting()
	case nothing:
		return i
	case everything:
	}
	return nil
}

func wildcard(in identity.Name) identity.Name {
	in.Service = identity.Wildcard
	return in
}

func sameSpace(a, b identity.Name) bool {
	return a.Partition == b.Partition && a.Namespace == b.Namespace
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
	outline := func(i *Intention, subject string) {
		if i.breadth() == requests && !p.connections {
			s.In = append(s.In, p.outline(i, subject))
		}
	}
	if p.own.rest != nil {
		s.Base = p.shared.newBase(p.own.rest.Effect() == Allow)
		outline(p.own.rest, identity.Wildcard)
	}
	for service, i := range p.own.exact {
		s.put(service, i.Effect() == Allow)
		outline(i, service)
	}
	for id, i := range p.own.foreign {
		s.put(string(id), i.Effect() == Allow)
		outline(i, string(id))
	}
	s.sort()
	return s
}
