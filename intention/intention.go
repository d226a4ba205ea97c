// Package intention says what intentions mean: which identities may reach a service. Share and
// Shared.Policy compile the intentions of one destination to a Policy, and Policy.Decide is the
// only place in the project that decides; RBAC filters, ext_authz and the commands that explain are
// translations of it or call it. The package knows neither Envoy nor Consul's API.
//
// All values are immutable, so they may be shared between goroutines.
package intention

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Action is what an intention says about a source. The zero Action denies.
type Action uint8

// The actions. Deny is zero on purpose: whatever was forgotten is denied.
const (
	Deny Action = iota
	Allow
)

// String is the action as intentions spell it: "deny" or "allow".
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// Source is who an intention is about. A source with a Peer is a service of another cluster: it
// never matches an identity of this trust domain, neither to allow nor to deny. Service may be "*".
// It is comparable.
type Source struct {
	Peer string
	// ID, if not empty, is the workload of another trust domain that the intention is about: that one
	// alone, whatever Peer and Name say. Of the mesh's own trust domain it matches nobody.
	ID identity.ID `json:",omitempty"`
	identity.Name
}

// String is the source as Consul's CLI prints it; that of another trust domain is its SPIFFE ID.
func (s Source) String() string {
	if s.ID != "" {
		return string(s.ID)
	}
	if s.Peer != "" {
		return s.Name.String() + " (peer " + s.Peer + ")"
	}
	return s.Name.String()
}

// Intention is one source's rule for one destination; both may be the wildcard.
type Intention struct {
	Source      Source
	Destination identity.Name
	Action      Action
	// Permissions are what holds of requests, in place of Action, which is Deny then, or Allow where they are made of JWT alone; nil: there are
	// none. Connections are denied by them.
	Permissions *Permissions `json:",omitempty"`
	// JWT are tokens of which a request has to bring one for the intention to allow it, be it by Action or by a
	// permission, of which Permissions are made, too; nil: none has to.
	JWT *Tokens `json:",omitempty"`
	// Unsupported, if not empty, names what in the intention sallyport does not evaluate
	// (an unknown field). Such an intention denies its source whatever its Action
	// says.
	Unsupported string
	// Held, if not empty, says what the intention waits for before it may allow. Until then it
	// denies its source whatever its Action says; see Shared.Hold.
	Held string
	// Origin is where the intention was read: "api.hcl:12", "service-intentions/api". It decides
	// nothing.
	Origin string
}

// Precedence is Consul's precedence of an intention: 9, 8, 6 or 5 without Enterprise namespaces.
// The exactness of the destination comes before that of the source (Consul, "Precedence and match
// order").
func (i Intention) Precedence() int {
	p := 9
	if i.Destination.IsWildcard() {
		p = 6
	}
	if i.Source.ID == "" && i.Source.IsWildcard() {
		p--
	}
	return p
}

// String is the intention in one line, without its origin: "web => api (allow)", "web => api (2 permissions)".
func (i Intention) String() string {
	// Not by fmt: ext_authz puts it into each answer.
	effect := i.Effect().String()
	switch n := i.Permissions.Len(); {
	case i.denies() || i.Permissions == nil:
	case n == 0:
		effect = "allow with a token"
	case n == 1:
		effect = "1 permission"
	default:
		effect = strconv.Itoa(n) + " permissions"
	}
	return i.Source.String() + " => " + i.Destination.String() + " (" + effect + ")"
}

// Effect is what holds of connections, after Unsupported and Held are taken into account. Permissions deny them.
func (i Intention) Effect() Action {
	if i.denies() || i.Permissions != nil {
		return Deny
	}
	return i.Action
}

// denies reports whether i denies whatever Action and Permissions say.
func (i Intention) denies() bool { return i.Unsupported != "" || i.Held != "" }

// breadth is how much of its source's an intention lets in. Of several for one source the narrowest holds.
func (i *Intention) breadth() breadth {
	switch {
	case i.Effect() == Allow:
		return everything
	case i.denies() || i.Permissions == nil || i.Destination.IsWildcard(): // Consul has no permissions of all destinations
		return nothing
	}
	return requests
}

// breadth is how much is let in: nothing, what permissions say, everything.
type breadth uint8

const (
	nothing breadth = iota
	requests
	everything
)

// WhyDenied is, in words, why an intention denies whatever its Action says; empty: it does not.
func (i Intention) WhyDenied() string {
	switch {
	case i.Unsupported != "":
		return "denies because sallyport does not support its " + i.Unsupported
	case i.Held != "":
		return "waits until " + i.Held
	}
	return ""
}

// Scope is what a decision depends on besides the intentions.
type Scope struct {
	// TrustDomain is the mesh's; identities of another one are denied, unless an intention names them.
	// The zero value denies everybody.
	TrustDomain spiffeid.TrustDomain
	// Federated are the other trust domains whose bundles are known, sorted by name; identities of
	// others are denied whatever intentions say, as nothing proves them.
	Federated []spiffeid.TrustDomain
	// Datacenters are the known ones, sorted; identities of another one are denied. Empty denies
	// everybody.
	Datacenters []string
	// Default is the action for sources that no intention is about.
	Default Action
}

// Compare orders intentions as Consul lists them: higher precedence first, then by name.
func Compare(a, b Intention) int {
	return cmp.Or(
		cmp.Compare(b.Precedence(), a.Precedence()),
		cmp.Compare(a.Source.ID, b.Source.ID),
		strings.Compare(a.Source.Peer, b.Source.Peer),
		compareNames(a.Source.Name, b.Source.Name),
		compareNames(a.Destination, b.Destination),
		cmp.Compare(a.breadth(), b.breadth()), // of two for one source, the narrower one wins
		strings.Compare(a.Unsupported, b.Unsupported),
		strings.Compare(a.Held, b.Held),
		strings.Compare(a.Origin, b.Origin),
		cmp.Compare(a.Action, b.Action), // for a total order
		a.Permissions.compare(b.Permissions),
		a.JWT.compare(b.JWT),
	)
}

func compareNames(a, b identity.Name) int {
	return cmp.Or(strings.Compare(a.Partition, b.Partition), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Service, b.Service))
}
