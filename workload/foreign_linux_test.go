package workload_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/workload"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
)

var foreignDomain = spiffeid.RequireTrustDomainFromString("td-b.example")

// foreign is the trust domain td-b.example in a directory.
type foreign struct {
	*bundle.Store
	dir string
}

func openForeign(t *testing.T) *foreign {
	t.Helper()
	f := &foreign{dir: t.TempDir()}
	var err error
	f.Store, err = bundle.Open(bundle.Config{Dir: f.dir, Data: t.TempDir(), Own: func() (spiffeid.TrustDomain, bool) { return domain, true }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

// say has the trust domain have those roots and keys.
func (f *foreign) say(t *testing.T, keys map[string]crypto.PublicKey, roots ...*testca.Pair) {
	t.Helper()
	b := spiffebundle.FromJWTAuthorities(foreignDomain, keys)
	for _, r := range roots {
		b.AddX509Authority(r.Cert)
	}
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct{ name, text string }{{"b.json", string(text)}, {"b.yaml", "trust_domain: td-b.example\nbundle: b.json\n"}} {
		if err := os.WriteFile(filepath.Join(f.dir, file.name), []byte(file.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Reload()
}

func foreignRoot(t *testing.T) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "td-b"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
}

// TestForeignBundles: those of other trust domains reach processes with their leafs, as bundles, and as keys of JWT-SVIDs, and are
// followed; no leaf is given anew for it.
func TestForeignBundles(t *testing.T) {
	f := openForeign(t)
	h := start(t, time.Hour, func(cfg *workload.Config) { cfg.Foreign = f.Sets() })
	h.publish(instance("web", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	client := h.client(t, webUID)
	api := workloadpb.NewSpiffeWorkloadAPIClient(client)
	svids := fetch(t, client)
	bundles, err := api.FetchX509Bundles(asked(t), &workloadpb.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := api.FetchJWTBundles(asked(t), &workloadpb.JWTBundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var leaf []byte
	want := func(der ...byte) {
		t.Helper()
		m, err := svids.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if leaf == nil {
			leaf = m.GetSvids()[0].GetX509Svid()
		}
		if got := m.GetFederatedBundles()[foreignDomain.IDString()]; string(got) != string(der) || string(leaf) != string(m.GetSvids()[0].GetX509Svid()) {
			t.Errorf("%d bytes of a federated bundle, want %d; or another leaf", len(got), len(der))
		}
		b, err := bundles.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := b.GetBundles(); string(got[foreignDomain.IDString()]) != string(der) || len(got[domain.IDString()]) == 0 {
			t.Errorf("%d bundles", len(got))
		}
	}
	want()
	if _, err := keys.Recv(); err != nil {
		t.Fatal(err)
	}
	first, second := foreignRoot(t), foreignRoot(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.say(t, map[string]crypto.PublicKey{"k": key.Public()}, first)
	want(first.Cert.Raw...)
	switch m, err := keys.Recv(); {
	case err != nil:
		t.Fatal(err)
	case !strings.Contains(string(m.GetBundles()[foreignDomain.IDString()]), `"kid":"k"`) || m.GetBundles()[domain.IDString()] == nil:
		t.Errorf("%s", m.GetBundles())
	}
	checkForeignJWT(t, api, key)
	checkForeignSecrets(t, h, first)
	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.socket), workloadapi.WithDialOptions(h.dialOptions(webUID)...)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, id := range []string{"spiffe://td-b.example/x", uri("web")} {
		u, _ := url.Parse(id)
		stranger := testca.Sign(t, &x509.Certificate{URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature}, first)
		if _, _, err := x509svid.Verify([]*x509.Certificate{stranger.Cert}, source); (err == nil) != strings.HasPrefix(id, "spiffe://td-b") {
			t.Errorf("%s by the CA of td-b.example: %v", id, err)
		}
	}
	f.say(t, nil, second)
	want(second.Cert.Raw...)
	if m, err := keys.Recv(); err != nil || m.GetBundles()[foreignDomain.IDString()] != nil {
		t.Errorf("%v, %v", m, err)
	}
	if err := os.Remove(filepath.Join(f.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	want()
}

// TestOwnBundleFromElsewhere: beside Consul a file may define the mesh's own trust domain before anybody knows that it is the own one.
// Processes are given the mesh's own roots and keys all the same, and those alone.
func TestOwnBundleFromElsewhere(t *testing.T) {
	dir, stranger := t.TempDir(), foreignRoot(t)
	for name, text := range map[string]string{"own.pem": stranger.PEM(), "own.yaml": "trust_domain: " + domain.Name() + "\nbundle: own.pem\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := bundle.Open(bundle.Config{Dir: dir, Data: t.TempDir(), Own: func() (td spiffeid.TrustDomain, ok bool) { return td, false }})
	if err != nil {
		t.Fatal(err)
	}
	if set, _ := store.Sets().Load(); set.Of(domain) == nil {
		t.Fatal("the test shows nothing: the file is not taken")
	}
	h := start(t, time.Hour, func(cfg *workload.Config) { cfg.Foreign = store.Sets() })
	h.publish(instance("web", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	client := h.client(t, webUID)
	m, err := fetch(t, client).Recv()
	if err != nil || len(m.GetFederatedBundles()) != 0 {
		t.Errorf("bundles beside the mesh's own: %v, %v", m.GetFederatedBundles(), err)
	}
	bundles, err := workloadpb.NewSpiffeWorkloadAPIClient(client).FetchX509Bundles(asked(t), &workloadpb.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Recv()
	if got := b.GetBundles()[domain.IDString()]; err != nil || len(got) == 0 || string(got) == string(stranger.Cert.Raw) || len(b.GetBundles()) != 1 {
		t.Errorf("%d bundles, %d bytes of the mesh's own: %v", len(b.GetBundles()), len(got), err)
	}
	sds, err := secretv3.NewSecretDiscoveryServiceClient(client).FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ALL"}, TypeUrl: secretType})
	if err != nil {
		t.Fatal(err)
	}
	config := &tlsv3.SPIFFECertValidatorConfig{}
	if err := secretsOf(t, sds.GetResources())["ALL"].GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(config); err != nil || len(config.GetTrustDomains()) != 1 {
		t.Errorf("Envoy is told of %v: %v", config.GetTrustDomains(), err)
	}
}

// checkForeignJWT: a JWT-SVID of the other trust domain is good by its key; one that says to be of ours is not.
func checkForeignJWT(t *testing.T, api workloadpb.SpiffeWorkloadAPIClient, key *ecdsa.PrivateKey) {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[string]codes.Code{"spiffe://td-b.example/ns/prod/sa/x": codes.OK, uri("web"): codes.InvalidArgument, "spiffe://td-c.example/x": codes.InvalidArgument} {
		text, err := jwt.Signed(signer).Claims(jwt.Claims{Subject: subject, Audience: []string{"mail"}, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute))}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.ValidateJWTSVID(asked(t), &workloadpb.ValidateJWTSVIDRequest{Audience: "mail", Svid: text})
		wantStatus(t, err, want)
	}
}

// checkForeignSecrets: Envoy is told the roots of each trust domain apart, or the mesh's own alone.
func checkForeignSecrets(t *testing.T, h *harness, root *testca.Pair) {
	t.Helper()
	sds := secretv3.NewSecretDiscoveryServiceClient(h.client(t, webUID))
	for name, want := range map[string][]string{"ALL": {domain.Name(), foreignDomain.Name()}, "ROOTCA": {domain.Name()}, foreignDomain.IDString(): {foreignDomain.Name()}} {
		r, err := sds.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{name}, TypeUrl: secretType})
		if err != nil {
			t.Fatal(err)
		}
		config := &tlsv3.SPIFFECertValidatorConfig{}
		if err := secretsOf(t, r.GetResources())[name].GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(config); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range config.GetTrustDomains() {
			got = append(got, d.GetName())
			if foreign := string(d.GetTrustBundle().GetInlineBytes()) == root.PEM(); foreign != (d.GetName() == foreignDomain.Name()) {
				t.Errorf("%s: the roots of td-b.example under %s: %t", name, d.GetName(), foreign)
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
