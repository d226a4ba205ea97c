package bundle_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/certpath"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestSPIRE: the bundle of a real SPIRE server is taken as it prints it, and its leafs verify with it, each as whom it names
// (testdata/spire, by hack/spire-testdata.sh; `make test-spire` asks a living one).
func TestSPIRE(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("td-b.example")
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/spire/bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"b.json": string(text), "b.yaml": "trust_domain: td-b.example\nbundle: b.json\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := func() (spiffeid.TrustDomain, bool) {
		return spiffeid.RequireTrustDomainFromString("td-a.example"), true
	}
	store, err := bundle.Open(bundle.Config{Dir: dir, Data: t.TempDir(), Own: own})
	if err != nil {
		t.Fatal(err)
	}
	status, problems := store.Status()
	if len(status) != 1 || len(problems) > 0 || status[0].Problem != "" || status[0].Stale || status[0].Roots != 1 {
		t.Fatalf("status %+v, problems %v", status, problems)
	}
	if n, ok := status[0].Document.Sequence(); !ok || n != 1 {
		t.Errorf("sequence number %d, %t", n, ok)
	}
	set, _ := store.Sets().Load()
	b := set.Of(td)
	if b == nil || b.JWTKeys == nil {
		t.Fatalf("bundle %+v, want roots and keys of JWT-SVIDs", b)
	}
	var roots []*x509.Certificate
	for _, r := range b.Roots.List() {
		roots = append(roots, r.Certificate)
	}
	for _, name := range []string{"billing", "other"} {
		file := filepath.Join("testdata", "spire", name+".pem")
		leaf, err := tls.LoadX509KeyPair(file, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"billing", "other"} {
			id := spiffeid.RequireFromPath(td, "/ns/prod/sa/"+want)
			err := certpath.VerifyChain([]*x509.Certificate{leaf.Leaf}, roots, certpath.Wanted{ID: id, Key: leaf.Leaf.PublicKey, Now: time.Now()})
			if (err == nil) != (name == want) {
				t.Errorf("the leaf of %s as %s: %v", name, id, err)
			}
		}
	}
}
