package snapshot_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
)

// TestEnvoyTakesSPIRE: leafs of a real SPIRE server (bundle/testdata/spire) are let in as whom an intention names, and what its CA could sign
// besides, for the mesh's own names, is not.
func TestEnvoyTakesSPIRE(t *testing.T) {
	const dir, billing, other = "../bundle/testdata/spire", "spiffe://td-b.example/ns/prod/sa/billing", "spiffe://td-b.example/ns/prod/sa/other"
	stored, err := spiffebundle.Load(tdB, filepath.Join(dir, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	minted := func(name string) *tls.Certificate {
		file := filepath.Join(dir, name+".pem")
		c, err := tls.LoadX509KeyPair(file, file)
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	text, err := os.ReadFile(filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	spire := &testca.Pair{Cert: stored.X509Authorities()[0], Key: key.(*ecdsa.PrivateKey)}
	signed := func(by *testca.Pair, uris ...string) *tls.Certificate {
		template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, parsed)
		}
		der, key := testca.SignDER(t, template, by)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	a, api := newAuthority(t), identity.NewName("api")
	policy := catalogtest.Policy(api, []intention.Intention{
		{Source: intention.Source{Name: identity.NewName("web")}, Destination: api, Action: intention.Allow},
		{Source: intention.Source{ID: billing}, Destination: api, Action: intention.Allow},
	}, federatedScope(intention.Deny))
	rows := []struct {
		name  string
		chain *tls.Certificate
		want  bool
	}{
		{"billing", minted("billing"), true},
		{"other", minted("other"), false},
		{"web of the mesh", signed(a.root, serviceURI("web")), true},
		{"billing, by the mesh's CA", signed(a.root, billing), false},
		{"web of the mesh, by SPIRE's CA", signed(spire, serviceURI("web")), false},
		{"other and web, by SPIRE's CA", signed(spire, other, serviceURI("web")), false},
		{"billing and web, by SPIRE's CA", signed(spire, billing, serviceURI("web")), false},
		{"billing, by SPIRE's CA", signed(spire, billing), true},
	}
	for version, features := range map[string]snapshot.Features{envoytest.Oldest: oldest, envoytest.Newest: newest} {
		t.Run(version, func(t *testing.T) {
			binary, dir := envoytest.Binary(t, version), socketDir(t)
			app := filepath.Join(dir, "app")
			serve(t, app)
			config := &bootstrapv3.Bootstrap{}
			protocols := []catalog.Protocol{catalog.TCP, catalog.HTTP}
			for n, protocol := range protocols {
				input := input(policy, catalog.Inbound{Protocol: protocol, LocalSocket: app})
				input.Mesh.Federated, input.Envoy = federatedScope(intention.Deny).Federated, features
				s := withRoots(t, build(t, input), a, snapshot.Trust{TrustDomain: tdB, Roots: spire.PEM()})
				l := s.StaticResources.Listeners[0]
				l.Name = filepath.Join(dir, strconv.Itoa(n))
				l.Address = pipe(l.Name)
				s.StaticResources.Listeners = append(config.GetStaticResources().GetListeners(), l)
				config = s
			}
			start(t, binary, dir, config)
			for n, protocol := range protocols {
				for _, row := range rows {
					if got, err := ask(filepath.Join(dir, strconv.Itoa(n)), row.chain); err != nil || got != row.want {
						t.Errorf("%s, %s: let in = %t (%v), want %t", protocol, row.name, got, err, row.want)
					}
				}
			}
		})
	}
}
