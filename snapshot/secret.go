package snapshot

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// leaf is the name of the secret with the proxy's own certificate.
func (b *builder) leaf() string { return b.in.Proxy.Service.LeafSecret() }

// addSecret adds a secret that the resources name, once.
func (b *builder) addSecret(s Secret) {
	if slices.ContainsFunc(b.out.Secrets, func(o Secret) bool { return o.Name == s.Name }) {
		return
	}
	if s.Leaf == (identity.Service{}) && s.Version == "" {
		s.Version = hash(s.Peers...)
	}
	b.out.Secrets = append(b.out.Secrets, s)
}

// validation is the secret with the peers that the inbound handshake allows. It warns where those
// are more than the policy's.
func (b *builder) validation() Secret {
	byPolicy := !b.in.Proxy.Inbound.Protocol.L7() && b.enforcement() != catalog.ExtAuthz
	var key validationInput
	if shared := b.bare(); shared != nil {
		key = validationInput{shared, regexSize(b.in.Envoy), byPolicy}
	}
	s := b.cache.validationSecrets.of(key, func() (s Secret) {
		switch scope := scopeOf(b.in); {
		case len(scope.datacenters) == 0:
			s.Peers = [][]byte{b.peer(scope.nobody())}
		case !byPolicy:
			s.Peers = b.peers(scope.everybody(b.in.Envoy))
		default:
			s.Peers, s.admitted = b.allowedPeers(scope)
		}
		s.Version = hash(s.Peers...)
		return s
	})
	b.addForeign(&s)
	s.Name = b.validationName()
	b.out.admits = ""
	if s.admitted > 0 {
		b.out.admits = fmt.Sprintf("the handshake of %s lets in sources that are denied, and the rules end their connections at the first byte: an application that speaks "+
			"first would be heard by them, and is dialled. %d names are denied; this Envoy takes expressions up to a program size of %d (re2.max_program_size.error_level), and at most %d names are told to it",
			b.in.Proxy.Service, s.admitted, regexSize(b.in.Envoy), maxComplement)
	}
	return s
}

// validationInput is everything that the validation secret depends on, but for its name.
type validationInput struct {
	shared    *intention.Shared
	regexSize int
	byPolicy  bool
}

// validationName is the name of that secret. The listener depends on the name, not on the contents.
func (b *builder) validationName() string {
	if b.in.Proxy.Inbound.Protocol.L7() {
		return identity.IdentitiesSecret
	}
	return b.in.Proxy.Service.PeersSecret()
}

// allowedPeers are the sources that the policy of a tcp service allows. A certificate passes if any
// of its URI SANs matches, so the rules deny those that have several.
func (b *builder) allowedPeers(s scope) (peers [][]byte, denied int) {
	if b.in.Policy.Rest() != intention.Allow {
		for _, source := range b.sources(s) {
			if source.allowed {
				peers = append(peers, source.peer)
			}
		}
		if len(peers) == 0 {
			peers = append(peers, b.peer(s.nobody()))
		}
		return slices.Clip(peers), 0
	}
	var names []string
	for name, action := range b.in.Policy.Exact() {
		if action != intention.Allow {
			names = append(names, name.Service)
		}
	}
	sans, denied := b.allButRevoked(s, names)
	return b.peers(sans), denied
}

// allBut allows all services but the named ones. Where their expression is too long for the Envoy
// it allows all, and the rules alone deny; denied is then the number of the names.
func (b *builder) allBut(s scope, names []string) (sans []*tlsv3.SubjectAltNameMatcher, denied int) {
	if len(names) == 0 {
		return s.everybody(b.in.Envoy), 0
	}
	var except []string
	for _, n := range names {
		if s.name(n).Check() == nil { // else no certificate can have the name
			except = append(except, n)
		}
	}
	if len(except) <= maxComplement {
		if expr := s.expression(complement(except)); programSize(expr) <= regexSize(b.in.Envoy) {
			return []*tlsv3.SubjectAltNameMatcher{uri(matching(expr))}, 0
		}
	}
	return s.everybody(b.in.Envoy), len(except)
}

// regexSize is the limit for the size of a compiled expression; Envoy's default if f has none.
func regexSize(f Features) int {
	if f.RegexSize == 0 {
		return 100
	}
	return f.RegexSize
}

// scope bounds the allowed identities: by a trust domain, datacenters, and the partition and
// namespace of the destination.
type scope struct {
	identity.Service
	datacenters []string // those that can be part of an identity
}

// scopeOf is the policy's own scope, which Decide uses, too.
func scopeOf(in Input) scope {
	s := scope{Service: identity.Service{TrustDomain: in.Mesh.TrustDomain, Name: in.Proxy.Service}}
	known := in.Mesh.Datacenters
	if in.Policy != nil {
		known = in.Policy.Scope().Datacenters
		if td := in.Policy.Scope().TrustDomain; !td.IsZero() {
			s.TrustDomain = td
		} else {
			known = nil // such a policy denies everybody
		}
	}
	for _, dc := range known {
		if identity.CheckDatacenter(dc) == nil {
			s.datacenters = append(s.datacenters, dc)
		}
	}
	slices.Sort(s.datacenters)
	s.datacenters = slices.Compact(s.datacenters)
	return s
}

func (s scope) name(service string) identity.Name {
	return identity.Name{Partition: s.Partition, Namespace: s.Namespace, Service: service}
}

// prefix is the common prefix of the SPIFFE IDs of a datacenter's services. It ends in "/", so that
// it is not a prefix of other names.
func (s scope) prefix(datacenter string) string {
	id := identity.Service{TrustDomain: s.TrustDomain, Datacenter: datacenter, Name: s.name("x")}.String()
	return strings.TrimSuffix(id, "x")
}

// expression matches the SPIFFE IDs of the services whose names match service, in all datacenters.
// Several URI SANs of one certificate, joined by ",", never match.
func (s scope) expression(service string) string {
	if len(s.datacenters) == 0 {
		return ""
	}
	const mark = "x"
	before, after, _ := strings.Cut(s.prefix(mark), "/dc/"+mark+"/")
	dcs := make([]string, len(s.datacenters))
	for i, dc := range s.datacenters {
		dcs[i] = regexp.QuoteMeta(dc)
	}
	return regexp.QuoteMeta(before) + `/dc/(?:` + strings.Join(dcs, `|`) + `)/` + regexp.QuoteMeta(after) + service
}

// nobody is a SAN that no service has. An empty list would allow everybody.
func (s scope) nobody() *tlsv3.SubjectAltNameMatcher {
	return uri(exactly(s.TrustDomain.IDString() + "/nobody"))
}

// everybody allows all services. Where the expression is too long for the Envoy (a long trust
// domain, many datacenters), prefixes have to do: they also allow IDs below them that are no
// service's, which the rules and ext_authz refuse.
func (s scope) everybody(f Features) []*tlsv3.SubjectAltNameMatcher {
	if expr := s.expression(complement(nil)); programSize(expr) <= regexSize(f) {
		return []*tlsv3.SubjectAltNameMatcher{uri(matching(expr))}
	}
	out := make([]*tlsv3.SubjectAltNameMatcher, len(s.datacenters))
	for i, dc := range s.datacenters {
		out[i] = uri(startingWith(s.prefix(dc)))
	}
	return out
}
