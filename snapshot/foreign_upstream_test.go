package snapshot_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestEnvoyDialsItsOwnDomainAlone: an upstream's server is verified with the roots of its own trust domain and no others, in the mesh
// and beyond it; and with nobody's where the bundle is not known. Why not with the validator that callers are verified with: an
// upstream has no rules behind it, and a second name would be believed.
func TestEnvoyDialsItsOwnDomainAlone(t *testing.T) {
	b := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "B"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			a := newAuthority(t)
			binary, dir := envoytest.Binary(t, version), socketDir(t)
			const unknown = identity.ID("spiffe://td-c.example/x")
			validated := identity.NewName("validated") // its server is verified as callers are, which is not made
			api, other := serviceURI("api"), "spiffe://td-b.example/ns/prod/sa/other"
			rows := []struct {
				dials identity.ID // empty: the service api, or validated if by is to have signed a name of it
				by    *testca.Pair
				uris  []string
				want  bool
			}{
				{foreignID, b, []string{string(foreignID)}, true},
				{foreignID, b, []string{other}, false},
				{foreignID, a.root, []string{string(foreignID)}, false},
				{foreignID, a.root, []string{api, string(foreignID)}, false},
				{"", a.root, []string{api}, true},
				{"", b, []string{api}, false},
				{"", b, []string{other, api}, false},
				{"", b, []string{api, other}, false},
				{unknown, b, []string{string(unknown)}, false},
				{unknown, a.root, []string{string(unknown)}, false},
				{"", a.root, []string{serviceURI(validated.Service)}, true},
				{"", b, []string{serviceURI(validated.Service)}, false},
				{"", b, []string{serviceURI(validated.Service), other}, false},
				{"", b, []string{other, serviceURI(validated.Service)}, true},
			}
			proxy := &catalog.Proxy{ID: "web-sidecar-proxy", Service: identity.NewName("web"), Origin: "web.hcl:1", Inbound: catalog.Inbound{Address: "127.0.0.1", Port: freePort(t), LocalPort: 1}}
			view := &catalog.ProxyView{
				Mesh: &catalog.Mesh{
					TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Federated: []spiffeid.TrustDomain{tdB}, Datacenter: "dc1", Datacenters: []string{"dc1"},
				},
				Proxy: proxy, Policy: compile("web", intention.Deny),
			}
			for _, row := range rows {
				u := catalog.Upstream{BindAddress: "127.0.0.1", BindPort: freePort(t), Origin: "web.hcl:2"}
				address := shows(t, row.by, row.uris...)
				e := catalog.Endpoint{Address: address.Addr().String(), Port: address.Port(), Weight: 1, Healthy: true}
				s := catalog.Target{Service: &catalog.Service{}, Endpoints: &catalog.Endpoints{List: []catalog.Endpoint{e}}}
				if row.dials != "" {
					u.Foreign, u.Address, u.Port = row.dials, e.Address, e.Port
				} else {
					u.Destination = identity.NewName("api")
					if slices.Contains(row.uris, serviceURI(validated.Service)) {
						u.Destination = validated
					}
					u.ConnectTimeout = time.Second + time.Duration(len(proxy.Upstreams))*time.Millisecond // so that each has a cluster of its own
					s.Service.Name, s.Endpoints.Name = u.Destination, u.Destination
				}
				proxy.Upstreams, view.Upstreams = append(proxy.Upstreams, u), append(view.Upstreams, s)
			}
			r := build(t, snapshot.Input{Envoy: features, ProxyView: view})
			var cache snapshot.Cache
			config := static(t, r, a)
			change(t, config, func(m proto.Message) bool {
				c, ok := m.(*tlsv3.UpstreamTlsContext)
				if !ok {
					return false
				}
				context := c.GetCommonTlsContext().GetValidationContext()
				dialled := identity.ID(context.GetMatchTypedSubjectAltNames()[0].GetMatcher().GetExact())
				td := dialled.TrustDomain()
				if dialled == identity.ID(serviceURI(validated.Service)) {
					both := &tlsv3.SPIFFECertValidatorConfig{TrustBundles: trustBundles(t, map[string]*x509.Certificate{trustDomain: a.root.Cert, tdB.Name(): b.Cert})}
					packed, err := anypb.New(both)
					if err != nil {
						t.Fatal(err)
					}
					context.TrustedCa, context.MaxVerifyDepth = nil, nil
					context.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: packed}
					return true
				}
				if td.Name() == trustDomain {
					return false
				}
				if c.GetSni() != "" {
					t.Errorf("%s is asked for as %s", dialled, c.GetSni())
				}
				var others []snapshot.Trust
				if td == tdB {
					others = []snapshot.Trust{{TrustDomain: tdB, Roots: b.PEM()}}
				}
				for _, s := range r.Secrets {
					if s.TrustDomain != td {
						continue
					}
					rendered, err := cache.Validation(s, snapshot.Trust{TrustDomain: view.Mesh.TrustDomain, Roots: a.root.PEM(), Depth: 3}, others...)
					secret := &tlsv3.Secret{}
					if err != nil || rendered.GetResource().UnmarshalTo(secret) != nil {
						t.Fatal(err)
					}
					roots := secret.GetValidationContext()
					if len(roots.GetMatchTypedSubjectAltNames()) > 0 {
						t.Error("roots with a list of their own")
					}
					context.TrustedCa, context.VerifyCertificateHash, context.MaxVerifyDepth = roots.GetTrustedCa(), roots.GetVerifyCertificateHash(), roots.GetMaxVerifyDepth()
				}
				return true
			})
			start(t, binary, dir, config)
			for i, row := range rows {
				status := 0
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", proxy.Upstreams[i].BindPort))
				if err == nil {
					status, _, _ = roundTrip(c, "/")
					c.Close()
				}
				if got := status == http.StatusOK; got != row.want {
					t.Errorf("%s, shown %v by %s: reached = %t, want %t", proxy.Upstreams[i].Name(), row.uris, row.by.Cert.Subject, got, row.want)
				}
			}
		})
	}
}

// shows runs a server that shows this certificate until the test ends.
func shows(t *testing.T, by *testca.Pair, uris ...string) netip.AddrPort {
	t.Helper()
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, key := testca.SignDER(t, template, by)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// freePort is a port of 127.0.0.1 on which nobody listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}
