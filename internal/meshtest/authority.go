package meshtest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
)

// Authority signs certificates that no mesh would issue.
type Authority struct {
	Certificate *x509.Certificate
	// Chain are the certificates that a leaf is sent with, behind it.
	Chain [][]byte
	// Roots verify what it signed.
	Roots *x509.CertPool
	key   *ecdsa.PrivateKey
}

// ForeignAuthority makes a CA that no mesh knows, for a trust domain.
func ForeignAuthority(t testing.TB, trustDomain string) *Authority {
	t.Helper()
	root := testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "foreign"}, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore: time.Now().Add(-time.Hour), IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil)
	roots := x509.NewCertPool()
	roots.AddCert(root.Cert)
	return &Authority{Certificate: root.Cert, Roots: roots, key: root.Key}
}

// LeafSpec says what a certificate says. The zero LeafSpec has no name and is valid for an hour.
type LeafSpec struct {
	// URIs and DNS are the subject alternative names, in this order.
	URIs, DNS []string
	// CommonName is the subject's.
	CommonName string
	// NotBefore and NotAfter are offsets from now; zero: a minute ago, in an hour.
	NotBefore, NotAfter time.Duration
	// CA makes it a CA's certificate.
	CA bool
	// Change changes the rest; nil: nothing.
	Change func(*x509.Certificate)
	// Bits are those of its key, which is of RSA then; 0: P-256.
	Bits int
}

// Issue makes a certificate and its key.
func (a *Authority) Issue(t testing.TB, s LeafSpec) *tls.Certificate {
	t.Helper()
	if s.NotBefore == 0 {
		s.NotBefore = -time.Minute
	}
	if s.NotAfter == 0 {
		s.NotAfter = time.Hour
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: s.CommonName}, DNSNames: s.DNS,
		NotBefore: time.Now().Add(s.NotBefore), NotAfter: time.Now().Add(s.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if s.CA {
		template.IsCA = true
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	for _, u := range s.URIs {
		uri, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	if s.Change != nil {
		s.Change(template)
	}
	leaf, key := testca.SignDER(t, template, &testca.Pair{Cert: a.Certificate, Key: a.key}) // names may be none
	cert := &tls.Certificate{Certificate: append([][]byte{leaf}, a.Chain...), PrivateKey: key}
	if s.Bits > 0 {
		key, err := rsa.GenerateKey(rand.Reader, s.Bits)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Certificate[0], err = x509.CreateCertificate(rand.Reader, template, a.Certificate, key.Public(), a.key); err != nil {
			t.Fatal(err)
		}
		cert.PrivateKey = key
	}
	return cert
}

// Under is the CA that a leaf of a is, should whoever has it sign with it.
func (a *Authority) Under(t testing.TB, leaf *tls.Certificate) *Authority {
	t.Helper()
	cert, err := x509.ParseCertificate(leaf.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{Certificate: cert, Chain: leaf.Certificate, Roots: a.Roots, key: leaf.PrivateKey.(*ecdsa.PrivateKey)}
}

// ECKey is a new private key in SEC1's PEM, as Consul's CA takes it.
func ECKey(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(testca.Sign(t, &x509.Certificate{}, nil).Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// Authority is the mesh's own CA, with the intermediate that signs leafs: what a test needs to make
// certificates that verify and say what no leaf of the mesh would. The control plane must have run.
func (m *Mesh) Authority() *Authority {
	m.t.Helper()
	root, _ := m.readCA("root.pem")
	intermediate, key := m.readCA("intermediate.pem")
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &Authority{Certificate: intermediate, Chain: [][]byte{intermediate.Raw}, Roots: roots, key: key}
}

// Root is the certificate and the key of the mesh's own CA. The control plane must have run.
func (m *Mesh) Root() (*x509.Certificate, *ecdsa.PrivateKey) {
	m.t.Helper()
	return m.readCA("root.pem")
}

func (m *Mesh) readCA(name string) (cert *x509.Certificate, key *ecdsa.PrivateKey) {
	m.t.Helper()
	path := filepath.Join(m.Data, "ca", name)
	rest, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch {
		case b.Type == "CERTIFICATE" && cert == nil:
			cert, err = x509.ParseCertificate(b.Bytes)
		case b.Type == "PRIVATE KEY" && key == nil:
			var k any
			if k, err = x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
				key = k.(*ecdsa.PrivateKey)
			}
		}
		if err != nil {
			m.t.Fatalf("%s: %v", path, err)
		}
	}
	if cert == nil || key == nil {
		m.t.Fatalf("%s: no certificate or no key", path)
	}
	return cert, key
}

// URI is the SPIFFE ID of a service of the mesh.
func (m *Mesh) URI(service string) string {
	m.t.Helper()
	s := m.Status()
	return "spiffe://" + s.TrustDomain + "/ns/default/dc/" + s.Datacenter + "/svc/" + service
}

// Client is a client with a certificate of the mesh's CA for a service, which accepts nobody but
// server.
func (m *Mesh) Client(service, server string) Client {
	m.t.Helper()
	ca := m.Authority()
	return Client{Certificate: ca.Issue(m.t, LeafSpec{URIs: []string{m.URI(service)}}), Roots: ca.Roots, Server: m.URI(server)}
}
