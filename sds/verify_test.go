package sds_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestRefusedLeafs: what is not as it should be is never served, and the one before stays.
func TestRefusedLeafs(t *testing.T) {
	foreign := spiffeid.RequireTrustDomainFromString("evil.example")
	for _, tt := range []struct {
		name string
		make func(t *testing.T, p *pki) *sds.SVID
		want string
	}{
		{"nil", func(*testing.T, *pki) *sds.SVID { return nil }, "no certificate"},
		{"no certificate", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.Certificates = nil
			return s
		}, "no certificate"},
		{"a nil certificate", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.Certificates[0] = nil
			return s
		}, "no certificate"},
		{"a nil intermediate", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.Certificates[1] = nil
			return s
		}, "an intermediate certificate is missing"},
		{"no key", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.PrivateKey = nil
			return s
		}, "no private key"},
		{"a key that cannot be written", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.PrivateKey = struct{ crypto.Signer }{s.PrivateKey}
			return s
		}, "a private key of type struct { crypto.Signer } cannot be handed to Envoy"},
		{"another key", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.PrivateKey = p.root.Key
			return s
		}, "the private key is another certificate's"},
		{
			"another service", func(t *testing.T, p *pki) *sds.SVID { t.Helper(); return p.leaf(t, "db", nil) },
			`it is the certificate of \"spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/db\"`,
		},
		{"another trust domain", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) {
				c.URIs = []*url.URL{identity.Service{TrustDomain: foreign, Datacenter: "dc1", Name: identity.NewName("web")}.ID().URL()}
			})
		}, `it is the certificate of \"spiffe://evil.example/ns/default/dc/dc1/svc/web\"`},
		{"no URI", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.DNSNames = []string{c.URIs[0].String()}; c.URIs = nil })
		}, "0 URI SANs, want one"},
		{"two URIs, ours first", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.URIs = append(c.URIs, service("db").ID().URL()) })
		}, "2 URI SANs, want one"},
		{"two URIs, ours second", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.URIs = []*url.URL{service("db").ID().URL(), c.URIs[0]} })
		}, "2 URI SANs, want one"},
		{"a CA's", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.IsCA = true })
		}, "it is a CA's certificate"},
		{"signs certificates", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
		}, "it is a CA's certificate"},
		{"signs revocations", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })
		}, "it is a CA's certificate"},
		{"a short key", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.CreateCertificate(rand.Reader, s.Certificates[0], p.intermediate.Cert, key.Public(), p.intermediate.Key)
			if err != nil {
				t.Fatal(err)
			}
			if s.Certificates[0], err = x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			s.PrivateKey = key
			return s
		}, "an RSA key of 1024 bits, want 2048 or more"},
		{"no digitalSignature", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })
		}, "the key usage digitalSignature is missing"},
		{"no key usage", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage = 0 })
		}, "the key usage digitalSignature is missing"},
		{"server only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}, "the extended key usage client authentication is missing"},
		{"client only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, "the extended key usage server authentication is missing"},
		{"intermediate for clients only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			narrow := *p
			narrow.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}, p.root)
			return narrow.leaf(t, "web", nil)
		}, "as a server: x509: certificate specifies an incompatible key usage"},
		{"intermediate for servers only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			narrow := *p
			narrow.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}, p.root)
			return narrow.leaf(t, "web", nil)
		}, "as a client: x509: certificate specifies an incompatible key usage"},
		{"expired", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
		}, "as a server: x509: certificate has expired or is not yet valid"},
		{"intermediate expired", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			old := *p
			old.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(-time.Second),
			}, p.root)
			return old.leaf(t, "web", nil)
		}, "as a server: x509: certificate has expired or is not yet valid"},
		{"no intermediate", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.Certificates = s.Certificates[:1]
			return s
		}, "as a server: x509: certificate signed by unknown authority"},
		{
			"another CA", func(t *testing.T, _ *pki) *sds.SVID { t.Helper(); return newPKI(t).leaf(t, "web", nil) },
			"as a server: x509: certificate signed by unknown authority",
		},
		{"its own root in the chain", func(t *testing.T, _ *pki) *sds.SVID {
			t.Helper()
			other := newPKI(t)
			s := other.leaf(t, "web", nil)
			s.Certificates = append(s.Certificates, other.root.Cert)
			return s
		}, "as a server: x509: certificate signed by unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, p := start(t), newPKI(t)
				defer f.stop()
				f.source.giveRoots(t, bundle(p))
				var woken counter
				l := f.Watch(identity.Caller{}, service("web"), woken.wake)
				defer l.Close()
				bad := tt.make(t, p)
				f.source.give(t, "web", bad)
				if l.SVID() != nil || woken.count() != 0 {
					t.Error("it was served")
				}
				good := p.leaf(t, "web", nil)
				f.source.give(t, "web", good)
				if l.SVID() != good {
					t.Fatal("a good leaf after a bad one was not served")
				}
				f.source.give(t, "web", bad)
				if l.SVID() != good || woken.count() != 1 {
					t.Error("a bad leaf took a good one's place")
				}
				time.Sleep(time.Hour / 2)
				if n := f.rejected(t, "leaf"); n != 2 {
					t.Errorf("%v leafs counted as refused, want 2", n)
				}
				if log := f.log.String(); strings.Count(log, "leaf refused") != 2 || !strings.Contains(log, tt.want) {
					t.Errorf("log\n%swant two lines with %s", log, tt.want)
				}
			})
		})
	}
}

func TestInvalidIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := start(t), newPKI(t)
		defer f.stop()
		f.source.giveRoots(t, bundle(p))
		other := identity.Service{TrustDomain: spiffeid.RequireTrustDomainFromString("evil.example"), Datacenter: "dc1", Name: identity.NewName("b")}
		a, b := f.Watch(identity.Caller{}, service("a/b"), nil), f.Watch(identity.Caller{}, other, nil)
		defer a.Close()
		defer b.Close()
		f.source.give(t, "a/b", p.leaf(t, "web", nil))
		f.source.give(t, "b", p.leaf(t, "b", func(c *x509.Certificate) { c.URIs = []*url.URL{other.ID().URL()} }))
		if a.SVID() != nil || b.SVID() != nil {
			t.Error("a leaf was served")
		}
		for _, want := range []string{"not a valid identity", "no roots of the trust domain evil.example, only of 11111111-2222-3333-4444-555555555555.consul"} {
			if !strings.Contains(f.log.String(), want) {
				t.Errorf("log\n%swant %s", f.log, want)
			}
		}
	})
}
