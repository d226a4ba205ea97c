package snapshot_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func exact(names ...string) [][]byte {
	if len(names) == 0 {
		return nil
	}
	m := &tlsv3.CertificateValidationContext{}
	for _, n := range names {
		m.MatchTypedSubjectAltNames = append(m.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "spiffe://mesh.test/" + n}},
		})
	}
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}

// secretOf reads a resource back.
func secretOf(t testing.TB, r *discoveryv3.Resource) *tlsv3.Secret {
	t.Helper()
	s := &tlsv3.Secret{}
	if err := proto.Unmarshal(r.GetResource().GetValue(), s); err != nil {
		t.Fatal(err)
	}
	if want := "type.googleapis.com/" + string(s.ProtoReflect().Descriptor().FullName()); r.GetResource().GetTypeUrl() != want {
		t.Fatalf("type URL %q, want %q", r.GetResource().GetTypeUrl(), want)
	}
	return s
}

func inlineText(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}

func TestLeafSecret(t *testing.T) {
	var cache snapshot.Cache
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{{Raw: []byte("leaf")}, {Raw: []byte("intermediate")}}
	secret := snapshot.Secret{Name: "leaf/web"}
	r, err := cache.Leaf(secret, chain, key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	want := &tlsv3.Secret{Name: "leaf/web", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inlineText(text("CERTIFICATE", chain[0].Raw) + text("CERTIFICATE", chain[1].Raw)),
		PrivateKey:       inlineText(text("PRIVATE KEY", der)),
	}}}
	if diff := cmp.Diff(want, secretOf(t, r), protocmp.Transform()); diff != "" || r.GetName() != "leaf/web" || r.GetVersion() == "" {
		t.Errorf("resource %s, version %q (-want +got):\n%s", r.GetName(), r.GetVersion(), diff)
	}
	if again, err := cache.Leaf(secret, chain, key); err != nil || again != r {
		t.Errorf("the same leaf gave another resource: %v", err)
	}
	next, err := cache.Leaf(secret, []*x509.Certificate{{Raw: []byte("next")}}, key)
	if err != nil || next == r || next.GetVersion() == r.GetVersion() {
		t.Errorf("another leaf gave the same resource: %v", err)
	}
	runtime.KeepAlive(r)
	if _, err := cache.Leaf(secret, nil, key); err == nil || err.Error() != "secret leaf/web: no certificate" {
		t.Errorf("error %v without a certificate", err)
	}
	other := struct{ crypto.Signer }{key}
	if _, err := cache.Leaf(secret, []*x509.Certificate{{}}, other); err == nil || strings.Contains(err.Error(), key.X.String()) {
		t.Errorf("error %v of a key that cannot be written", err)
	}
}

func TestValidation(t *testing.T) {
	var cache snapshot.Cache
	roots := snapshot.Trust{Roots: "-----BEGIN CERTIFICATE-----\n"}
	secret := snapshot.Secret{Name: "peers/db", Peers: exact("web", "api"), Version: "v1"}
	r, err := cache.Validation(secret, roots)
	if err != nil {
		t.Fatal(err)
	}
	want := &tlsv3.Secret{Name: "peers/db", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: inlineText(roots.Roots), MatchTypedSubjectAltNames: sans(t, secret),
	}}}
	if diff := cmp.Diff(want, secretOf(t, r), protocmp.Transform()); diff != "" || r.GetName() != "peers/db" {
		t.Errorf("resource %s (-want +got):\n%s", r.GetName(), diff)
	}
	var fresh snapshot.Cache
	if other, err := fresh.Validation(secret, roots); err != nil || other.GetVersion() != r.GetVersion() {
		t.Errorf("version %q after a restart, %q before (%v)", other.GetVersion(), r.GetVersion(), err)
	}
	equal := secret
	equal.Peers = exact("web", "api")
	if again, err := cache.Validation(equal, roots); err != nil || again != r {
		t.Errorf("the same name and version gave another resource: %v", err)
	}
	if other, err := cache.Validation(snapshot.Secret{Name: "peers/db", Peers: exact("web"), Version: "v2"}, roots); err != nil || other.GetVersion() == r.GetVersion() {
		t.Errorf("another version gave the same resource: %v", err)
	}
	if other, err := cache.Validation(secret, snapshot.Trust{Roots: "others"}); err != nil || other.GetVersion() == r.GetVersion() {
		t.Errorf("other roots gave the same resource: %v", err)
	}
	bounded, err := cache.Validation(secret, snapshot.Trust{Roots: roots.Roots, Depth: 2})
	if err != nil || secretOf(t, bounded).GetValidationContext().GetMaxVerifyDepth().GetValue() != 2 {
		t.Errorf("a bounded chain: %v, %v", bounded, err)
	}
	all, err := cache.Validation(snapshot.Secret{Name: identity.RootsSecret, Version: "v0"}, roots)
	if err != nil || secretOf(t, all).GetValidationContext().GetTrustedCa().GetInlineString() != roots.Roots {
		t.Errorf("roots: %v", err)
	}
	runtime.KeepAlive(r)
}

func TestValidationErrors(t *testing.T) {
	for _, tt := range []struct {
		name, roots string
		secret      snapshot.Secret
		want        string
	}{
		{"nobody named", "r", snapshot.Secret{Name: "peers/web", Version: "v"}, `validation context "peers/web": an empty list of peers would let in everybody`},
		{"an empty list", "r", snapshot.Secret{Name: "identities", Version: "v", Peers: exact()}, `validation context "identities": an empty list of peers would let in everybody`},
		{"no roots", "", snapshot.Secret{Name: "peers/web", Version: "v", Peers: exact("a")}, `validation context "peers/web": no roots`},
		{"no name", "r", snapshot.Secret{Version: "v"}, `validation context "": an empty list of peers would let in everybody`},
		{"no version", "r", snapshot.Secret{Name: "peers/web", Peers: exact("a")}, `validation context "peers/web": no version`},
		{"roots with a list", "r", snapshot.Secret{Name: identity.RootsSecret, Version: "v", Peers: exact("a")}, `validation context "roots": its users say who passes, so it has no list of its own`},
	} {
		var cache snapshot.Cache
		if r, err := cache.Validation(tt.secret, snapshot.Trust{Roots: tt.roots}); r != nil || err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: Validation() = %v, %v, want error %s", tt.name, r, err, tt.want)
		}
	}
}

func TestValidationConcurrently(t *testing.T) {
	var cache snapshot.Cache
	var all sync.WaitGroup
	got := make([]*discoveryv3.Resource, 64)
	for i := range got {
		all.Go(func() {
			r, err := cache.Validation(snapshot.Secret{Name: fmt.Sprintf("peers/%d", i%4), Peers: exact("web"), Version: "v"}, snapshot.Trust{Roots: "r"})
			if err != nil {
				t.Error(err)
			}
			got[i] = r
		})
	}
	all.Wait()
	for i, r := range got {
		if r != got[i%4] {
			t.Fatalf("peers/%d was made twice", i%4)
		}
	}
}
