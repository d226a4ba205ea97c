package sds_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"slices"
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
		}, "a certificate of its chain is missing"},
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
			"its subject alternative name is not URI:spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web alone",
		},
		{"another trust domain", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) {
				c.URIs = []*url.URL{identity.Service{TrustDomain: foreign, Datacenter: "dc1", Name: identity.NewName("web")}.ID().URL()}
			})
		}, "its subject alternative name is not URI:"},
		{"no URI", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.DNSNames = []string{c.URIs[0].String()}; c.URIs = nil })
		}, "its subject alternative name is not URI:"},
		{"two URIs, ours first", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.URIs = append(c.URIs, service("db").ID().URL()) })
		}, "its subject alternative name is not URI:"},
		{"two URIs, ours second", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.URIs = []*url.URL{service("db").ID().URL(), c.URIs[0]} })
		}, "its subject alternative name is not URI:"},
		{"a CA's", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.IsCA = true })
		}, "it may sign certificates"},
		{"signs certificates", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })
		}, "it may sign certificates"},
		{"signs revocations", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })
		}, "it may sign certificates"},
		{"a short key", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			return p.leafOfKey(t, key, err)
		}, "its RSA key has 1024 bits"},
		{"a key that no handshake of Envoys works with", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return p.leafOfKey(t, key, err)
		}, "its key is a ed25519.PublicKey"},
		{"another one", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			return p.leafOfKey(t, key, err)
		}, "its key is on P-521"},
		{"an intermediate that may have no other below it", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			upper := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "upper"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true}, p.root)
			below := &pki{p.root, testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "lower"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, upper)}
			s := below.leaf(t, "web", nil)
			s.Certificates = append(s.Certificates, upper.Cert)
			return s
		}, "its path length is 0"},
		{"an intermediate of other names", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			narrow := &pki{p.root, testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, PermittedURIDomains: []string{"evil.example"},
			}, p.root)}
			return narrow.leaf(t, "web", nil)
		}, "its name constraints do not let it sign for"},
		{"no digitalSignature", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })
		}, "it lacks the key usage digitalSignature"},
		{"no key usage", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.KeyUsage = 0 })
		}, "it lacks the key usage digitalSignature"},
		{"server only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}, "it lacks an extended key usage"},
		{"client only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, "it lacks an extended key usage"},
		{"intermediate for clients only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			narrow := *p
			narrow.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}, p.root)
			return narrow.leaf(t, "web", nil)
		}, "its extended key usages are not serverAuth and clientAuth"},
		{"intermediate for servers only", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			narrow := *p
			narrow.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}, p.root)
			return narrow.leaf(t, "web", nil)
		}, "its extended key usages are not serverAuth and clientAuth"},
		{"expired", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			return p.leaf(t, "web", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
		}, "expired at"},
		{"intermediate expired", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			old := *p
			old.intermediate = testca.Sign(t, &x509.Certificate{
				Subject: p.intermediate.Cert.Subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(-time.Second),
			}, p.root)
			return old.leaf(t, "web", nil)
		}, "expired at"},
		{"no intermediate", func(t *testing.T, p *pki) *sds.SVID {
			t.Helper()
			s := p.leaf(t, "web", nil)
			s.Certificates = s.Certificates[:1]
			return s
		}, "is neither among the roots nor does it come with it"},
		{
			"another CA", func(t *testing.T, _ *pki) *sds.SVID { t.Helper(); return newPKI(t).leaf(t, "web", nil) },
			"is neither among the roots nor does it come with it",
		},
		{"its own root in the chain", func(t *testing.T, _ *pki) *sds.SVID {
			t.Helper()
			other := newPKI(t)
			s := other.leaf(t, "web", nil)
			s.Certificates = append(s.Certificates, other.root.Cert)
			return s
		}, "is neither among the roots nor does it come with it"},
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

// leafOfKey is a leaf of web for key.
func (p *pki) leafOfKey(t *testing.T, key crypto.Signer, err error) *sds.SVID {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := p.leaf(t, "web", nil)
	der, err := x509.CreateCertificate(rand.Reader, s.Certificates[0], p.intermediate.Cert, key.Public(), p.intermediate.Key)
	if err != nil {
		t.Fatal(err)
	}
	if s.Certificates[0], err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.PrivateKey = key
	return s
}

// TestForeignChains: whatever form a chain comes in from Consul's CA and those behind it, Vault among them, what is served is the form that
// every proxy accepts, those too that have not been told of the new root.
func TestForeignChains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newPKI(t), newPKI(t)
		// The next root has a name of its own, as those of CAs have, and the old one signs it.
		next.root = testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "next"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(100 * time.Hour)}, nil)
		next.intermediate = testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "next intermediate"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, next.root)
		crossDER, err := x509.CreateCertificate(rand.Reader, next.root.Cert, old.root.Cert, next.root.Key.Public(), old.root.Key)
		if err != nil {
			t.Fatal(err)
		}
		cross, err := x509.ParseCertificate(crossDER)
		if err != nil {
			t.Fatal(err)
		}
		direct := &pki{old.root, old.root}
		in, above := old.intermediate.Cert, next.intermediate.Cert
		for _, tt := range []struct {
			name        string
			by          *pki
			comes, want []*x509.Certificate // after the leaf
		}{
			{"by the root, as in Consul's primary datacenter", direct, nil, nil},
			{"the same with its root", direct, []*x509.Certificate{old.root.Cert}, nil},
			{"by an intermediate", old, []*x509.Certificate{in}, []*x509.Certificate{in}},
			{"twice, as Consul appends Vault's", old, []*x509.Certificate{in, in}, []*x509.Certificate{in}},
			{"with the root, as Vault's ca_chain", old, []*x509.Certificate{in, old.root.Cert}, []*x509.Certificate{in}},
			{"a rotation's", next, []*x509.Certificate{above, cross}, []*x509.Certificate{above, cross}},
			{"the same with both forms of the root", next, []*x509.Certificate{above, next.root.Cert, cross}, []*x509.Certificate{above, cross}},
			{"and in another order", next, []*x509.Certificate{cross, next.root.Cert, above}, []*x509.Certificate{above, cross}},
		} {
			f := start(t)
			f.source.giveRoots(t, bundle(old)) // not told of the new one
			l := f.Watch(identity.Caller{}, service("web"), nil)
			s := tt.by.leaf(t, "web", nil)
			s.Certificates = append(s.Certificates[:1:1], tt.comes...)
			f.source.give(t, "web", s)
			if got := l.SVID(); got == nil || !slices.EqualFunc(got.Certificates[1:], tt.want, (*x509.Certificate).Equal) || got.PrivateKey != s.PrivateKey {
				t.Errorf("%s: served: %t\n%s", tt.name, got != nil, f.log)
			}
			f.source.give(t, "web", s)
			if n := f.rejected(t, "leaf"); n != 0 {
				t.Errorf("%s: %v refused", tt.name, n)
			}
			l.Close()
			f.stop()
		}
	})
}

// TestRootWithoutUsages: OpenSSL makes roots without key usages, which users give to Consul.
func TestRootWithoutUsages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t)
		defer f.stop()
		p := &pki{root: testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true}, nil)}
		p.intermediate = p.root
		f.source.giveRoots(t, bundle(p))
		l := f.Watch(identity.Caller{}, service("web"), nil)
		defer l.Close()
		s := p.leaf(t, "web", nil)
		s.Certificates = s.Certificates[:1]
		if f.source.give(t, "web", s); l.SVID() != s {
			t.Errorf("not served\n%s", f.log)
		}
	})
}
