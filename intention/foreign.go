package intention

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/sallyport/sallyport/identity"
)

// putForeign adds an intention about an identity of another trust domain. Those about all
// destinations are not supported: they deny nobody who is not denied anyway.
func (r *rules) putForeign(i *Intention) {
	if i.Destination.IsWildcard() || r.foreign[i.Source.ID] != nil {
		return
	}
	if r.foreign == nil {
		r.foreign = map[identity.ID]*Intention{}
	}
	r.foreign[i.Source.ID] = i
}

// bothForeign allow what a and b allow. Who is not in it is denied.
func bothForeign(a, b map[identity.ID]*Intention) map[identity.ID]*Intention {
	out := map[identity.ID]*Intention{}
	for id, i := range a {
		switch j := b[id]; {
		case j != nil:
			out[id] = narrower(i, j)
		case i.breadth() == nothing:
			out[id] = i
		}
	}
	for id, j := range b {
		if j.breadth() == nothing {
			out[id] = cmp.Or(out[id], j)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// DecideID is Decide for a source of which the SPIFFE ID is known: a service of the mesh, or a
// workload of another trust domain. The latter is allowed by an intention that names exactly it, and by
// nothing else: neither the source "*" nor the default is about it. And the bundle of its trust domain has to
// be known.
func (p *Policy) DecideID(source identity.ID) Decision { return p.decideID(source, nil) }

// DecideRequestID is DecideID for a request. Where the intention about its source has permissions the first one that it meets
// decides, and the default policy if there is none. It compares the request with each permission until then.
func (p *Policy) DecideRequestID(source identity.ID, r *Request) Decision {
	return p.decideID(source, r)
}

func (p *Policy) decideID(source identity.ID, r *Request) Decision {
	if p == nil {
		return Decision{}
	}
	if source.TrustDomain() != p.shared.scope.TrustDomain {
		return p.decideForeign(source, r)
	}
	s, ok := source.Service()
	if !ok {
		return Decision{Reason: NoService}
	}
	return p.decide(s, r)
}

func (p *Policy) decideForeign(source identity.ID, r *Request) Decision {
	i := p.own.foreign[source]
	if d := p.foreignDenied(source, i); d != nil {
		return *d
	}
	return p.asked(Decision{Action: i.Effect(), Reason: ByIntention, Intention: i}, r)
}

// foreignDenied is why a workload of another trust domain is denied whatever it asks; nil: it is not. i is the intention about it; nil:
// there is none.
func (p *Policy) foreignDenied(source identity.ID, i *Intention) *Decision {
	scope := &p.shared.scope
	switch {
	case i == nil || source == "" || scope.TrustDomain.IsZero() || source.TrustDomain() == scope.TrustDomain:
		return &Decision{Reason: ForeignTrustDomain}
	case i.breadth() == nothing:
		return &Decision{Reason: ByIntention, Intention: i}
	case p.connections && i.breadth() == requests:
		return &Decision{Reason: RequestsOnly, Intention: i}
	case p.serverFirst:
		return &Decision{Reason: SpeaksFirst}
	case !slices.Contains(scope.Federated, source.TrustDomain()):
		return &Decision{Reason: UnknownTrustDomain}
	case p.revoked.ID(source) != nil:
		return &Decision{Reason: ByRevocation, Revocation: p.revoked.ID(source)}
	case p.only != nil && !p.only.includesID(source, p.outline(i, string(source))):
		return &Decision{Reason: unrecorded}
	}
	return nil
}

// Foreign yields the identities of other trust domains that p allows, or some requests of them, sorted; see Permissions. A nil p yields
// none.
func (p *Policy) Foreign() iter.Seq[identity.ID] {
	return func(yield func(identity.ID) bool) {
		if p == nil || len(p.own.foreign) == 0 {
			return
		}
		for _, id := range slices.Sorted(maps.Keys(p.own.foreign)) {
			if p.foreignDenied(id, p.own.foreign[id]) == nil && !yield(id) {
				return
			}
		}
	}
}

// ServerFirst is p for a destination whose application speaks before its client: it denies all
// identities of other trust domains, as Envoy's handshake cannot keep one domain from naming
// another's workload in a second URI SAN, and what comes after it is too late. A nil p stays nil.
func (p *Policy) ServerFirst() *Policy {
	if p == nil || len(p.own.foreign) == 0 || p.serverFirst {
		return p
	}
	q := *p
	q.serverFirst = true
	return &q
}

// foreign are the intentions about identities of other trust domains, as Hold makes them.
func (h *holding) foreign(now, before *Policy, entries []rules) (all map[identity.ID]*Intention, held bool) {
	all = maps.Clone(now.own.foreign)
	for id, i := range all {
		was, named := before.own.foreign[id], len(entries) > 0
		for n := range entries {
			named = named && entries[n].foreign[id] != nil
		}
		if i.breadth() == nothing || was != nil && was.holdsFor(i) || named {
			continue
		}
		waits := *i
		waits.Held = h.why
		all[id], held = &waits, true
	}
	return all, held
}
