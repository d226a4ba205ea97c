package intention

import "github.com/sallyport/sallyport/identity"

// Unrecorded is the last of the reasons.
const Unrecorded = unrecorded

// Empty reports whether nobody is in s.
func (s Set) Empty() bool { return s.empty() }

// Compile makes the policy of a destination out of all that is said, in any order.
func Compile(destination identity.Name, all []Intention, scope Scope) *Policy {
	return Share(destination, all, scope).Policy(destination, all)
}

// DecideRequest is DecideRequestID for a service.
func (p *Policy) DecideRequest(source identity.Service, r *Request) Decision {
	return p.decide(source, r)
}
