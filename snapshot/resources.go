package snapshot

import (
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
)

// Resources is what one proxy's Envoy is to have. Nobody changes it, or what it points to, after it
// was made.
type Resources struct {
	// ByType holds the resources by type URL and name: listeners, clusters, endpoints, routes and
	// extension configurations. The version of a resource is the hash of its bytes, which are
	// deterministic.
	ByType map[string]map[string]*discoveryv3.Resource
	// RouteClusters are the clusters that routes of that name lead to, apart from the application's
	// own. Nil: there are no such routes.
	RouteClusters map[string][]string
	// Judges are the resources that decide, one beside the other, about connections to a tcp
	// service: three extension configurations and a secret, by name. Nil: the service is none of
	// tcp.
	Judges map[string]Judge
	// Secrets are the secrets that the resources name, sorted by name: what they are made of, as
	// their contents are not known here.
	Secrets []Secret
	// Warnings say, in words for people, where this Envoy gets less than the configuration
	// promises.
	Warnings []string

	// in is what they were made of. validation is the secret of the inbound handshake and warnings
	// what was to say of it.
	in         Input
	validation Secret
	warnings   []string
}

// Judge says what a resource that decides about connections is to the order in which it is sent.
type Judge struct {
	// Lifted: as it is now it lets pass what the others judge. An Envoy that has another version of
	// it may rely on that one, and gets this one when it has accepted all judges that are not
	// lifted.
	Lifted bool
	// Foreign: it may hold what users write, which Envoy may refuse, and so must not take others
	// with it.
	Foreign bool
}

// Secret says what a secret is made of.
type Secret struct {
	Name string
	// Leaf, if not zero, is the service whose certificate and key this is.
	Leaf identity.Service
	// SANs are who passes a validation context; of it the roots are the other half. Empty only for
	// the secret "roots", whose users say it themselves: an empty list lets in everybody with a
	// certificate of the roots.
	SANs []*tlsv3.SubjectAltNameMatcher
	// Version is the hash of SANs.
	Version string

	partly int // how many are let in that the rules deny
}
