package sds_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testDomain = spiffeid.RequireTrustDomainFromString("11111111-2222-3333-4444-555555555555.consul")

func service(name string) identity.Service {
	return identity.Service{TrustDomain: testDomain, Datacenter: "dc1", Name: identity.NewName(name)}
}

// pki is a root and an intermediate.
type pki struct{ root, intermediate *testca.Pair }

func newPKI(t testing.TB) *pki {
	t.Helper()
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(100 * time.Hour)}, nil)
	return &pki{root, testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(50 * time.Hour)}, root)}
}

// leaf makes a good leaf of name, changed by mutate.
func (p *pki) leaf(t testing.TB, name string, mutate func(*x509.Certificate)) *sds.SVID {
	t.Helper()
	template := &x509.Certificate{
		URIs: []*url.URL{service(name).ID().URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if mutate != nil {
		mutate(template)
	}
	l := testca.Sign(t, template, p.intermediate)
	return &sds.SVID{Certificates: []*x509.Certificate{l.Cert, p.intermediate.Cert}, PrivateKey: l.Key}
}

// bundle are the roots of all of pkis, called by their serial numbers. The first is active.
func bundle(pkis ...*pki) *sds.Roots {
	active := ""
	var list []sds.Root
	for _, p := range pkis {
		list = append(list, sds.Root{ID: p.root.Cert.SerialNumber.String(), Certificate: p.root.Cert})
		active = list[0].ID
	}
	return sds.NewRoots(testDomain, active, list)
}

// source is a sds.Source that does what a test tells it.
type source struct {
	mu      sync.Mutex
	calls   map[string]int // by "roots", or token and service
	callers []identity.Caller
	feeds   map[string]*feed
}

// feed is the open end of a watch.
type feed struct {
	svids chan *sds.SVID
	roots chan *sds.Roots
	end   chan error
}

func newSource() *source {
	return &source{calls: make(map[string]int), feeds: make(map[string]*feed)}
}

const rootsFeed = "roots"

func (s *source) open(name string) (f *feed, closed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f = &feed{make(chan *sds.SVID), make(chan *sds.Roots), make(chan error)}
	s.calls[name]++
	s.feeds[name] = f
	return f, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.feeds[name] == f {
			delete(s.feeds, name)
		}
	}
}

func (s *source) WatchSVID(ctx context.Context, c identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	s.mu.Lock()
	s.callers = append(s.callers, c)
	s.mu.Unlock()
	feed, closed := s.open(c.Token + id.Service)
	defer closed()
	for {
		select {
		case svid := <-feed.svids:
			f(svid)
		case err := <-feed.end:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *source) WatchRoots(ctx context.Context, f func(*sds.Roots)) error {
	feed, closed := s.open(rootsFeed)
	defer closed()
	for {
		select {
		case roots := <-feed.roots:
			f(roots)
		case err := <-feed.end:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// at is the open watch of a name; nil if it is not watched now.
func (s *source) at(name string) *feed {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feeds[name]
}

func (s *source) count(name string) int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

func (s *source) give(t testing.TB, name string, svid *sds.SVID) {
	t.Helper()
	f := s.at(name)
	if f == nil {
		t.Fatalf("nobody watches %s", name)
	}
	f.svids <- svid
	synctest.Wait()
}

func (s *source) giveRoots(t testing.TB, roots *sds.Roots) {
	t.Helper()
	f := s.at(rootsFeed)
	if f == nil {
		t.Fatal("nobody watches the roots")
	}
	f.roots <- roots
	synctest.Wait()
}

func (s *source) fail(t testing.TB, name string, err error) {
	t.Helper()
	f := s.at(name)
	if f == nil {
		t.Fatalf("nobody watches %s", name)
	}
	f.end <- err
	synctest.Wait()
}

// fixture is Credentials that run, within a synctest bubble.
type fixture struct {
	*sds.Credentials
	source   *source
	registry *prometheus.Registry
	log      *buffer
	stop     func()
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{source: newSource(), registry: prometheus.NewRegistry(), log: &buffer{}}
	var err error
	f.Credentials, err = sds.New(sds.Config{Source: f.source, Logger: slog.New(slog.NewTextHandler(f.log, nil)), Registerer: f.registry})
	if err != nil {
		t.Fatal(err)
	}
	f.run(t)
	return f
}

// leaf is one use of one leaf.
type leaf struct {
	*sds.Leafs
	id identity.Service
}

func (l *leaf) SVID() *sds.SVID { return l.Leafs.SVID(l.id) }

func (f *fixture) Watch(c identity.Caller, id identity.Service, wake func()) *leaf {
	l := &leaf{f.Open(c, wake), id}
	l.SVID()
	return l
}

func (f *fixture) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

// rejected is how many were refused by type.
func (f *fixture) rejected(t *testing.T, kind string) float64 {
	t.Helper()
	return metric(t, f.registry, "sallyport_sds_rejected_total", kind)
}

func metric(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() != name || label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s %s in %d", name, label, testutil.CollectAndCount(registry))
	return 0
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
