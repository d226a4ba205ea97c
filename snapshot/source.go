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
	// on is the rule as a message; nil: it is to allow or to deny all.
	on *matcherv3.Matcher_OnMatch
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

// sources are those that b's policy, of scope s, names, in any order, and denied the revoked ones.
func (b *builder) sources(s scope) []*source {
	l := b.layer()
	if !slices.Equal(l.datacenters, s.datacenters) { // of a policy with another limit
		l = &layer{}
	}
	out := make([]*source, 0, len(l.sources)+1)
	for name, action := range b.in.Policy.Exact() {
		of := l.sources[name.Service]
		if i := b.conditional(intention.Source{Name: name}); i != nil {
			out = append(out, b.conditionalSources(s, name.Service, i)...)
			continue
		}
		if len(of) == 0 || of[0].allowed != (action == intention.Allow) {
			of = b.newSources(s, name.Service, action)
		}
		out = append(out, of...)
	}
	return b.deny(out)
}

// newSources are a service in each datacenter; none if no certificate can have the name.
func (b *builder) newSources(s scope, service string, action intention.Action) (out []*source) {
	for _, dc := range s.datacenters {
		if s := b.newSource(identity.Service{TrustDomain: s.TrustDomain, Datacenter: dc, Name: s.name(service)}, action); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// conditionalSources are newSources whose requests an intention's permissions decide about.
func (b *builder) conditionalSources(s scope, service string, i *intention.Intention) []*source {
	all := b.newSources(s, service, intention.Deny)
	on := b.permissions(i)
	for _, s := range all {
		s.on, s.rule = on, b.entry(s.id, on)
	}
	return all
}

// newSource is an identity; nil if no certificate can have it.
func (b *builder) newSource(of identity.Service, action intention.Action) *source {
	id := of.ID().String()
	if id == "" {
		return nil
	}
	return &source{id: id, allowed: action == intention.Allow, rule: b.entry(id, b.action(action)), peer: b.peer(uri(exactly(id)))}
}

// entry is one of a rules' map, in wire format.
func (p *packer) entry(id string, m *matcherv3.Matcher_OnMatch) []byte {
	return p.fields(&matcherv3.Matcher_MatcherTree_MatchMap{Map: map[string]*matcherv3.Matcher_OnMatch{id: m}})
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
