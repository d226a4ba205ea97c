package snapshot

import (
	"bytes"
	"net"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// spiffeValidator is the validator of certificates that has roots for each trust domain.
const spiffeValidator = "envoy.tls.cert_validator.spiffe"

// foreign reports whether p allows any workload of another trust domain.
func foreign(p *intention.Policy) bool {
	for range p.Foreign() {
		return true
	}
	return false
}

// addForeign lets the workloads of other trust domains that the policy allows through the handshake.
func (b *builder) addForeign(s *Secret) {
	if !foreign(b.in.Policy) {
		return
	}
	s.Peers = slices.Clone(s.Peers)
	for id := range b.in.Policy.Foreign() { // sorted, so that trust domains are, too
		s.Peers = append(s.Peers, b.peer(uri(exactly(string(id)))))
		if td := id.TrustDomain(); !slices.Contains(s.Federated, td) {
			s.Federated = append(s.Federated, td)
		}
	}
	slices.SortFunc(s.Federated, spiffeid.TrustDomain.Compare)
	var names bytes.Buffer
	for _, td := range s.Federated {
		names.WriteString(td.Name() + "\n")
	}
	s.Version = hash(append(slices.Clone(s.Peers), names.Bytes())...)
}

// foreignSources are the rules' entries for them.
func (b *builder) foreignSources() (out []*source) {
	for id := range b.in.Policy.Foreign() {
		s := &source{id: string(id), allowed: true}
		on := b.action(intention.Allow)
		if b.in.Policy.DecideID(id).Reason == intention.RequestsOnly { // of a service that speaks tcp it is not yielded
			s.allowed, on = false, b.action(intention.Deny)
			if i := b.conditionalID(id); i != nil {
				on = b.permissions(i)
				s.on = on
			}
		}
		s.rule = b.entry(s.id, on)
		out = append(out, s)
	}
	return out
}

// context is the validation context of s without its peers.
func (p *packer) context(s Secret, t Trust, others []Trust) *tlsv3.CertificateValidationContext {
	switch {
	case !s.TrustDomain.IsZero() && len(others) == 0:
		// No certificate has this digest, so nobody is who is dialled until the roots are known.
		return &tlsv3.CertificateValidationContext{TrustedCa: inline(t.Roots), VerifyCertificateHash: []string{noDigest}}
	case !s.TrustDomain.IsZero():
		return trusted(others[0])
	case len(s.Federated) == 0 || t.Intermediates:
		return trusted(t)
	}
	// The roots of several domains in one pool would let the CA of each speak for the others. The
	// validator takes those of the domain of the first URI SAN, and the list any SAN: of a certificate
	// with several the rules decide.
	v := &tlsv3.SPIFFECertValidatorConfig{}
	for _, d := range append([]Trust{t}, others...) {
		v.TrustDomains = append(v.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{Name: d.TrustDomain.Name(), TrustBundle: inline(d.Roots)})
	}
	return &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: spiffeValidator, TypedConfig: p.any(v)},
	}
}

const noDigest = "0000000000000000000000000000000000000000000000000000000000000000"

func trusted(t Trust) *tlsv3.CertificateValidationContext {
	context := &tlsv3.CertificateValidationContext{TrustedCa: inline(t.Roots)}
	if t.Depth > 0 {
		context.MaxVerifyDepth = wrapperspb.UInt32(t.Depth)
	}
	return context
}

// foreignUpstream is an upstream in another trust domain.
func (b *builder) foreignUpstream(i int, u catalog.Upstream) upstream {
	switch td := u.Foreign.TrustDomain(); {
	case td == b.in.Mesh.TrustDomain:
		b.warn("upstream %s (%s) is of this mesh's own trust domain: it is not reached; name the service instead", u.Foreign, u.Origin)
	case !slices.Contains(b.in.Mesh.Federated, td):
		b.warn("upstream %s (%s): no bundle of %s is known, so nobody can prove to be it, and it is not reached", u.Foreign, u.Origin, td)
	}
	return upstream{Upstream: u, Target: b.in.Upstreams[i], index: i}
}

// plainCluster is the name of the cluster of u, but for its settings.
func (u upstream) plainCluster() string {
	if u.Foreign != "" {
		return string(u.Foreign)
	}
	return u.id.SNI()
}

// roots is the secret that whom u dials is verified with.
func (u upstream) roots() Secret {
	if td := u.Foreign.TrustDomain(); u.Foreign != "" {
		return Secret{Name: identity.RootsSecretOf(td), TrustDomain: td}
	}
	return Secret{Name: identity.RootsSecret}
}

func foreignAddress(u catalog.Upstream) string {
	if u.Foreign == "" {
		return ""
	}
	return net.JoinHostPort(u.Address, strconv.Itoa(int(u.Port)))
}

// foreignStats is what the counters of an upstream in another trust domain begin with.
func foreignStats(id identity.ID) string {
	return "upstream.foreign." + id.TrustDomain().Name() + strings.ReplaceAll(id.Path(), "/", ".")
}
