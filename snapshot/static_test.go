package snapshot_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestEnvoyValidatesGoldens has Envoys judge what the goldens say, with everything put in place
// that they would fetch: Envoy looks only at what is there.
func TestEnvoyValidatesGoldens(t *testing.T) {
	ca := newAuthority(t)
	for _, c := range cases(t) {
		// What the newest Envoy gets is not for the oldest one, unless it gets the same.
		versions := []string{envoytest.Newest}
		if c.in.Envoy == oldest {
			versions = []string{envoytest.Oldest}
		} else if in := c.in; true {
			in.Envoy = oldest
			if string(text(t, build(t, in))) == string(text(t, c.resources)) {
				versions = append(versions, envoytest.Oldest)
			}
		}
		for _, version := range versions {
			t.Run(c.golden+"/"+version, func(t *testing.T) {
				if err := envoytest.Validate(t, version, static(t, c.resources, ca)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestEnvoySeesMistakes: the copies that Envoys validate hold what they would fetch, or the test
// above would show nothing.
func TestEnvoySeesMistakes(t *testing.T) {
	ca := newAuthority(t)
	var tcp, http *snapshot.Resources
	for _, c := range cases(t) {
		switch c.golden {
		case "all-but/db-sidecar-proxy.json":
			tcp = c.resources
		case "http/web-sidecar-proxy.json":
			http = c.resources
		}
	}
	spoil := func(r *snapshot.Resources, f func(m proto.Message) bool) *bootstrapv3.Bootstrap {
		b := static(t, r, ca)
		if !change(t, b, f) {
			t.Fatal("there was nothing to spoil")
		}
		return b
	}
	for name, b := range map[string]*bootstrapv3.Bootstrap{
		"rules: an expression": spoil(tcp, func(m proto.Message) bool {
			e, ok := m.(*xdsRegex)
			if ok {
				e.Regex = "("
			}
			return ok
		}),
		"handshake: an expression": spoil(tcp, func(m proto.Message) bool {
			e, ok := m.(*tlsv3.SubjectAltNameMatcher)
			if ok && e.GetMatcher().GetSafeRegex() != nil {
				e.GetMatcher().GetSafeRegex().Regex = "("
				return true
			}
			return false
		}),
		"leaf: a key": spoil(http, func(m proto.Message) bool {
			e, ok := m.(*tlsv3.TlsCertificate)
			if ok {
				e.PrivateKey = ca.leaf("other").PrivateKey
			}
			return ok
		}),
		"route: a cluster": spoil(http, func(m proto.Message) bool {
			e, ok := m.(*routev3.RouteAction)
			if ok {
				e.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "gone"}
			}
			return ok
		}),
	} {
		for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
			if name[:5] == "rules" || name[:5] == "hands" {
				if version == envoytest.Oldest {
					continue // tcp holds what the oldest does not know
				}
			}
			if err := envoytest.Validate(t, version, b); err == nil {
				t.Errorf("Envoy %s did not see a mistake in %s", version, name)
			}
		}
	}
}

// static is a bootstrap with the resources of r, and with what they refer to in the place of the
// references.
func static(t testing.TB, r *snapshot.Resources, ca *authority) *bootstrapv3.Bootstrap {
	t.Helper()
	runtime, err := structpb.NewStruct(map[string]any{"re2.max_program_size.error_level": newest.RegexSize})
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "a", Cluster: "a"},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "base", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: runtime},
		}}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{controlPlane(t)}},
	}
	for _, res := range all(r) {
		switch res.Resource.TypeUrl {
		case clusters:
			c := resource(t, r, clusters, res.Name, &clusterv3.Cluster{})
			if c.GetType() == clusterv3.Cluster_EDS {
				c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
				c.EdsClusterConfig = nil
				c.LoadAssignment = resource(t, r, endpoints, res.Name, &endpointv3.ClusterLoadAssignment{})
			}
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
		case listeners:
			l := resource(t, r, listeners, res.Name, &listenerv3.Listener{})
			b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
		}
	}
	change(t, b, func(m proto.Message) bool {
		switch m := m.(type) {
		case *listenerv3.Filter:
			if m.GetConfigDiscovery() != nil {
				m.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: resource(t, r, extensions, m.Name, &corev3.TypedExtensionConfig{}).TypedConfig}
				return true
			}
		case *hcmv3.HttpFilter:
			if m.GetConfigDiscovery() != nil {
				m.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: resource(t, r, extensions, m.Name, &corev3.TypedExtensionConfig{}).TypedConfig}
				return true
			}
		case *hcmv3.HttpConnectionManager:
			if name := m.GetRds().GetRouteConfigName(); name != "" {
				m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: resource(t, r, routes, name, &routev3.RouteConfiguration{})}
				return true
			}
		case *tlsv3.CommonTlsContext:
			return inline(t, r, ca, m)
		}
		return false
	})
	return b
}

// inline puts certificates and names in the place of the secrets that c names.
func inline(tb testing.TB, r *snapshot.Resources, ca *authority, c *tlsv3.CommonTlsContext) bool {
	tb.Helper()
	if len(c.TlsCertificateSdsSecretConfigs) == 0 {
		return false
	}
	for _, s := range c.TlsCertificateSdsSecretConfigs {
		service, ok := strings.CutPrefix(s.Name, "leaf/")
		if !ok {
			tb.Fatalf("the certificate is the secret %q", s.Name)
		}
		c.TlsCertificates = append(c.TlsCertificates, ca.leaf(service))
	}
	c.TlsCertificateSdsSecretConfigs = nil
	root := &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: ca.root.PEM()}}
	switch v := c.ValidationContextType.(type) {
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: root, MatchTypedSubjectAltNames: names(tb, r, v.ValidationContextSdsSecretConfig.Name),
		}}
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		both := v.CombinedValidationContext.DefaultValidationContext
		both.TrustedCa = root
		both.MatchTypedSubjectAltNames = append(both.MatchTypedSubjectAltNames, names(tb, r, v.CombinedValidationContext.ValidationContextSdsSecretConfig.Name)...)
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: both}
	default:
		tb.Fatalf("validation context %T", v)
	}
	return true
}

// controlPlane is the cluster that the bootstrap has, without which filters that name it are
// refused.
func controlPlane(t testing.TB) *clusterv3.Cluster {
	t.Helper()
	options, err := anypb.New(&upstreamhttpv3.HttpProtocolOptions{UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &clusterv3.Cluster{
		Name:                          identity.XDSCluster,
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
	}
}

// authority signs certificates for configurations.
type authority struct {
	t    testing.TB
	root *testca.Pair
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	return &authority{t, testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)}
}

// sign makes a certificate with these URI SANs, as DER, and its key.
func (a *authority) sign(change func(*x509.Certificate), uris ...string) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	change(template)
	return testca.SignDER(a.t, template, a.root)
}

// signService makes the certificate of a service.
func (a *authority) signService(service string) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	return a.sign(func(*x509.Certificate) {}, "spiffe://"+trustDomain+"/ns/default/dc/dc1/svc/"+service)
}

// leaf is what the secret leaf/<service> holds.
func (a *authority) leaf(service string) *tlsv3.TlsCertificate {
	a.t.Helper()
	der, key := a.signService(service)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	text := func(kind string, b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))}}
	}
	return &tlsv3.TlsCertificate{CertificateChain: text("CERTIFICATE", der), PrivateKey: text("PRIVATE KEY", pkcs8)}
}
