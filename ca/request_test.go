package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// requestOf is a request in PEM.
func requestOf(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func onCurve(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const webURI = "spiffe://" + testDomain + "/ns/default/dc/dc1/svc/web"

// TestSignRequest: the leaf has the key of the request, and is the same as any other but for it.
func TestSignRequest(t *testing.T) {
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour})
	t.Cleanup(func() { mustClose(t, c) })
	issuer, web := issuerOf(t, c), service(c.TrustDomain(), "web")
	p256 := onCurve(t, elliptic.P256())
	java := requestOf(t, p256, &x509.CertificateRequest{ExtraExtensions: testca.Extension(t, subjectKeyID, []byte{1, 2})})
	for name, tt := range map[string]struct {
		key     crypto.Signer
		request []byte
	}{
		"P-256":        {p256, requestOf(t, p256, &x509.CertificateRequest{})},
		"its own URI":  {p256, requestOf(t, p256, &x509.CertificateRequest{URIs: testca.URIs(t, webURI)})},
		"a subject":    {p256, requestOf(t, p256, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "db"}})},
		"Java's":       {p256, []byte(strings.ReplaceAll(string(java), "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"))},
		"no CA":        {p256, requestOf(t, p256, &x509.CertificateRequest{ExtraExtensions: testca.Extension(t, basicConstraints, struct{}{})})},
		"usage":        {p256, requestOf(t, p256, &x509.CertificateRequest{ExtraExtensions: testca.Extension(t, keyUsage, asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3})})},
		"server usage": {p256, requestOf(t, p256, &x509.CertificateRequest{ExtraExtensions: testca.Extension(t, extendedKeyUsage, []asn1.ObjectIdentifier{serverAuth})})},
	} {
		mustSign(t, issuer, name, tt.key, tt.request)
	}
	for name, key := range map[string]crypto.Signer{"P-384": onCurve(t, elliptic.P384()), "RSA": rsaKey(t, 2048)} {
		mustSign(t, issuer, name, key, requestOf(t, key, &x509.CertificateRequest{}))
	}

	foreign := web
	foreign.TrustDomain = c.TrustDomain()
	foreign.Service = "a b"
	if _, err := issuer.SignRequest(t.Context(), java, foreign); err == nil || errors.Is(err, ErrRequest) {
		t.Errorf("a name that no SPIFFE ID has: %v", err)
	}
}

// mustSign demands that a request is signed.
func mustSign(t *testing.T, issuer *Issuer, name string, key crypto.Signer, request []byte) {
	t.Helper()
	td := issuer.cfg.TrustDomain
	chain, err := issuer.SignRequest(t.Context(), request, service(td, "web"))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	leaf := chain[0]
	if id, err := x509svid.IDFromCert(leaf); err != nil || id.String() != webURI {
		t.Errorf("%s: leaf of %v (%v)", name, id, err)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		t.Errorf("%s: the leaf has another key", name)
	}
	ours, _, err := issuer.issue(t.Context(), service(td, "web").ID())
	if err != nil {
		t.Fatal(err)
	}
	ids := func(c *x509.Certificate) (all []string) {
		for _, e := range c.Extensions {
			all = append(all, e.Id.String())
		}
		return all
	}
	if like := ours.Certificates[0]; leaf.IsCA || leaf.KeyUsage != like.KeyUsage || !slices.Equal(ids(leaf), ids(like)) || len(leaf.Subject.Names) > 0 || len(leaf.DNSNames) > 0 {
		t.Errorf("%s: extensions %v, usage %v, subject %q; of our own %v, %v", name, ids(leaf), leaf.KeyUsage, leaf.Subject, ids(like), like.KeyUsage)
	}
	if _, _, err := x509svid.Verify(chain, bundleOf(issuer.cfg.Provider.(*CA))); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// TestRefusedRequest: S19, and what else asks for more than a leaf.
func TestRefusedRequest(t *testing.T) {
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour})
	t.Cleanup(func() { mustClose(t, c) })
	issuer, web := issuerOf(t, c), service(c.TrustDomain(), "web")
	key := onCurve(t, elliptic.P256())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(template x509.CertificateRequest) []byte { return requestOf(t, key, &template) }
	good := request(x509.CertificateRequest{})
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	forged := func() []byte {
		block, _ := pem.Decode(good)
		block.Bytes[len(block.Bytes)-1] ^= 1
		return pem.EncodeToMemory(block)
	}
	otherName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{6, 1, 42, 0xa0, 2, 5, 0}}
	uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(webURI)}
	for name, tt := range map[string]struct {
		request []byte
		want    string
	}{
		"two URIs":                {request(x509.CertificateRequest{URIs: testca.URIs(t, webURI, webURI)}), "alone"},
		"another service's":       {request(x509.CertificateRequest{URIs: testca.URIs(t, strings.Replace(webURI, "web", "db", 1))}), "URI:" + webURI + " alone"},
		"another trust domain's":  {request(x509.CertificateRequest{URIs: testca.URIs(t, strings.Replace(webURI, "1111", "2222", 1))}), "alone"},
		"letter case":             {request(x509.CertificateRequest{URIs: testca.URIs(t, strings.Replace(webURI, "web", "WEB", 1))}), "alone"},
		"a DNS name":              {request(x509.CertificateRequest{URIs: testca.URIs(t, webURI), DNSNames: []string{"db"}}), "alone"},
		"a DNS name alone":        {request(x509.CertificateRequest{DNSNames: []string{"db"}}), "alone"},
		"an address":              {request(x509.CertificateRequest{URIs: testca.URIs(t, webURI), IPAddresses: []net.IP{{127, 0, 0, 1}}}), "alone"},
		"a mail address":          {request(x509.CertificateRequest{URIs: testca.URIs(t, webURI), EmailAddresses: []string{"a@b"}}), "alone"},
		"a name Go does not read": {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, subjectAltName, []asn1.RawValue{uri, otherName})}), "alone"},
		"CA":                      {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, basicConstraints, struct{ CA bool }{true})}), "CA's certificate"},
		"junk constraints":        {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, basicConstraints, 1)}), "CA's certificate"},
		"certSign":                {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, keyUsage, asn1.BitString{Bytes: []byte{4}, BitLength: 6})}), "sign certificates"},
		"crlSign":                 {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, keyUsage, asn1.BitString{Bytes: []byte{2}, BitLength: 7})}), "sign certificates"},
		"code signing":            {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, extendedKeyUsage, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}})}), "extended key usages"},
		"an extension":            {request(x509.CertificateRequest{ExtraExtensions: testca.Extension(t, asn1.ObjectIdentifier{2, 5, 29, 30}, 1)}), "2.5.29.30"},
		"P-224":                   {requestOf(t, onCurve(t, elliptic.P224()), &x509.CertificateRequest{}), "P-224"},
		"P-521":                   {requestOf(t, onCurve(t, elliptic.P521()), &x509.CertificateRequest{}), "P-521"},
		"Ed25519":                 {requestOf(t, edwards, &x509.CertificateRequest{}), "ed25519"},
		"RSA 1024":                {requestOf(t, rsaKey(t, 1024), &x509.CertificateRequest{}), "1024 bits"},
		"forged":                  {forged(), "signature"},
		"a private key":           {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), "private key came with it"},
		"a private key after":     {append(slices.Clone(good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), "private key came with it"},
		"two":                     {append(slices.Clone(good), good...), "one at a time"},
		"a certificate":           {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootOf(c).Raw}), `is a "CERTIFICATE"`},
		"no PEM":                  {[]byte("x"), "is not in PEM"},
		"nothing":                 {nil, "is not in PEM"},
		"junk":                    {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1, 2}}), "cannot be read"},
		"1 MB":                    {append(slices.Clone(good), make([]byte, 1<<20)...), "more than"},
	} {
		chain, err := issuer.SignRequest(t.Context(), tt.request, web)
		if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), tt.want) || chain != nil {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
