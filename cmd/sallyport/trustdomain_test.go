package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// otherTrustDomain is a --trust-domains with td-b.example, from a file with one root and the sequence number 7.
func otherTrustDomain(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	b := spiffebundle.New(spiffeid.RequireTrustDomainFromString("td-b.example"))
	b.AddX509Authority(otherRoot(t))
	b.SetSequenceNumber(7)
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"b.json": string(text), "b.yaml": "trust_domain: td-b.example\nbundle: b.json\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func otherRoot(t *testing.T) *x509.Certificate {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root of td-b"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).Cert
}

// TestBundleCommands: what the commands say of the mesh's bundle is what go-spiffe fetches from its endpoint; a bundle of another trust
// domain is shown, imported and refused.
func TestBundleCommands(t *testing.T) {
	var ports meshtest.Ports
	port, err := ports.Next()
	if err != nil {
		t.Fatal(err)
	}
	domains := otherTrustDomain(t)
	away := "trust_domain: td-c.example\nendpoint: {url: 'https://127.0.0.1:1', profile: https_spiffe, spiffe_id: 'spiffe://td-c.example/spire/server'}\n"
	writeText(t, filepath.Join(domains, "c.yaml"), away)
	writeText(t, filepath.Join(domains, "bad.yaml"), "trust_domain: td-d.example\n")
	client, dir := startServe(t, "--trust-domain", "td-a.example", "--trust-domains", domains, "--bundle-address", fmt.Sprintf("127.0.0.1:%d", port))
	run := func(args ...string) string {
		t.Helper()
		out, err := command(t, append(args, "--runtime-dir", filepath.Join(dir, "rt"))...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out
	}
	for end := time.Now().Add(awaitDeadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := client.BundleEndpoint(t.Context()); err == nil { // the roots are known
			break
		}
	}
	var e admin.BundleEndpoint
	if err := json.Unmarshal([]byte(run("bundle", "endpoint", "--json")), &e); err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString(e.TrustDomain)
	shown, err := spiffebundle.Parse(td, []byte(run("bundle", "show")))
	if err != nil {
		t.Fatal(err)
	}
	trusted := federation.WithSPIFFEAuth(x509bundle.FromX509Authorities(td, shown.X509Authorities()), spiffeid.RequireFromString(e.SPIFFEID))
	var fetched *spiffebundle.Bundle
	for end := time.Now().Add(awaitDeadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if fetched, err = federation.FetchBundle(t.Context(), td, e.URL, trusted); err == nil {
			break
		}
	}
	if err != nil || !fetched.Equal(shown) || len(shown.JWTAuthorities()) != 1 {
		t.Errorf("%v; fetched is not what is shown", err)
	}
	for _, want := range []string{"profile: https_spiffe", "endpoint_spiffe_id = \"spiffe://td-a.example/sallyport/bundle\"", fmt.Sprintf("https://127.0.0.1:%d", port)} {
		if text := run("bundle", "endpoint"); !strings.Contains(text, want) {
			t.Errorf("%s: no %q", text, want)
		}
	}
	if pem := run("bundle", "show", "--trust-domain", "td-b.example", "--format", "pem"); !strings.HasPrefix(pem, "-----BEGIN CERTIFICATE-----") {
		t.Error(pem)
	}
	file := filepath.Join(dir, "c.pem")
	writeText(t, file, testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root of td-c"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).PEM())
	if text := run("bundle", "import", "--dry-run", "td-c.example", file); !strings.Contains(text, "would be") || !strings.Contains(text, "+ CN=root of td-c") {
		t.Error(text)
	}
	if _, err := command(t, "bundle", "show", "--trust-domain", "td-c.example", "--runtime-dir", filepath.Join(dir, "rt")); err == nil || !strings.Contains(err.Error(), "there is no bundle of td-c.example") {
		t.Errorf("after a dry run: %v", err)
	}
	run("bundle", "import", "td-c.example", file)
	if text := run("bundle", "import", "td-c.example", file); !strings.Contains(text, "is now this one") || !strings.Contains(text, "    CN=root of td-c") {
		t.Error(text)
	}
	if _, err := command(t, "bundle", "import", "td-b.example", file, "--runtime-dir", filepath.Join(dir, "rt")); err == nil || !strings.Contains(err.Error(), "b.json: replace that") {
		t.Errorf("%v", err)
	}
	text := run("status")
	for _, want := range []string{"other trust domain: 1 root of td-b.example, from a file", "other trust domain: 1 root of td-c.example, https_spiffe", "trust domain not taken", "neither bundle nor endpoint"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("%s: no %q", text, want)
		}
	}
}
