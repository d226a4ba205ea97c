package snapshot

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fromADS is the source of secrets, endpoints, routes and extension configurations. There is only
// one, and its bytes never change: it is part of the key by which Envoy shares a secret, so a
// second spelling would be a second subscription to the same secret, whose updates reach only some
// of its users. The timeout of zero makes a listener wait for the resources that it names without a
// bound; with any other it would start without them. It must not be changed.
var fromADS = &corev3.ConfigSource{
	ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	ResourceApiVersion:    corev3.ApiVersion_V3,
	InitialFetchTimeout:   &durationpb.Duration{},
}

// The suites of TLS 1.2 that authenticate what they encrypt. TLS 1.3 has no others.
var aead12 = []string{
	"ECDHE-ECDSA-AES128-GCM-SHA256",
	"ECDHE-RSA-AES128-GCM-SHA256",
	"ECDHE-ECDSA-AES256-GCM-SHA384",
	"ECDHE-RSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-CHACHA20-POLY1305",
	"ECDHE-RSA-CHACHA20-POLY1305",
}

const tlsSocket = "envoy.transport_sockets.tls"

func secret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: fromADS}
}

// tlsParameters spells out both bounds: Envoy's own upper bound for clients is 1.2.
func tlsParameters(t catalog.TLS) *tlsv3.TlsParameters {
	p := &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
	if t.Allow12 {
		p.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_2
		p.CipherSuites = aead12
	}
	return p
}

// alpn are the ALPN protocols that a sidecar offers for the application's protocol, as Consul's
// sidecars do. For http that is not h2: the application does not speak it and other sidecars do not
// ask for it, so it would only expose more of Envoy to its peers. tcp has none.
func alpn(p catalog.Protocol) []string {
	switch p {
	case catalog.HTTP:
		return []string{"http/1.1"}
	case catalog.HTTP2, catalog.GRPC:
		return []string{"h2", "http/1.1"}
	case catalog.TCP:
	}
	return nil
}

// inboundTLS requires a certificate that the secret named validation allows. Sessions are never
// resumed: a resumed session is not verified again, so a client could come back after its access
// was revoked.
func (b *builder) inboundTLS(validation string) *corev3.TransportSocket {
	return b.transportSocket(&tlsv3.DownstreamTlsContext{
		RequireClientCertificate:         wrapperspb.Bool(true),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:                  alpn(b.in.Proxy.Inbound.Protocol),
			TlsParams:                      tlsParameters(b.in.Mesh.Incoming),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{secret(b.leaf())},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
				ValidationContextSdsSecretConfig: secret(validation),
			},
		},
	})
}

// upstreamTLS presents the proxy's own certificate and requires that of exactly the dialled
// service. The SAN is set here and the roots come by SDS: Envoy merges the two, and would OR lists
// of SANs in both.
func (b *builder) upstreamTLS(u upstream) *corev3.TransportSocket {
	sni, id, roots := u.id.SNI(), u.id.String(), identity.RootsSecret
	if u.Foreign != "" {
		// Roots of that domain alone: with others beside them its CA could speak for them, and theirs for it.
		sni, id, roots = "", string(u.Foreign), identity.RootsSecretOf(u.Foreign.TrustDomain())
	}
	return b.dialTLS(u.Service.Protocol, sni, id, roots)
}

// dialTLS requires the certificate of exactly id, which is verified with the secret roots.
func (b *builder) dialTLS(p catalog.Protocol, sni, id, roots string) *corev3.TransportSocket {
	protocols := alpn(p)
	if len(protocols) > 1 {
		protocols = protocols[:1] // requests are sent as h2
	}
	return b.transportSocket(&tlsv3.UpstreamTlsContext{
		Sni:            sni,
		MaxSessionKeys: wrapperspb.UInt32(0),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:                  protocols,
			TlsParams:                      tlsParameters(b.in.Mesh.Outgoing),
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{secret(b.leaf())},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{uri(exactly(id))},
					},
					ValidationContextSdsSecretConfig: secret(roots),
				},
			},
		},
	})
}

func (b *builder) transportSocket(context proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(context)}}
}

func uri(m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m}
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func startingWith(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

// matching takes expressions of this package only, whose names are quoted. Envoy matches the whole
// text.
func matching(expr string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expr}}}
}
