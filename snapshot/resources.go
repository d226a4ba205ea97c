package snapshot

import (
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/identity"
)

// Resources is what one proxy's Envoy is to have. Nobody changes it, or what it points to, after it was made.
type Resources struct {
	// ByType holds the resources by type URL and name: listeners, clusters, endpoints, routes and extension
	// configurations. The version of a resource is the hash of its bytes, which are deterministic.
	ByType map[string]map[string]*discoveryv3.Resource
	// RouteClusters are the clusters that routes of that name lead to, apart from the application's own.
	RouteClusters map[string][]string
	// Secrets are the secrets that the resources name, sorted by name: what they are made of, as their contents are not known here.
	Secrets []Secret
	// Warnings say, in words for people, where this Envoy gets less than the configuration promises.
	Warnings []string

	// in is what they were made of. validation is the secret of the inbound handshake and warnings what was to say of it.
	in         Input
	validation Secret
	warnings   []string
}

// Secret says what a secret is made of.
type Secret struct {
	Name string
	// Leaf, if not zero, is the service whose certificate and key this is.
	Leaf identity.Service
	// SANs are who passes a validation context; of it the roots are the other half. Empty only for the secret "roots",
	// whose users say it themselves: an empty list lets in everybody with a certificate of the roots.
	SANs []*tlsv3.SubjectAltNameMatcher
	// Version is the hash of SANs.
	Version string
}
