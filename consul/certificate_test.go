package consul

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func webIdentity() identity.Service {
	return identity.Service{TrustDomain: spiffeid.RequireTrustDomainFromString(testTrustDomain), Datacenter: "dc1", Name: identity.NewName("web")}
}

func pemOf(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestLeafFormats(t *testing.T) {
	a, b := testAuthority(t), testAuthority(t)
	id := webIdentity()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	sec1PEM := pemOf(t, "EC PRIVATE KEY", sec1, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec)
	pkcs8PEM := pemOf(t, "PRIVATE KEY", pkcs8, err)
	rsa8, err := x509.MarshalPKCS8PrivateKey(rs)
	rsa8PEM := pemOf(t, "PRIVATE KEY", rsa8, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed8, err := x509.MarshalPKCS8PrivateKey(edKey)
	ed8PEM := pemOf(t, "PRIVATE KEY", ed8, err)
	uri := id.String()
	for name, c := range map[string]struct {
		cert, key string
		n         int
		signer    crypto.Signer
		err       string
	}{
		"SEC1":                   {a.leaf(t, ec, uri), sec1PEM, 1, ec, ""},
		"SEC1 with parameters":   {a.leaf(t, ec, uri), "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + sec1PEM, 1, ec, ""},
		"PKCS8, EC":              {a.leaf(t, ec, uri), pkcs8PEM, 1, ec, ""},
		"PKCS1":                  {a.leaf(t, rs, uri), pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs), nil), 1, rs, ""},
		"PKCS8, RSA":             {a.leaf(t, rs, uri), rsa8PEM, 1, rs, ""},
		"PKCS8, Ed25519":         {a.leaf(t, edKey, uri), ed8PEM, 1, edKey, ""},
		"with an intermediate":   {a.leaf(t, ec, uri) + "\n" + certificatePEM(b.cert), sec1PEM, 2, ec, ""},
		"no URI":                 {a.leaf(t, ec), sec1PEM, 0, nil, "0 URI SANs"},
		"two URIs":               {a.leaf(t, ec, uri, uri+"x"), sec1PEM, 0, nil, "2 URI SANs"},
		"another service":        {a.leaf(t, ec, strings.Replace(uri, "/svc/web", "/svc/api", 1)), sec1PEM, 0, nil, "the leaf is that of"},
		"another datacenter":     {a.leaf(t, ec, strings.Replace(uri, "/dc/dc1", "/dc/dc2", 1)), sec1PEM, 0, nil, "the leaf is that of"},
		"no SPIFFE ID":           {a.leaf(t, ec, "https://web.example/"), sec1PEM, 0, nil, "scheme"},
		"no certificate":         {"", sec1PEM, 0, nil, "it has no certificate"},
		"a certificate of noise": {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", sec1PEM, 0, nil, "certificate 1: "},
		"no key":                 {a.leaf(t, ec, uri), "", 0, nil, "it has no private key"},
		"a key of noise":         {a.leaf(t, ec, uri), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0, nil, "its private key (PRIVATE KEY) cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			body := fmt.Sprintf(`{"SerialNumber": "0a", "CertPEM": %q, "PrivateKeyPEM": %q, "Service": "web", "ServiceURI": %q, "ValidAfter": "2026-01-01T00:00:00Z", "ValidBefore": "2026-01-04T00:00:00Z", "ModifyIndex": 12}`, c.cert, c.key, uri)
			svid, err := decodeLeaf([]byte(body), id)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(svid.Certificates) != c.n || svid.String() != id.String() || !svid.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(c.signer.Public()) {
				t.Errorf("%d certificates of %s", len(svid.Certificates), svid)
			}
		})
	}
	for _, bad := range []string{"", "null", "[]", `{"PrivateKeyPEM": "secret`, `{"PrivateKeyPEM": ["secret"]}`} {
		if _, err := decodeLeaf([]byte(bad), id); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("decodeLeaf(%s): %v", bad, err)
		}
	}
}

// leafJSON is what the agent answers.
func leafJSON(t *testing.T, a *authority, uri string) api.LeafCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	return api.LeafCert{CertPEM: a.leaf(t, key, uri), PrivateKeyPEM: pemOf(t, "EC PRIVATE KEY", der, err), Service: "web", ServiceURI: uri}
}

// askedSoon changes the roots, after which all leafs are asked for within rootSpread, and for a while every few seconds those that are not signed by
// the first of them.
func (f *fake) askedSoon(t *testing.T, roots ...*authority) {
	t.Helper()
	f.set("/v1/agent/connect/ca/roots", testRoots(t, roots...))
}

func TestWatchSVID(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		const path = "/v1/agent/connect/ca/leaf/web"
		f.mesh()
		ca, next := testAuthority(t), testAuthority(t)
		f.askedSoon(t, ca)
		f.hook("/v1/internal/acl/authorize", (&acls{rights: map[string]string{"web-token": "web"}}).serve)
		id := webIdentity()
		f.set(path, leafJSON(t, ca, id.String()))
		running(t, a)
		after(time.Second)
		var mu sync.Mutex
		var got []*sds.SVID
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- a.WatchSVID(ctx, identity.Caller{Proxy: "web-proxy", Token: "web-token"}, id, func(s *sds.SVID) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, s)
			})
		}()
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(got)
		}
		after(time.Second)
		if count() != 1 {
			t.Fatalf("%d leafs", count())
		}
		// The time of a leaf is 61 min. The agent renews it when between 60 and 90 % of it is over.
		f.set(path, leafJSON(t, ca, id.String()))
		after(35 * time.Minute)
		if n := len(f.of(path)); count() != 1 || n != 1 {
			t.Fatalf("%d leafs, asked %d times, long before its time", count(), n)
		}
		after(21 * time.Minute)
		if count() != 2 {
			t.Fatalf("%d leafs after a renewal", count())
		}
		// The roots change: within half a minute and a little all leafs are of the new one.
		f.askedSoon(t, next, ca)
		after(20 * time.Second)
		f.set(path, leafJSON(t, next, id.String())) // the agent takes its time, too
		after(13 * time.Second)
		if count() != 3 {
			t.Fatalf("%d leafs after a rotation", count())
		}
		n := len(f.of(path))
		after(10 * time.Minute)
		if len(f.of(path)) != n {
			t.Errorf("asked %d more times within 10 quiet minutes", len(f.of(path))-n)
		}
		// What is away for a while is waited for, and what is another's or none is not handed on.
		f.kill()
		after(50 * time.Minute)
		f.revive()
		f.set(path, leafJSON(t, next, id.String()))
		after(61 * time.Second)
		if count() != 4 {
			t.Fatalf("%d leafs after the agent came back", count())
		}
		f.set(path, leafJSON(t, ca, strings.Replace(id.String(), "web", "api", 1)))
		f.askedSoon(t, ca, next)
		after(40 * time.Second)
		f.refuse(path, 500)
		after(10 * time.Second)
		if count() != 4 {
			t.Errorf("a leaf that is another's was handed on")
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		default:
		}
		f.refuse(path, 403)
		after(61 * time.Second)
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), "web-token") {
				t.Errorf("it ended with %v", err)
			}
		default:
			t.Error("it goes on without the right to")
		}
		for _, r := range f.of(path) {
			if r.token != "web-token" || r.index != 0 {
				t.Errorf("asked with the token %q and the index %d", r.token, r.index)
			}
		}
		cancel()
	})
}

// A leaf that stays signed by another root is asked for every few seconds for a while, and then as seldom as any other.
func TestWatchSVIDOfAnotherRoot(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		const path = "/v1/agent/connect/ca/leaf/web"
		f.mesh()
		f.hook("/v1/internal/acl/authorize", (&acls{off: true}).serve)
		f.set(path, leafJSON(t, testAuthority(t), webIdentity().String())) // not of mesh's root
		running(t, a)
		after(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.WatchSVID(ctx, identity.Caller{Proxy: "p"}, webIdentity(), func(*sds.SVID) {}) }()
		after(followUpFor)
		n := len(f.of(path))
		if n < 55 || n > 65 {
			t.Errorf("asked %d times in %s", n, followUpFor)
		}
		after(30 * time.Minute)
		if more := len(f.of(path)) - n; more > 3 {
			t.Errorf("asked %d times more within half an hour", more)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A caller without a token has the rights of the anonymous one, not those of the agent's default token, and never the control plane's.
func TestWatchSVIDAnonymous(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.set("/v1/agent/connect/ca/leaf/web", leafJSON(t, testAuthority(t), webIdentity().String()))
		f.hook("/v1/internal/acl/authorize", (&acls{off: true}).serve)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.WatchSVID(ctx, identity.Caller{Proxy: "p"}, webIdentity(), func(*sds.SVID) {}) }()
		after(time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("after its context ended: %v", err)
		}
		for _, r := range f.all() {
			if r.token != "anonymous" {
				t.Errorf("asked with the token %q", r.token)
			}
		}
		if len(f.all()) == 0 {
			t.Error("nothing was asked")
		}
	})
}

// An agent that has a leaf in its cache gives it to every token, whatever its rights: it is not handed on.
func TestWatchSVIDOfTheCache(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		const path = "/v1/agent/connect/ca/leaf/web"
		ca := testAuthority(t)
		f.set(path, leafJSON(t, ca, webIdentity().String()))
		l := &acls{rights: map[string]string{"web-token": "web", "api-token": "api", "anonymous": "nothing"}}
		f.hook("/v1/internal/acl/authorize", l.serve)
		for _, token := range []string{"api-token", "old-token", ""} {
			err := a.WatchSVID(t.Context(), identity.Caller{Proxy: "p", Token: token}, webIdentity(), func(*sds.SVID) { t.Errorf("%q got the leaf of web", token) })
			if err == nil {
				t.Errorf("%q: no error", token)
			}
		}
		// Nor is a renewed one to a token that lost its right meanwhile.
		var mu sync.Mutex
		n := 0
		ended := make(chan error, 1)
		go func() {
			ended <- a.WatchSVID(t.Context(), identity.Caller{Proxy: "p", Token: "web-token"}, webIdentity(), func(*sds.SVID) {
				mu.Lock()
				defer mu.Unlock()
				n++
			})
		}()
		after(time.Second)
		l.set("web-token", "nothing")
		f.set(path, leafJSON(t, ca, webIdentity().String()))
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "service:write") {
			t.Errorf("it ended with %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if n != 1 {
			t.Errorf("%d leafs", n)
		}
	})
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.set("/v1/agent/connect/ca/leaf/web", leafJSON(t, testAuthority(t), webIdentity().String()))
		f.refuse("/v1/internal/acl/authorize", 500)
		got := make(chan time.Duration, 10)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- a.WatchSVID(ctx, identity.Caller{Proxy: "p", Token: "web-token"}, webIdentity(), func(*sds.SVID) { got <- time.Since(start) })
		}()
		after(20 * time.Second)
		if len(got) != 0 {
			t.Error("a leaf was handed on before the right was known")
		}
		f.hook("/v1/internal/acl/authorize", (&acls{rights: map[string]string{"web-token": "web"}}).serve)
		after(61 * time.Second)
		if len(got) == 0 {
			t.Error("no leaf after the right was known")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWatchSVIDOfAnotherMesh(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		running(t, a)
		after(time.Second)
		id := webIdentity()
		id.TrustDomain = spiffeid.RequireTrustDomainFromString("other.consul")
		if err := a.WatchSVID(t.Context(), identity.Caller{}, id, nil); err == nil || !strings.Contains(err.Error(), testTrustDomain) {
			t.Errorf("error %v", err)
		}
		id = webIdentity()
		id.Service = "../x"
		if err := a.WatchSVID(t.Context(), identity.Caller{}, id, nil); err == nil {
			t.Error("a name that is none is asked for")
		}
	})
}

func TestWatchRoots(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		first, second := testAuthority(t), testAuthority(t)
		f.set("/v1/agent/connect/ca/roots", testRoots(t, first))
		running(t, a)
		var mu sync.Mutex
		var sizes []int
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- a.WatchRoots(ctx, func(r *sds.Roots) {
				mu.Lock()
				defer mu.Unlock()
				sizes = append(sizes, strings.Count(r.PEM(), "BEGIN"))
			})
		}()
		got := func() string {
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(sizes)
		}
		after(time.Second)
		if got() != "[1]" {
			t.Errorf("roots %s", got())
		}
		f.set("/v1/agent/connect/ca/roots", testRoots(t, second, first)) // a rotation
		after(time.Second)
		if got() != "[1 2]" {
			t.Errorf("roots %s", got())
		}
		for _, bad := range []string{`null`, `{}`, `{"TrustDomain": "x", "Roots": []}`, `{"TrustDomain": "a b", "Roots": [{"RootCert": "x"}]}`, `{"TrustDomain": "x", "Roots": [{"RootCert": ""}]}`} {
			f.set("/v1/agent/connect/ca/roots", []byte(bad))
			after(5 * time.Second)
		}
		f.script("/v1/agent/connect/ca/roots", testRoots(t, second), map[string]string{"X-Consul-Index": ""}) // not the whole
		after(70 * time.Second)
		if strings.Contains(got(), " 0") || strings.HasSuffix(got(), " 1]") {
			t.Errorf("roots %s", got())
		}
		f.set("/v1/agent/connect/ca/roots", testRoots(t, second))
		after(70 * time.Second)
		if !strings.HasSuffix(got(), " 1]") {
			t.Errorf("roots %s", got())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
