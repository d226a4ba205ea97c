package snapshot_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
)

// TestEnvoyIsGivenOtherValidators: what a handshake would be that was given the roots of two trust domains otherwise than it is. These facts
// are why packer.context gives each domain once, its roots in PEM, and a list of names always; and why bundles have self-signed roots alone.
func TestEnvoyIsGivenOtherValidators(t *testing.T) {
	a := newAuthority(t)
	b := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "B"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	rows := certificates(t, a.root, b)
	named := func(name string) presented {
		for _, r := range rows {
			if r.name == name {
				return r
			}
		}
		t.Fatalf("no certificate %q", name)
		return presented{}
	}
	own, foreign, other := named("A/web by A"), named("B/foreign by B"), named("B/other by B")
	text := func(s string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
	}
	type given struct {
		name     string
		change   func(*testing.T, *tlsv3.CertificateValidationContext, *tlsv3.SPIFFECertValidatorConfig)
		nack     string // in what Envoy says; empty: it takes it
		own      bool   // is let in, as the next two
		foreign  bool
		unlisted bool
	}
	all := []given{
		{"as it is given", func(*testing.T, *tlsv3.CertificateValidationContext, *tlsv3.SPIFFECertValidatorConfig) {}, "", true, true, false},
		{"a domain twice", func(_ *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains = append(v.TrustDomains, v.TrustDomains[1])
		}, "Multiple trust bundles", false, false, false},
		{"an empty bundle", func(_ *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains[1].TrustBundle = text("")
		}, "Failed to load trusted CA certificate", false, false, false},
		{"a bundle of junk", func(_ *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains[1].TrustBundle = text("junk")
		}, "Failed to load trusted CA certificate", false, false, false},
		{"trust_bundles of junk", func(_ *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains, v.TrustBundles = nil, text("{")
		}, "Invalid JSON", false, false, false},
		{"trust_bundles of B beside trust_domains, which are ignored", func(t *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			t.Helper()
			v.TrustBundles = trustBundles(t, map[string]*x509.Certificate{tdB.Name(): b.Cert})
		}, "", false, true, false},
		{"trusted_ca beside the validator, which is ignored", func(_ *testing.T, c *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains = v.TrustDomains[:1]
			c.TrustedCa = text(a.root.PEM() + b.PEM())
		}, "", true, false, false},
		{"no list of names", func(_ *testing.T, c *tlsv3.CertificateValidationContext, _ *tlsv3.SPIFFECertValidatorConfig) {
			c.MatchTypedSubjectAltNames = nil
		}, "", true, true, true},
		{"an intermediate as the only anchor", func(_ *testing.T, _ *tlsv3.CertificateValidationContext, v *tlsv3.SPIFFECertValidatorConfig) {
			v.TrustDomains[1].TrustBundle = text(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign.chain.Certificate[1]})))
		}, "", true, false, false},
		{"an intermediate as the only anchor, in one pool", func(_ *testing.T, c *tlsv3.CertificateValidationContext, _ *tlsv3.SPIFFECertValidatorConfig) {
			c.CustomValidatorConfig = nil
			c.TrustedCa = text(a.root.PEM() + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign.chain.Certificate[1]})))
		}, "", true, true, false},
	}
	policy := catalogtest.Policy(identity.NewName("api"), federated(), federatedScope(intention.Deny))
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			binary, dir := envoytest.Binary(t, version), socketDir(t)
			app := filepath.Join(dir, "app")
			serve(t, app)
			config := &bootstrapv3.Bootstrap{}
			for n, g := range all {
				input := input(policy, catalog.Inbound{LocalSocket: app})
				input.Mesh.Federated, input.Envoy = federatedScope(intention.Deny).Federated, features
				s := withRoots(t, build(t, input), a, snapshot.Trust{TrustDomain: tdB, Roots: b.PEM()})
				withoutRules(t, s)
				change(t, s, func(m proto.Message) bool {
					c, ok := m.(*tlsv3.CertificateValidationContext)
					if !ok {
						return false
					}
					v := &tlsv3.SPIFFECertValidatorConfig{}
					if err := c.GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(v); err != nil {
						t.Fatal(err)
					}
					g.change(t, c, v)
					if custom := c.GetCustomValidatorConfig(); custom != nil {
						if err := custom.GetTypedConfig().MarshalFrom(v); err != nil {
							t.Fatal(err)
						}
					}
					return true
				})
				if g.nack != "" {
					if err := envoytest.Validate(t, version, s); err == nil || !strings.Contains(err.Error(), g.nack) {
						t.Errorf("%s: %v, want %q", g.name, err, g.nack)
					}
					continue
				}
				l := s.StaticResources.Listeners[0]
				l.Name = filepath.Join(dir, strconv.Itoa(n))
				l.Address = pipe(l.Name)
				s.StaticResources.Listeners = append(config.GetStaticResources().GetListeners(), l)
				config = s
			}
			start(t, binary, dir, config)
			for n, g := range all {
				for _, row := range []struct {
					presented
					want bool
				}{{own, g.own}, {foreign, g.foreign}, {other, g.unlisted}} {
					if g.nack != "" {
						continue
					}
					if got, err := ask(filepath.Join(dir, strconv.Itoa(n)), row.chain); err != nil || got != row.want {
						t.Errorf("%s: %s: let in = %t (%v), want %t", g.name, row.name, got, err, row.want)
					}
				}
			}
		})
	}
}
