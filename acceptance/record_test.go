package acceptance

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mesh is two roots, the second of which the first has signed, and who signs leafs under each.
type mesh struct {
	t                  testing.TB
	old, next, cross   *testca.Pair
	underOld, underNew *testca.Pair
	one, both, last    *sds.Roots // old alone, both, next alone
	now                *sds.Roots
	path               string
	issued             []issuance.Leaf
	proxies            []identity.ProxyID
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t, path: filepath.Join(t.TempDir(), "accepted")}
	authority := func(name string, parent *testca.Pair) *testca.Pair {
		return testca.Sign(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, KeyUsage: x509.KeyUsageCertSign,
		}, parent)
	}
	m.old, m.next = authority("old", nil), authority("next", nil)
	m.underOld, m.underNew = authority("intermediate 1", m.old), authority("intermediate 2", m.next)
	m.cross = crossSigned(t, m.next, m.old)
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	root := func(p *testca.Pair) sds.Root { return sds.Root{ID: p.Cert.Subject.CommonName, Certificate: p.Cert} }
	m.one = sds.NewRoots(td, "old", []sds.Root{root(m.old)})
	m.both = sds.NewRoots(td, "next", []sds.Root{root(m.old), root(m.next)})
	m.last = sds.NewRoots(td, "next", []sds.Root{root(m.next)})
	m.now = m.one
	return m
}

// crossSigned is the certificate of one root's key that another has signed.
func crossSigned(t testing.TB, of, by *testca.Pair) *testca.Pair {
	t.Helper()
	template := *of.Cert
	der, err := x509.CreateCertificate(nil, &template, by.Cert, of.Key.Public(), by.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testca.Pair{Cert: c, Key: of.Key}
}

func (m *mesh) leaf(service string, next bool, life time.Duration) *sds.SVID {
	m.t.Helper()
	by := m.underOld
	chain := []*x509.Certificate{by.Cert}
	if next {
		by = m.underNew
		chain = []*x509.Certificate{by.Cert, m.cross.Cert}
	}
	p := testca.Sign(m.t, &x509.Certificate{
		NotBefore: time.Now(), NotAfter: time.Now().Add(life), URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/svc/" + service}},
	}, by)
	return &sds.SVID{Certificates: append([]*x509.Certificate{p.Cert}, chain...), PrivateKey: p.Key}
}

func (m *mesh) open() (r *Record, log *bytes.Buffer) {
	m.t.Helper()
	log = &bytes.Buffer{}
	r, err := Open(Config{
		File: m.path, Roots: func() (*sds.Roots, bool) { return m.now, m.now != nil }, Issued: m.issued,
		Proxies: func() []identity.ProxyID { return m.proxies }, Logger: slog.New(slog.NewTextHandler(log, nil)), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return r, log
}

// running runs r until the end of what it returns.
func running(t testing.TB, r *Record) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func proxy(name string) identity.Caller { return identity.Caller{Proxy: identity.ProxyID(name)} }

var app = identity.Caller{Application: "uid 1000"}

// text is holders as one reads them: "proxy web (not connected) until 1h0m0s".
func text(all []ca.Holder) string {
	var out []string
	for _, h := range all {
		s := h.Name
		if !h.Connected {
			s += " (not connected)"
		}
		out = append(out, fmt.Sprintf("%s %s", s, time.Until(h.Ends).Round(time.Minute)))
	}
	return strings.Join(out, ", ")
}

func (m *mesh) want(r *Record, untold, outdated string) {
	m.t.Helper()
	if got := text(r.Untold([]*x509.Certificate{m.old.Cert, m.next.Cert})); got != untold {
		m.t.Errorf("untold: %q, want %q", got, untold)
	}
	if got := text(r.Outdated(m.next.Cert)); got != outdated {
		m.t.Errorf("outdated: %q, want %q", got, outdated)
	}
}

// TestProxy is a rotation as one proxy sees it, with a kill -9 after each step.
func TestProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		r, _ := m.open()
		end := running(t, r)
		killed := func() { // what is on the disk a moment later is what the next start finds
			time.Sleep(time.Second)
			synctest.Wait()
			other, log := m.open()
			untold, outdated := r.Untold([]*x509.Certificate{m.old.Cert, m.next.Cert}), r.Outdated(m.next.Cert)
			for _, all := range [][]ca.Holder{untold, outdated} {
				for i := range all {
					all[i].Connected = false
				}
			}
			m.want(other, text(untold), text(outdated))
			if log.Len() > 0 {
				t.Errorf("log: %s", log)
			}
		}
		m.want(r, "", "")
		first := m.leaf("web", false, time.Hour)
		s := r.Open(proxy("web"))
		s.Give(nil, first)
		s.Give(m.one)
		m.want(r, "proxy web 1h0m0s", "proxy web 1h0m0s")
		s.Accept(m.one, []*sds.SVID{first})
		killed()
		m.want(r, "proxy web 1h0m0s", "proxy web 1h0m0s")
		m.now = m.both
		s.Give(m.both)
		s.Accept(nil, []*sds.SVID{first}) // one of two secrets
		m.want(r, "proxy web 1h0m0s", "proxy web 1h0m0s")
		s.Accept(m.both, []*sds.SVID{first})
		m.want(r, "", "proxy web 1h0m0s")
		killed()
		second := m.leaf("web", true, 2*time.Hour)
		s.Give(nil, second)
		m.want(r, "", "proxy web 1h0m0s") // it may use either
		killed()
		s.Accept(m.both, []*sds.SVID{second})
		m.want(r, "", "")
		killed()
		s.Close(false)
		m.want(r, "", "")
		end()
	})
}

// TestSilent is a proxy of which nothing is heard, in the catalog or not: it counts until its leaf ends.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		r, _ := m.open()
		defer running(t, r)()
		s := r.Open(proxy("web"))
		first := m.leaf("web", false, time.Hour)
		s.Give(m.one, first)
		s.Accept(m.one, []*sds.SVID{first})
		s.Close(false)
		m.want(r, "proxy web (not connected) 1h0m0s", "proxy web (not connected) 1h0m0s")
		changed := r.Changed()
		time.Sleep(59 * time.Minute)
		select {
		case <-changed:
			t.Error("told of a change that was none")
		default:
		}
		time.Sleep(time.Minute + 3*time.Second)
		select {
		case <-changed:
		default:
			t.Error("nobody is told that the leaf has ended")
		}
		m.want(r, "", "")
	})
}

// TestTwoStreams is an Envoy that is being replaced: what one of the two has not accepted is not accepted.
func TestTwoStreams(t *testing.T) {
	m := newMesh(t)
	r, _ := m.open()
	a, b := r.Open(proxy("web")), r.Open(proxy("web"))
	first, second := m.leaf("web", false, time.Hour), m.leaf("web", true, time.Hour)
	for _, s := range []*Stream{a, b} {
		s.Give(m.one, first)
		s.Accept(m.one, []*sds.SVID{first})
	}
	m.now = m.both
	for _, s := range []*Stream{a, b} {
		s.Give(m.both, second)
	}
	a.Accept(m.both, []*sds.SVID{second})
	m.want(r, "proxy web 1h0m0s", "proxy web 1h0m0s")
	b.Accept(m.both, nil)
	m.want(r, "", "proxy web 1h0m0s")
	b.Close(false) // the Envoy that was replaced
	m.want(r, "", "")
}

// TestApplication is one that asks the HTTP API, and one with a stream that has no ACKs.
func TestApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		r, _ := m.open()
		defer running(t, r)()
		token := identity.Caller{Application: "token 7QK"}
		r.Fetched(token, m.one)
		r.FetchedLeaf(token, m.leaf("web", false, time.Hour).Certificates)
		m.want(r, "token 7QK 1h0m0s", "token 7QK 1h0m0s")
		m.now = m.both
		r.FetchedLeaf(token, m.leaf("web", true, time.Hour).Certificates)
		m.want(r, "token 7QK 1h0m0s", "")
		r.Fetched(token, m.both)
		m.want(r, "", "")

		s := r.Open(app)
		s.Sent(m.one, []*sds.SVID{m.leaf("api", false, 2*time.Hour)})
		m.want(r, "uid 1000 2h0m0s", "uid 1000 2h0m0s")
		s.Sent(m.both, []*sds.SVID{m.leaf("api", true, 2*time.Hour)})
		time.Sleep(40 * time.Second)
		m.want(r, "uid 1000 1h59m0s", "uid 1000 1h59m0s")
		time.Sleep(10 * time.Second)
		m.want(r, "", "")
		// Of one that ends too late nothing is known; of one that ends at once by itself it is.
		late := m.leaf("late", false, time.Hour)
		for name, byPeer := range map[string]bool{"a": true, "b": false} {
			o := r.Open(identity.Caller{Application: "uid " + name})
			o.Sent(m.both, []*sds.SVID{late})
			o.Close(byPeer)
		}
		if got := text(r.Untold([]*x509.Certificate{m.next.Cert})); got != "uid b 1h0m0s" {
			t.Errorf("untold: %s", got)
		}
	})
}

// TestNoKeyID has two roots that sign leafs themselves, and do not say by which key: each leaf is of its own root.
func TestNoKeyID(t *testing.T) {
	m := newMesh(t)
	m.now = m.both
	r, _ := m.open()
	leaf := func(by *testca.Pair) *sds.SVID {
		nameless := *by
		c := *by.Cert
		c.SubjectKeyId, nameless.Cert = nil, &c
		p := testca.Sign(t, &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/svc/web"}}}, &nameless)
		if len(p.Cert.AuthorityKeyId) > 0 {
			t.Fatal("the leaf says by which key")
		}
		return &sds.SVID{Certificates: []*x509.Certificate{p.Cert}, PrivateKey: p.Key}
	}
	first, second := leaf(m.next), leaf(m.old)
	a, b := r.Open(proxy("a")), r.Open(proxy("b"))
	a.Give(m.both, first)
	a.Accept(m.both, []*sds.SVID{first})
	b.Give(m.both, second)
	b.Accept(m.both, []*sds.SVID{second})
	m.want(r, "", "proxy b 1h0m0s")
}

// TestNobody has a nil record take everything.
func TestNobody(t *testing.T) {
	var r *Record
	r.Fetched(app, nil)
	r.FetchedLeaf(app, nil)
	s := r.Open(app)
	s.Give(nil)
	s.Accept(nil, nil)
	s.Sent(nil, nil)
	s.Close(true)
}

// TestReasons says what each has not done.
func TestReasons(t *testing.T) {
	m := newMesh(t)
	r, _ := m.open()
	first := m.leaf("web", false, time.Hour)
	r.Open(proxy("here")).Give(m.one, first)
	gone := r.Open(proxy("gone"))
	gone.Give(m.one, first)
	gone.Close(false)
	r.FetchedLeaf(app, first.Certificates)
	var got []string
	for _, h := range append(r.Untold([]*x509.Certificate{m.next.Cert}), r.Outdated(m.next.Cert)...) {
		got = append(got, h.Name+" "+h.Reason)
	}
	want := []string{
		"proxy gone has not accepted the roots: it is not connected", "proxy here has not accepted the roots", "uid 1000 has not fetched the roots",
		"proxy gone has not accepted a leaf of the new root: it is not connected", "proxy here has not accepted a leaf of the new root", "uid 1000 has not fetched a leaf of the new root",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkAccept is 10,000 proxies that accept new roots, and who is asked about after it.
func BenchmarkAccept(b *testing.B) {
	m := newMesh(b)
	r, _ := m.open()
	first := m.leaf("web", false, time.Hour)
	var all []*Stream
	for n := range 10_000 {
		s := r.Open(proxy(fmt.Sprint("web-", n)))
		s.Give(m.one, first)
		s.Accept(m.one, []*sds.SVID{first})
		all = append(all, s)
	}
	roots := [2]*sds.Roots{m.both, m.one}
	b.Run("accept", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			all[n%len(all)].Accept(roots[n/len(all)%2], []*sds.SVID{first})
			n++
		}
	})
	b.Run("untold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Untold([]*x509.Certificate{m.old.Cert})
		}
	})
}
