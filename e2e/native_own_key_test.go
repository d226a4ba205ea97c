//go:build e2e

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// signed is a leaf of the application for a key of its own.
func (a *application) signed(key crypto.Signer) *tls.Certificate {
	a.api.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		a.api.t.Fatal(err)
	}
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	request := map[string]string{"CSR": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}
	if err := a.api.ask(http.MethodPost, "/v1/sallyport/leaf/"+a.name, a.token, request, &leaf); err != nil {
		a.api.t.Fatal(err)
	}
	if leaf.PrivateKeyPEM != "" {
		a.api.t.Error("the answer has a key")
	}
	out := &tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(leaf.CertPEM)); block != nil; block, rest = pem.Decode(rest) {
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	return out
}

// TestNativeOwnKey: sidecars take native applications with keys of their own, of every kind that is signed, as servers and as clients.
func TestNativeOwnKey(t *testing.T) { //nolint:tparallel // as TestNative
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsa4096, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"P-256": p256, "P-384": p384, "RSA 2048": rsa2048, "RSA 4096": rsa4096}
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			port := m.Port()
			m.Write("native-mail.hcl", fmt.Sprintf("service {\n  name = \"mail\"\n  address = \"127.0.0.1\"\n  port = %d\n  connect { native = true }\n}\n", port))
			m.Intend("mail", meshtest.Intentions{"web": "allow"})
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"mail"}})
			m.Intend("db", meshtest.Intentions{"mail": "allow"})
			m.Serve()
			m.Sidecars("web", "db")
			mail := newApplication(apiOf(t, m), "mail")
			mail.echo(port)
			for kind, key := range keys {
				mail.leaf.Store(mail.signed(key))
				meshtest.Await(t, "web reaches mail with a key "+kind, func() error {
					return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "mail"), "hello"))
				})
				meshtest.Await(t, "mail reaches db with a key "+kind, func() error {
					return wantAllowed(mail.client(m, "db").Echo(m.Public("db"), "hello"))
				})
			}
			if out := m.MustRun("leaf", "list", "mail"); strings.Count(out, "mail") < len(keys) {
				t.Errorf("the record has\n%s", out)
			}
		})
	}
}
