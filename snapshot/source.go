package snapshot

import (
	"bytes"
	"slices"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"google.golang.org/protobuf/proto"
)

// source is a service that intentions name, in one datacenter, as Envoys are told of it.
type source struct {
	id      string
	allowed bool
	// rule is its entry in a rules' map, and peer in a list of peers, both in wire format: they are
	// the same for all destinations, of which each has them among others.
	rule, peer []byte
}

// layer is what policies with one intention.Shared have in common.
type layer struct {
	datacenters []string
	sources     map[string][]*source // that it names, by service
}

// layer is that of b's policy.
func (b *builder) layer() *layer {
	shared, _ := b.in.Policy.Shared()
	return b.cache.layers.of(shared, func() *layer {
		s := scopeOf(b.in)
		l := &layer{datacenters: s.datacenters, sources: map[string][]*source{}}
		if shared != nil {
			for service, action := range shared.Exact() {
				l.sources[service] = b.newSources(s, service, action)
			}
		}
		return l
	})
}

// sources are those that b's policy, of scope s, names, sorted by service.
func (b *builder) sources(s scope) []*source {
	l := b.layer()
	if !slices.Equal(l.datacenters, s.datacenters) { // of a policy with another limit
		l = &layer{}
	}
	out := make([]*source, 0, len(l.sources)+1)
	for name, action := range b.in.Policy.Exact() {
		of := l.sources[name.Service]
		if len(of) == 0 || of[0].allowed != (action == intention.Allow) {
			of = b.newSources(s, name.Service, action)
		}
		out = append(out, of...)
	}
	return out
}

// newSources are a service in each datacenter; none if no certificate can have the name.
func (b *builder) newSources(s scope, service string, action intention.Action) (out []*source) {
	for _, dc := range s.datacenters {
		id := identity.Service{TrustDomain: s.TrustDomain, Datacenter: dc, Name: s.name(service)}.ID()
		if id.IsZero() {
			continue
		}
		out = append(out, &source{
			id: id.String(), allowed: action == intention.Allow,
			rule: b.fields(&matcherv3.Matcher_MatcherTree_MatchMap{Map: map[string]*matcherv3.Matcher_OnMatch{id.String(): b.action(action)}}),
			peer: b.peer(uri(exactly(id.String()))),
		})
	}
	return out
}

// peer is a name in the format of Secret.Peers.
func (p *packer) peer(name *tlsv3.SubjectAltNameMatcher) []byte {
	return p.fields(&tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{name}})
}

func (p *packer) peers(names []*tlsv3.SubjectAltNameMatcher) [][]byte {
	out := make([][]byte, len(names))
	for i, n := range names {
		out[i] = p.peer(n)
	}
	return out
}

// withFields gives m the fields that are in wire format. To m itself they are unknown, which is
// written after all others.
func withFields[M proto.Message](m M, fields [][]byte) M {
	m.ProtoReflect().SetUnknown(bytes.Join(fields, nil))
	return m
}
