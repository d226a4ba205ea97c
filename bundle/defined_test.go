package bundle_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A directory is read without a Store, with all that is wrong with it.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	past := testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "past"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
	}, nil)
	for name, text := range map[string]string{
		"b.yaml": "trust_domain: td-b.example\nbundle: b.pem\n", "b.pem": root.PEM(),
		"a.yaml":     "trust_domain: td-a.example\nendpoint: {url: 'https://x/', profile: https_web}\n",
		"gone.yaml":  "trust_domain: td-c.example\nbundle: none.pem\n",
		"wrong.yaml": "trust_domain: td-d.example\nendpoint: {url: 'http://x/', profile: https_web}\n",
		"past.yaml":  "trust_domain: td-e.example\nbundle: past.pem\n", "past.pem": past.PEM(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, mistakes := bundle.Read(dir)
	if len(all) != 2 || all[0].TrustDomain.Name() != "td-a.example" || all[0].Roots != nil || all[1].TrustDomain.Name() != "td-b.example" || len(all[1].Roots) != 1 ||
		all[1].File != filepath.Join(dir, "b.yaml") {
		t.Errorf("defined: %+v", all)
	}
	var texts []string
	for _, m := range mistakes {
		texts = append(texts, m.Error())
	}
	got := strings.Join(texts, "\n")
	for _, want := range []string{"wrong.yaml:2: url: ", "gone.yaml: bundle: ", "past.yaml: bundle: ", "can be used now"} {
		if !strings.Contains(got, want) || len(mistakes) != 3 {
			t.Errorf("mistakes:\n%s\nwant %q, of 3", got, want)
		}
	}
	if _, mistakes := bundle.Read(filepath.Join(dir, "none")); len(mistakes) != 1 {
		t.Errorf("a directory that is not there: %v", mistakes)
	}
}

// Two certificates of one key are one signer, whatever else is in them.
func TestSharedKeys(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString
	ca := func(name string) *testca.Pair {
		return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	}
	a, b, c := ca("a"), ca("b"), ca("c")
	again := testca.SignKey(t, &x509.Certificate{Subject: pkix.Name{CommonName: "another name"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, a.Key, nil)
	roots := map[spiffeid.TrustDomain][]*x509.Certificate{
		td("td-a.example"): {a.Cert, again.Cert}, td("td-b.example"): {b.Cert, again.Cert, a.Cert}, td("td-c.example"): {c.Cert},
	}
	shared := bundle.SharedKeys(roots)
	if len(shared) != 1 || shared[0].A.Name() != "td-a.example" || shared[0].B.Name() != "td-b.example" || !strings.Contains(shared[0].String(), `CN=a`) {
		t.Errorf("shared: %v", shared)
	}
	delete(roots, td("td-b.example"))
	if shared := bundle.SharedKeys(roots); shared != nil {
		t.Errorf("of one trust domain: %v", shared)
	}
}
