package certpath

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
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// verifyTime is when the chains of these tests are verified.
var verifyTime = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// testKeys are made once: RSA keys take long.
var testKeys = sync.OnceValues(func() (map[string]crypto.Signer, error) {
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{
		"leaf": elliptic.P256(), "int1": elliptic.P256(), "int2": elliptic.P256(), "root1": elliptic.P256(), "root2": elliptic.P256(), "other": elliptic.P256(),
		"P-224": elliptic.P224(), "P-384": elliptic.P384(), "P-521": elliptic.P521(),
	} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return nil, err
		}
		keys[name] = key
	}
	for name, bits := range map[string]int{"RSA 1024": 1024, "RSA 2048": 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		keys[name] = key
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	keys["Ed25519"] = key
	return keys, err
})

// pki makes the certificates of a rotation. edit has, by "subject by signer", what is changed of one; keys which key of testKeys a subject
// has if not that of its name.
type pki struct {
	t    testing.TB
	edit map[string]func(*x509.Certificate)
	keys map[string]string
	now  time.Time // zero: verifyTime
}

func (p *pki) key(name string) crypto.Signer {
	keys, err := testKeys()
	if err != nil {
		p.t.Fatal(err)
	}
	if other := p.keys[name]; other != "" {
		name = other
	}
	return keys[name]
}

// by is the certificate of subject that signer signed: of a CA, or of webURI if it is "leaf". Roots sign roots.
func (p *pki) by(subject, signer string) *x509.Certificate {
	p.t.Helper()
	now := p.now
	if now.IsZero() {
		now = verifyTime
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(1000*len(p.edit) + len(subject) + 100*len(signer))), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		Subject: pkix.Name{CommonName: subject}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: p.keyID(subject),
	}
	if subject == "leaf" {
		template.Subject, template.IsCA, template.KeyUsage = pkix.Name{}, false, x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		template.NotAfter, template.URIs, template.SubjectKeyId = now.Add(time.Hour), testca.URIs(p.t, webURI), nil
	}
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: signer}, SubjectKeyId: p.keyID(signer)}
	if edit := p.edit[subject+" by "+signer]; edit != nil {
		edit(template)
	}
	if len(template.AuthorityKeyId) > 0 { // CreateCertificate prefers the signer's
		parent.SubjectKeyId = template.AuthorityKeyId
	}
	if template.Issuer.CommonName != "" {
		parent.Subject = template.Issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, p.key(subject).Public(), p.key(signer))
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert
}

func (p *pki) keyID(name string) []byte {
	if other := p.keys[name]; other != "" {
		name = other
	}
	return []byte(name)
}

func wantWeb(t testing.TB, p *pki) Wanted {
	t.Helper()
	id, err := spiffeid.FromString(webURI)
	if err != nil {
		t.Fatal(err)
	}
	return Wanted{ID: id, Key: p.key("leaf").Public(), Now: verifyTime}
}

// rotationChains are the chains that were tried on Envoys 1.36.4 and 1.40.0, in both directions, plain and with the SPIFFE validator, and
// under which of rotationBundles they accepted them.
func rotationChains(p *pki) []rotationChain {
	leaf1, leaf2, int1, int2, cross := p.by("leaf", "int1"), p.by("leaf", "int2"), p.by("int1", "root1"), p.by("int2", "root2"), p.by("root2", "root1")
	return []rotationChain{
		{"old", []*x509.Certificate{leaf1, int1}, "yyy-"},
		{"new", []*x509.Certificate{leaf2, int2}, "-yyy"},
		{"cross-signed", []*x509.Certificate{leaf2, int2, cross}, "yyyy"},
		{"cross-signed first", []*x509.Certificate{leaf2, cross, int2}, "yyyy"},
		{"the new root before its cross-signed form", []*x509.Certificate{leaf2, int2, p.by("root2", "root2"), cross}, "-yyy"},
		{"the intermediate before its cross-signed form", []*x509.Certificate{leaf2, int2, p.by("int2", "root1")}, "-yyy"},
		{"the intermediate after its cross-signed form", []*x509.Certificate{leaf2, p.by("int2", "root1"), int2}, "yyy-"},
	}
}

type rotationChain struct {
	name    string
	chain   []*x509.Certificate
	accepts string // per bundle: y or -
}

// rotationBundles are old, old and new, new and old, new.
func rotationBundles(p *pki) [][]*x509.Certificate {
	root1, root2 := p.by("root1", "root1"), p.by("root2", "root2")
	return [][]*x509.Certificate{{root1}, {root1, root2}, {root2, root1}, {root2}}
}

// TestChainsOfRotation: what Envoys were seen to accept is what is found here. A root in a chain is refused always, as it is under one
// of the bundles.
func TestChainsOfRotation(t *testing.T) {
	p := &pki{t: t}
	for _, tt := range rotationChains(p) {
		var followed, verified strings.Builder
		for _, bundle := range rotationBundles(p) {
			path, own := follow(tt.chain, bundle)
			followed.WriteString(map[bool]string{true: "y", false: "-"}[own < len(path)])
			err := VerifyChain(tt.chain, bundle, wantWeb(t, p))
			verified.WriteString(map[bool]string{true: "y", false: "-"}[err == nil])
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
		}
		want := tt.accepts
		if slices.ContainsFunc(tt.chain, SelfSigned) {
			want = "----"
		}
		if diff := cmp.Diff([]string{tt.accepts, want}, []string{followed.String(), verified.String()}); diff != "" {
			t.Errorf("%s:\n%s", tt.name, diff)
		}
	}
}

// TestBundlesThatBite: an Envoy takes any of the roots that fit, so one that is bad is refused wherever it is; what does not fit is nothing.
func TestBundlesThatBite(t *testing.T) {
	p := &pki{t: t}
	chain := []*x509.Certificate{p.by("leaf", "int1"), p.by("int1", "root1")}
	root, leaf := p.by("root1", "root1"), p.by("leaf", "int2")
	ended := func(c *x509.Certificate) { c.NotAfter = verifyTime.Add(-time.Minute) }
	twin := (&pki{t: t, edit: map[string]func(*x509.Certificate){"root1 by root1": ended}}).by("root1", "root1")
	other := (&pki{t: t, edit: map[string]func(*x509.Certificate){"root2 by root2": ended}}).by("root2", "root2")
	namesake := (&pki{t: t, keys: map[string]string{"root1": "other"}}).by("root1", "root1")
	mute := (&pki{t: t, edit: map[string]func(*x509.Certificate){"root1 by root1": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }}}).by("root1", "root1")
	anonymous := func(c *x509.Certificate) { c.SubjectKeyId = []byte("root1") }
	impostor := (&pki{t: t, keys: map[string]string{"root1": "other"}, edit: map[string]func(*x509.Certificate){"root1 by root1": anonymous}}).by("root1", "root1")
	for _, tt := range []struct {
		name   string
		bundle []*x509.Certificate
		want   string // in the error; "": accepted
	}{
		{"one", []*x509.Certificate{root}, ""},
		{"an expired twin first", []*x509.Certificate{twin, root}, `root "CN=root1": expired at`},
		{"an expired twin last", []*x509.Certificate{root, twin}, `root "CN=root1": expired at`},
		{"an expired root of another key", []*x509.Certificate{other, root}, ""},
		{"a namesake of another key ID", []*x509.Certificate{namesake, root}, ""},
		{"a namesake of the same key ID", []*x509.Certificate{root, impostor}, `certificate 2 of 2 ("CN=int1"): the first that fits as its signer, "CN=root1", has not signed it`},
		{"a twin that may not sign", []*x509.Certificate{mute, root}, ""},
		{"twice", []*x509.Certificate{root, root}, ""},
		{"a leaf among them", []*x509.Certificate{leaf, root}, ""},
		{"the expired one alone", []*x509.Certificate{twin}, `root "CN=root1": expired at`},
		{"the intermediate alone", []*x509.Certificate{chain[1]}, ""}, // Bundle leaves it out where the SPIFFE validator is
		{"none", nil, `certificate 2 of 2 ("CN=int1"): its signer, "CN=root1", is neither among the roots nor`},
	} {
		err := VerifyChain(chain, tt.bundle, wantWeb(t, p))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		made, _ := Bundle(tt.bundle, false, verifyTime)
		if err := VerifyChain(chain, made, wantWeb(t, p)); (err == nil) != slices.ContainsFunc(made, func(c *x509.Certificate) bool { return c.Equal(root) || c.Equal(chain[1]) }) && !slices.ContainsFunc(made, impostor.Equal) {
			t.Errorf("%s: %v, by the bundle that is made of it", tt.name, err)
		}
	}
}

// changed is what is changed of a good chain of leaf, int2 and root2 by root1, and of the rest.
type changed struct {
	name   string
	of     string // of which certificate: "subject by signer"
	edit   func(*x509.Certificate)
	parsed func(chain []*x509.Certificate) []*x509.Certificate
	key    [2]string // whose key is which
	want   func(*Wanted)
	err    string // in the error; "": accepted
}

const (
	isLeaf  = `certificate 1 of 3 ("` + webURI + `"): `
	isInt   = `certificate 2 of 3 ("CN=int2"): `
	isCross = `certificate 3 of 3 ("CN=root2"): `
	isRoot  = `root "CN=root1": `
)

// criticalCRL has proxies look for revocations, or else refuse.
func criticalCRL(c *x509.Certificate) {
	value := append([]byte{0x30, 16, 0x30, 14, 0xa0, 12, 0xa0, 10, 0x86, 8}, "http://x"...)
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Critical: true, Value: value}}
}

func TestVerifyChain(t *testing.T) {
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	at := verifyTime.Add
	critical := func(id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: true, Value: []byte{5, 0}}}
	}
	otherName := []pkix.Extension{{Id: subjectAltName, Value: append([]byte{0x30, byte(2 + len(webURI) + 4), 0x86, byte(len(webURI))}, append([]byte(webURI), 0x88, 2, 42, 3)...)}}
	usage := func(u x509.KeyUsage) func(*x509.Certificate) { return func(c *x509.Certificate) { c.KeyUsage = u } }
	extended := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	pathLen := func(n int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
	}
	byName := func(issuer string, serial int64) []pkix.Extension { // an authority key identifier
		name, err := asn1.Marshal(pkix.Name{CommonName: issuer}.ToRDNSequence())
		if err != nil {
			t.Fatal(err)
		}
		return testca.Extension(t, authorityKeyID, struct {
			Issuer []asn1.RawValue `asn1:"tag:1"`
			Serial int64           `asn1:"tag:2"`
		}{[]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}}, serial})
	}
	permitted := func(domains ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, domains }
	}
	excluded := func(domains ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.ExcludedURIDomains = true, domains }
	}
	for _, tt := range []changed{
		{name: "nothing"},
		{name: "P-384", key: [2]string{"leaf", "P-384"}},
		{name: "RSA 2048", key: [2]string{"leaf", "RSA 2048"}},
		{name: "RSA 1024", key: [2]string{"leaf", "RSA 1024"}, err: isLeaf + "its RSA key has 1024 bits: take one of 2048"},
		{name: "Ed25519", key: [2]string{"leaf", "Ed25519"}, err: isLeaf + "its key is a ed25519.PublicKey"},
		{name: "P-521", key: [2]string{"leaf", "P-521"}, err: isLeaf + "its key is on P-521"},
		{name: "signed by Ed25519", key: [2]string{"int2", "Ed25519"}},
		{name: "signed by P-384", key: [2]string{"int2", "P-384"}},
		{name: "signed by P-521", key: [2]string{"int2", "P-521"}},
		{name: "signed by RSA 2048", key: [2]string{"int2", "RSA 2048"}},
		{name: "signed by RSA 1024", key: [2]string{"int2", "RSA 1024"}, err: isInt + "its RSA key has 1024 bits"},
		{name: "signed by P-224", key: [2]string{"int2", "P-224"}, err: isInt + "its key is none of P-256"},
		{name: "a root of RSA 1024", key: [2]string{"root1", "RSA 1024"}, err: isRoot + "its RSA key has 1024 bits"},
		{name: "another key's", want: func(w *Wanted) { w.Key = keys["other"].Public() }, err: isLeaf + "it is for another key than the request's"},
		{name: "any key", want: func(w *Wanted) { w.Key = nil }},

		{name: "another's", want: func(w *Wanted) { w.ID, _ = spiffeid.FromString(webURI + "2") }, err: isLeaf + "its subject alternative name is not URI:" + webURI + "2 alone"},
		{name: "two URIs", of: "leaf by int2", edit: func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, err: isLeaf + "its subject alternative name is not"},
		{name: "no URI", of: "leaf by int2", edit: func(c *x509.Certificate) { c.URIs, c.DNSNames, c.Subject.CommonName = nil, []string{"web"}, "web" }, err: `certificate 1 of 3 ("CN=web"): its subject alternative name is not`},
		{name: "DNS beside", of: "leaf by int2", edit: func(c *x509.Certificate) { c.DNSNames = []string{"web"} }, err: isLeaf + "its subject alternative name is not"},
		{name: "email beside", of: "leaf by int2", edit: func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }, err: isLeaf + "its subject alternative name is not"},
		{name: "a registered ID beside", of: "leaf by int2", edit: func(c *x509.Certificate) { c.ExtraExtensions = otherName }, err: isLeaf + "its subject alternative name is not"},
		{name: "a common name", of: "leaf by int2", edit: func(c *x509.Certificate) { c.Subject.CommonName = "web" }},

		{name: "SPIRE's usages", of: "leaf by int2", edit: usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement)},
		{name: "no digitalSignature", of: "leaf by int2", edit: usage(x509.KeyUsageKeyEncipherment), err: isLeaf + "it lacks the key usage digitalSignature"},
		{name: "no key usage", of: "leaf by int2", edit: usage(0), err: isLeaf + "it lacks the key usage digitalSignature"},
		{name: "keyCertSign", of: "leaf by int2", edit: usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign), err: isLeaf + "it may sign certificates"},
		{name: "cRLSign", of: "leaf by int2", edit: usage(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign), err: isLeaf + "it may sign certificates"},
		{name: "a leaf that is a CA's", of: "leaf by int2", edit: func(c *x509.Certificate) { c.IsCA = true }, err: isLeaf + "it may sign certificates"},
		{name: "no basic constraints", of: "leaf by int2", edit: func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		{name: "clientAuth alone", of: "leaf by int2", edit: extended(x509.ExtKeyUsageClientAuth), err: isLeaf + "it lacks an extended key usage"},
		{name: "serverAuth alone", of: "leaf by int2", edit: extended(x509.ExtKeyUsageServerAuth), err: isLeaf + "it lacks an extended key usage"},
		{name: "any extended key usage", of: "leaf by int2", edit: extended(x509.ExtKeyUsageAny), err: isLeaf + "it lacks an extended key usage"},
		{name: "none", of: "leaf by int2", edit: extended(), err: isLeaf + "it lacks an extended key usage"},
		{name: "a CA for both sides", of: "int2 by root2", edit: extended(x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth)},
		{name: "a CA for clients", of: "int2 by root2", edit: extended(x509.ExtKeyUsageClientAuth), err: isInt + "its extended key usages are not"},
		{name: "a CA for anything", of: "root2 by root1", edit: extended(x509.ExtKeyUsageAny), err: isCross + "its extended key usages are not"},
		{name: "a root for servers", of: "root1 by root1", edit: extended(x509.ExtKeyUsageServerAuth), err: isRoot + "its extended key usages are not"},
		{name: "an intermediate that is no CA", of: "int2 by root2", edit: func(c *x509.Certificate) { c.IsCA = false }, err: isInt + "it is not a CA's"},
		{name: "a CA without key usages", of: "int2 by root2", edit: usage(0), err: isInt + "it lacks the key usage keyCertSign"},
		{name: "a root without key usages", of: "root1 by root1", edit: usage(0)},
		{name: "a root with none", of: "root1 by root1", edit: func(c *x509.Certificate) {
			c.KeyUsage, c.ExtraExtensions = 0, testca.Extension(t, keyUsage, asn1.BitString{Bytes: []byte{0}, BitLength: 1})
		}, err: `its signer, "CN=root1", is neither among the roots`},
		{name: "a root that is no CA", of: "root1 by root1", edit: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }, err: isRoot + "it is not a CA's"},

		{name: "expired", of: "leaf by int2", edit: func(c *x509.Certificate) { c.NotAfter = verifyTime }, err: isLeaf + "expired at 2027-03-01T12:00:00Z: renew it"},
		{name: "not yet valid", of: "leaf by int2", edit: func(c *x509.Certificate) { c.NotBefore = at(time.Second) }, err: isLeaf + "valid only from 2027-03-01T12:00:01Z on: renew it, or compare the clocks"},
		{name: "an expired intermediate", of: "int2 by root2", edit: func(c *x509.Certificate) { c.NotAfter = verifyTime }, err: isInt + "expired at"},
		{name: "an expired cross-signature", of: "root2 by root1", edit: func(c *x509.Certificate) { c.NotAfter = verifyTime }, err: isCross + "expired at"},
		{name: "a root that is not valid yet", of: "root1 by root1", edit: func(c *x509.Certificate) { c.NotBefore = at(time.Second) }, err: isRoot + "valid only from"},
		{name: "as long as its signer", of: "int2 by root2", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Hour) }},
		{name: "outlives its signer", of: "int2 by root2", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Hour - time.Second) }, err: isInt + "it ends at 2027-03-01T12:59:59Z, before the leaf"},
		{name: "outlives the cross-signature", of: "root2 by root1", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Minute) }, err: isCross + "it ends at"},
		{name: "outlives the root", of: "root1 by root1", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Minute) }, err: isRoot + "it ends at"},

		{name: "outlives the root, and may", of: "root1 by root1", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Minute) }, want: func(w *Wanted) { w.Outlives = true }},
		{name: "outlives its signer, and may", of: "int2 by root2", edit: func(c *x509.Certificate) { c.NotAfter = at(time.Minute) }, want: func(w *Wanted) { w.Outlives = true }},

		{name: "path length 0", of: "int2 by root2", edit: pathLen(0)},
		{name: "path length 0 of the cross-signature", of: "root2 by root1", edit: pathLen(0), err: isCross + "its path length is 0, and 1 intermediates are below it"},
		{name: "path length 2 of the root", of: "root1 by root1", edit: pathLen(2)},
		{name: "path length 1 of the root", of: "root1 by root1", edit: pathLen(1), err: isRoot + "its path length is 1, and 2 intermediates"},

		{name: "permitted", of: "root1 by root1", edit: permitted(testDomain)},
		{name: "permitted in capitals", of: "int2 by root2", edit: permitted(strings.ToUpper(testDomain), "x.example")},
		{name: "what is below is permitted", of: "int2 by root2", edit: permitted(".consul")},
		{name: "for Go it would be permitted", of: "int2 by root2", edit: permitted("consul"), err: isInt + "its name constraints do not let it sign for"},
		{name: "another domain is permitted", of: "root1 by root1", edit: permitted("td-a.example"), err: isRoot + "its name constraints do not let it sign for"},
		{name: "excluded", of: "root2 by root1", edit: excluded(testDomain), err: isCross + "its name constraints do not let it sign for"},
		{name: "for BoringSSL it would not be excluded", of: "root2 by root1", edit: excluded("consul"), err: isLeaf + "a CA above it has name constraints"},
		{name: "another domain is excluded", of: "root2 by root1", edit: excluded("td-a.example")},

		{name: "a constraint that Go does not know", of: "int2 by root2", edit: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: nameConstraints, Critical: true, Value: []byte{0x30, 8, 0xa0, 6, 0x30, 4, 0xa4, 2, 0x30, 0}}}
		}, err: isInt + "its critical extension 2.5.29.30 is not known"},
		{name: "a critical extension", of: "leaf by int2", edit: func(c *x509.Certificate) { c.ExtraExtensions = critical(1, 2, 3) }, err: isLeaf + "its critical extension 1.2.3 is not known"},
		{name: "one that Go knows", of: "leaf by int2", edit: criticalCRL, err: isLeaf + "its critical extension 2.5.29.31 is not known"},
		{name: "one of the intermediate", of: "int2 by root2", edit: func(c *x509.Certificate) { c.ExtraExtensions = critical(1, 2, 3) }, err: isInt + "its critical extension 1.2.3 is not known"},
		{name: "one that is not critical", of: "int2 by root2", edit: func(c *x509.Certificate) {
			c.ExtraExtensions = critical(1, 2, 3)
			c.ExtraExtensions[0].Critical = false
		}},
		{name: "SHA-384", of: "leaf by int2", edit: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }},
		{name: "SHA-1", parsed: func(c []*x509.Certificate) []*x509.Certificate {
			c[1].SignatureAlgorithm = x509.ECDSAWithSHA1
			return c
		}, err: isInt + "it is signed with ECDSA-SHA1"},
		{name: "version 1", parsed: func(c []*x509.Certificate) []*x509.Certificate { c[1].Version = 1; return c }, err: isInt + "it is of X.509 version 1"},

		{name: "no certificate", parsed: func([]*x509.Certificate) []*x509.Certificate { return nil }, err: "no certificate"},
		{name: "five", parsed: func(c []*x509.Certificate) []*x509.Certificate { return append(c, c[1:]...) }, err: "a chain of 5 certificates, 4 at most"},
		{name: "without the intermediate", parsed: func(c []*x509.Certificate) []*x509.Certificate { return c[:1] }, err: `certificate 1 of 1 ("` + webURI + `"): its signer, "CN=int2", is neither`},
		{name: "without the cross-signature", parsed: func(c []*x509.Certificate) []*x509.Certificate { return c[:2] }, err: `certificate 2 of 2 ("CN=int2"): its signer, "CN=root2", is neither`},
		{name: "what does not belong", parsed: func(c []*x509.Certificate) []*x509.Certificate { return append(c, (&pki{t: t}).by("int1", "root1")) }, err: `certificate 4 of 4 ("CN=int1"): it has signed none of the others: leave it out`},
		{name: "with the root", parsed: func(c []*x509.Certificate) []*x509.Certificate { return append(c, (&pki{t: t}).by("root1", "root1")) }, err: `certificate 4 of 4 ("CN=root1"): it is self-signed: leave roots out`},
		{name: "another's signature", parsed: func(c []*x509.Certificate) []*x509.Certificate {
			c[1] = (&pki{t: t, keys: map[string]string{"root2": "other"}, edit: map[string]func(*x509.Certificate){"int2 by root2": func(c *x509.Certificate) { c.AuthorityKeyId = []byte("root2") }}}).by("int2", "root2")
			return c
		}, err: isInt + `the first that fits as its signer, "CN=root2", has not signed it`},
		{name: "another key ID", of: "leaf by int2", edit: func(c *x509.Certificate) { c.AuthorityKeyId = []byte("other") }, err: "certificate 2 of 3"},
		{name: "the signer's serial number", of: "leaf by int2", edit: func(c *x509.Certificate) { c.ExtraExtensions = byName("int2", 1000+4+100*5) }},
		{name: "another's serial number", of: "leaf by int2", edit: func(c *x509.Certificate) { c.ExtraExtensions = byName("int2", 2) }, err: isInt + "it has signed none of the others"},
		{name: "the issuer in capitals", of: "leaf by int2", edit: func(c *x509.Certificate) { c.Issuer.CommonName = "INT2" }, err: isLeaf + "its issuer is not written as the subject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &pki{t: t, edit: map[string]func(*x509.Certificate){tt.of: tt.edit}, keys: map[string]string{tt.key[0]: tt.key[1]}}
			chain := []*x509.Certificate{p.by("leaf", "int2"), p.by("int2", "root2"), p.by("root2", "root1")}
			if tt.parsed != nil {
				chain = tt.parsed(chain)
			}
			want := wantWeb(t, p)
			if tt.want != nil {
				tt.want(&want)
			}
			err := VerifyChain(chain, []*x509.Certificate{p.by("root1", "root1")}, want)
			switch {
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err != "" && (err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}

// FuzzVerifyChain has certificates of a rotation come in any order, under any roots, and bytes of the leaf flipped. Nothing panics, and
// what is accepted Go accepts too, and is for whom it was asked for.
func FuzzVerifyChain(f *testing.F) {
	p := &pki{t: f}
	pool := []*x509.Certificate{
		p.by("leaf", "int2"), p.by("int2", "root2"), p.by("root2", "root1"), p.by("root2", "root2"), p.by("root1", "root1"),
		p.by("leaf", "int1"), p.by("int1", "root1"), p.by("int2", "root1"), p.by("root1", "root2"), p.by("int1", "int2"), p.by("int2", "int1"),
	}
	want := wantWeb(f, p)
	f.Add([]byte{0, 1, 2}, []byte{4}, uint16(0), byte(0))
	f.Add([]byte{0, 1, 3, 2}, []byte{3, 4}, uint16(0), byte(0))
	f.Add([]byte{5, 9, 10}, []byte{2, 8}, uint16(0), byte(0))
	f.Add([]byte{5, 6}, []byte{4, 3, 8, 2}, uint16(0), byte(0))
	f.Add([]byte{}, []byte{}, uint16(0), byte(0))
	f.Add([]byte{0, 1}, []byte{3}, uint16(200), byte(1))
	f.Fuzz(func(t *testing.T, order, trusted []byte, at uint16, flip byte) {
		pick := func(order []byte) (list []*x509.Certificate) {
			for _, i := range order[:min(len(order), 8)] {
				list = append(list, pool[int(i)%len(pool)])
			}
			return list
		}
		chain, bundle := pick(order), pick(trusted)
		if len(chain) > 0 && flip != 0 {
			der := slices.Clone(chain[0].Raw)
			der[int(at)%len(der)] ^= flip
			leaf, err := x509.ParseCertificate(der)
			if err != nil {
				return
			}
			chain[0] = leaf
		}
		if err := VerifyChain(chain, bundle, want); err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: verifyTime}
		for _, c := range bundle {
			options.Roots.AddCert(c)
		}
		for _, c := range chain[1:] {
			options.Intermediates.AddCert(c)
		}
		for _, side := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			options.KeyUsages = []x509.ExtKeyUsage{side}
			if _, err := chain[0].Verify(options); err != nil {
				t.Errorf("%v: %q under %q", err, names(chain), names(bundle))
			}
		}
		if got := chain[0].URIs; len(got) != 1 || *got[0] != *mustURL(t, webURI) {
			t.Errorf("it is for %v", got)
		}
	})
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	return testca.URIs(t, s)[0]
}
