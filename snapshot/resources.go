package snapshot

import (
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Resources is the configuration of one proxy's Envoy. It is immutable, and so is what it points
// to.
type Resources struct {
	// ByType holds the resources by type URL: listeners, clusters, endpoints, routes and extension
	// configurations. The version of a resource is the hash of its bytes, which are deterministic.
	// Equal resources of one Cache are the same pointer.
	ByType map[string]Set
	// Clusters are, by the name of a listener or RouteConfiguration, the clusters that it leads to,
	// without the application's main one. Nil: none leads to another.
	Clusters map[string][]string
	// Inbound is the name of the listener whose filter chain has the Generation in its name.
	Inbound string
	// Judges are the resources that decide who is let in by that listener, by name: of a tcp
	// service three extension configurations and a secret, of others the routes and a secret.
	Judges map[string]Judge
	// Secrets are the secrets that the resources name, sorted by name. Their contents are not known
	// here, only what they are made of.
	Secrets []Secret
	// Warnings are sentences for operators about where this Envoy gets less than the configuration
	// asks for.
	Warnings []string

	in Input // what the resources were made of
	// warnings are Warnings without admits, the one about the policy; empty: there is none.
	warnings []string
	admits   string
	// assigned are, by upstream, the clusters that have the endpoints of its service; empty: none has.
	assigned []string
	// resolvers are, by upstream, those of its chain; nil: no upstream has one.
	resolvers map[int][]resolver
}

// Is reports whether s and o are made of the same.
func (s Secret) Is(o Secret) bool {
	return s.Name == o.Name && s.Leaf == o.Leaf && s.Version == o.Version
}

// Set is the resources of one type, sorted by name. It is immutable.
type Set []*discoveryv3.Resource

// Get returns the resource of that name; nil if there is none.
func (s Set) Get(name string) *discoveryv3.Resource {
	if i, ok := s.find(name); ok {
		return s[i]
	}
	return nil
}

func (s Set) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s, name, func(r *discoveryv3.Resource, name string) int { return strings.Compare(r.GetName(), name) })
}

// Is reports whether s and o are one Set, not only equal.
func (s Set) Is(o Set) bool { return len(s) == len(o) && (len(s) == 0 || &s[0] == &o[0]) }

// With is a copy of s with r, in the place of the resource of that name if there is one.
func (s Set) With(r *discoveryv3.Resource) Set {
	i, ok := s.find(r.GetName())
	s = slices.Clone(s)
	if !ok {
		return slices.Insert(s, i, r)
	}
	s[i] = r
	return s
}

// Judge is how a resource that decides about connections has to be ordered with others when it is
// sent.
type Judge struct {
	// Lifted: this version allows what the others decide about. An Envoy that has another version
	// may rely on that one, and gets this one only when it has accepted all judges that are not
	// lifted.
	Lifted bool
	// Written: it may hold what users write. Envoy may refuse that, so it must not share a response
	// with others.
	Written bool
}

// Secret says what a secret is made of.
type Secret struct {
	Name string
	// Leaf, if not zero, is the service whose certificate and key this is.
	Leaf identity.Service
	// Peers are the names that a validation context allows, each in the wire format of a
	// CertificateValidationContext that has nothing else; the roots are its other half. Empty only
	// for the secrets "roots" and "roots/…", whose users have a list of their own: an empty list allows everybody
	// with a certificate of the roots.
	Peers [][]byte
	// Federated are the other trust domains that some of Peers are of, sorted: each is verified with the
	// roots of its own. Empty: all are of the mesh's.
	Federated []spiffeid.TrustDomain
	// TrustDomain, if not zero, is the other trust domain whose roots alone these are.
	TrustDomain spiffeid.TrustDomain
	// Version is the hash of Peers and Federated.
	Version string

	admitted int // how many sources the handshake lets in although the rules deny them
}
