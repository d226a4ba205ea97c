package intention

import (
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/identity"
)

// Reason is why a Decision came out as it did.
type Reason uint8

// The reasons. Only ByIntention, ByDefault and ByNoPermission can allow.
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
	// ByNoPermission: Decision.Intention has permissions of which the request meets none, so the default holds.
	ByNoPermission
	// ByPath: Decision.Intention has permissions that look at paths, and the request's is none that every server reads alike.
	ByPath
	// ByToken: Decision.Intention asks for a token, and the request has brought none that is good and says what it has to.
	ByToken
	// RequestsOnly: Decision.Intention has permissions, which are about requests, and this is a connection.
	RequestsOnly
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
	case ByNoPermission:
		return "default policy, as no permission is met"
	case ByPath:
		return "the path is not canonical, and permissions look at it"
	case ByToken:
		return "no good token of those that are asked for"
	case RequestsOnly:
		return "permissions are about requests, and deny connections"
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
	// Intention is the one that decided, be it that it left it to the default; nil unless Reason is ByIntention, ByNoPermission, ByPath, ByToken
	// or RequestsOnly. It must not be changed.
	Intention *Intention
	// Permission is which of Intention's permissions decided, counted from 1; 0: none did.
	Permission int
	// Revocation is the one that denies what is allowed otherwise; nil unless Reason is ByRevocation.
	Revocation *Revocation
}

// Allowed reports whether the source may connect, or the request may pass.
func (d Decision) Allowed() bool { return d.Action == Allow }

// String is the decision in words, as far as intentions made it: "web => api (allow)", "web => api #2 (deny)".
func (d Decision) String() string {
	switch {
	case d.Intention == nil:
		return d.Reason.String()
	case d.Permission > 0 && d.Reason == ByIntention:
		return d.Intention.Source.String() + " => " + d.Intention.Destination.String() + " #" + strconv.Itoa(d.Permission) + " (" + d.Action.String() + ")"
	case d.Reason == ByIntention:
		return d.Intention.String()
	}
	return d.Intention.String() + ": " + d.Reason.String()
}

// Decide says whether the source may connect to p's destination. It is two look-ups whatever the
// number of intentions, and does not allocate for a source of the mesh. Of those only identities of a known
// datacenter and of the destination's own partition and namespace are ever allowed; those of another
// trust domain as DecideID says. None is that is revoked. Permissions are about requests, and deny connections.
func (p *Policy) Decide(source identity.Service) Decision { return p.decide(source, nil) }

// decide is about a connection if r is nil.
func (p *Policy) decide(source identity.Service, r *Request) Decision {
	if p == nil {
		return Decision{}
	}
	if td := p.shared.scope.TrustDomain; source.TrustDomain != td || td.IsZero() {
		return p.decideForeign(identity.ID(source.String()), r)
	}
	d := p.intended(source)
	if p.breadth(d) > nothing {
		if r := p.revoked.Identity(source); r != nil {
			return Decision{Reason: ByRevocation, Revocation: r}
		}
		if p.only != nil && !p.only.includes(source, p.outline(d.Intention, source.Service)) {
			return Decision{Reason: unrecorded}
		}
	}
	return p.asked(d, r)
}

// asked is d, which is about connections, as it is for a request; nil: it is one of a connection.
func (p *Policy) asked(d Decision, r *Request) Decision {
	switch i := d.Intention; {
	case i == nil || i.breadth() != requests:
	case r == nil || p.connections:
		d.Reason = RequestsOnly
	default:
		if t := i.Permissions.tokens; len(t) > 0 && !meetsToken(t, r) {
			return Decision{Reason: ByToken, Intention: i}
		}
		step := i.Permissions.decide(r)
		if step == nil {
			return Decision{Action: p.shared.scope.Default, Reason: ByNoPermission, Intention: i}
		}
		if d.Action, d.Permission = step.Action, step.Permission; step.Tokenless {
			d.Reason = ByToken
		} else if step.Permission == 0 && step.Action == Deny {
			d.Reason = ByPath
		}
	}
	return d
}

// breadth is how much a decision about a connection lets in.
func (p *Policy) breadth(d Decision) breadth {
	switch {
	case d.Action == Allow:
		return everything
	case d.Intention != nil && !p.connections:
		return d.Intention.breadth()
	}
	return nothing
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
