package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Provider is a certificate authority. It is asked with certificate requests and never sees a
// leaf's key.
type Provider interface {
	// Sign returns a leaf for the public key of csr, and after it each certificate that signed the
	// one before, without the root. csr asks for id as its only SAN. The caller has validated it or
	// made it: the built-in CA needs no proof of possession of the key, as signing a request costs
	// a third of signing the leaf. The leaf is valid for ttl or less. Sign may block until ctx
	// ends. An Issuer calls it for a few leafs at once: as many as there are processors or, if
	// WantsCSR, 8.
	Sign(ctx context.Context, csr *x509.CertificateRequest, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error)
	// WantsCSR reports whether csr is to be whole, with Raw and the signature of its key, as it goes to another CA. Sign may find
	// that this has changed meanwhile: then it fails.
	WantsCSR() bool
	// Roots are what verifies the leafs; empty as long as they are not known.
	Roots() *latest.Value[*sds.Roots]
}

// IssuerConfig says what an Issuer's leafs are like.
type IssuerConfig struct {
	// Provider signs the leafs. Required.
	Provider Provider
	// TrustDomain is what the identities are in. Required.
	TrustDomain spiffeid.TrustDomain
	// TTL is how long a leaf is valid. Required.
	TTL time.Duration
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Issuer makes leafs, with their keys, and renews them: an sds.Source. It retries nothing: a watch
// ends with the error, and its caller watches again. It may be used by several goroutines.
type Issuer struct {
	cfg    IssuerConfig
	issued prometheus.Counter
	// stepped is set when the wall clock has moved against the monotonic one.
	stepped latest.Value[struct{}]
	// watches is how many there are.
	watches atomic.Int64
	places  *places
}

// NewIssuer returns an Issuer that has signed nothing yet. The error is that the metrics cannot be
// registered.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	i := &Issuer{cfg: cfg, places: newPlaces(), issued: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_ca_leafs_issued_total",
		Help: "Leaf certificates that were signed, by the built-in CA or by the provider in its place.",
	})}
	if cfg.Registerer != nil {
		waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_ca_leafs_waiting",
			Help: "Leaf certificates that are due and wait for their turn: as many are made at once as there are processors, or 8 where another CA signs each.",
		}, func() float64 { return float64(i.places.waiting.Load()) })
		for _, m := range []prometheus.Collector{i.issued, waiting} {
			if err := cfg.Registerer.Register(m); err != nil {
				return nil, fmt.Errorf("metrics of the CA: %w", err)
			}
		}
	}
	return i, nil
}

// tick is how often the wall clock is checked, which a suspended machine or an operator moves.
const tick = 5 * time.Second

// Run watches for steps of the wall clock, so that leafs are renewed in time after one, until ctx
// ends; then it returns nil.
func (i *Issuer) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			now := time.Now()
			if step := now.Round(0).Sub(last.Round(0)) - now.Sub(last); step.Abs() > time.Second {
				i.stepped.Set(struct{}{})
			}
			last = now
		}
	}
}

// WatchSVID calls f with a leaf of id, at once and whenever the last one is due for renewal or leafs are signed under another root, until
// ctx ends; then it returns nil. Each watch has a key and a certificate of its own. The error is
// that id is not an identity of the trust domain, or that a leaf cannot be signed.
func (i *Issuer) WatchSVID(ctx context.Context, _ identity.Caller, id identity.Service, f func(*sds.SVID)) error {
	if err := id.Check(); err != nil {
		return fmt.Errorf("leaf for service %.100q in datacenter %q of trust domain %q: %w", id.Service, id.Datacenter, id.TrustDomain, err)
	}
	if id.TrustDomain != i.cfg.TrustDomain {
		return fmt.Errorf("leaf for %s: this CA is of the trust domain %s", id, i.cfg.TrustDomain)
	}
	return i.watch(ctx, id.ID(), f)
}

// WatchOwn is WatchSVID for the control plane itself, under spiffe://TRUST-DOMAIN/sallyport/NAME, which is no service's.
func (i *Issuer) WatchOwn(ctx context.Context, name string, f func(*sds.SVID)) error {
	id, err := spiffeid.FromSegments(i.cfg.TrustDomain, "sallyport", name)
	if err != nil {
		return fmt.Errorf("leaf of the control plane: %w", err)
	}
	return i.watch(ctx, id, f)
}

func (i *Issuer) watch(ctx context.Context, id spiffeid.ID, f func(*sds.SVID)) error {
	i.watches.Add(1)
	defer i.watches.Add(-1)
	for {
		var svid *sds.SVID
		var t term
		leave, err := i.places.take(ctx, i.cfg.Provider.WantsCSR())
		if err != nil {
			return nil
		}
		// Signing takes a deep stack, which the watcher's goroutine would keep for as long as it
		// waits.
		var signing sync.WaitGroup
		signing.Go(func() {
			defer leave()
			svid, t, err = i.issue(ctx, id)
		})
		signing.Wait()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("leaf for %s: %w", id, err)
		}
		f(svid)
		if !i.wait(ctx, t) {
			return nil
		}
	}
}

// issue makes a key and has it signed.
func (i *Issuer) issue(ctx context.Context, id spiffeid.ID) (*sds.SVID, term, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, term{}, err
	}
	csr := &x509.CertificateRequest{PublicKey: key.Public(), URIs: []*url.URL{id.URL()}}
	if i.cfg.Provider.WantsCSR() {
		if csr, err = wholeRequest(csr, key); err != nil {
			return nil, term{}, err
		}
	}
	now, root := time.Now(), i.activeRoot()
	chain, err := i.cfg.Provider.Sign(ctx, csr, id, i.cfg.TTL)
	if err != nil {
		return nil, term{}, err
	}
	if len(chain) == 0 {
		return nil, term{}, errors.New("the CA returned no certificate")
	}
	i.issued.Inc()
	t := newTerm(now, chain[0], mathrand.Float64())
	t.root = root
	if roots, ok := i.cfg.Provider.Roots().Load(); ok {
		if root, ok := roots.Active(); ok && !t.notAfter.Before(root.Certificate.NotAfter) {
			t.renew = t.notAfter.Sub(now) // the next one would end with the root, too
			t.last = true
		}
	}
	return &sds.SVID{Certificates: chain, PrivateKey: key}, t, nil
}

// wholeRequest is csr signed by its key.
func wholeRequest(csr *x509.CertificateRequest, key *ecdsa.PrivateKey) (*x509.CertificateRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: csr.URIs}, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// wait returns true when a leaf is due for renewal, and false when ctx ends before.
func (i *Issuer) wait(ctx context.Context, t term) bool {
	// A leaf that is due as soon as it is signed must not make this a busy loop.
	if !backoff.Sleep(ctx, time.Second) {
		return false
	}
	for {
		stepped, roots := i.stepped.Changed(), i.cfg.Provider.Roots().Changed()
		switch root := i.activeRoot(); {
		case t.root == nil:
			t.root = root
		case root != nil && !root.Equal(t.root) && (t.last || !sameKey(root, t.root)): // one that was renewed verifies the leaf, too
			return backoff.Sleep(ctx, time.Duration(mathrand.Float64()*float64(spread(i.cfg.TTL, i.watches.Load()))))
		}
		now := time.Now()
		elapsed := now.Sub(t.begin)
		if t.due(now, elapsed) {
			return true
		}
		timer := time.NewTimer(t.renew - elapsed)
		select {
		case <-timer.C:
		case <-stepped:
			timer.Stop()
		case <-roots:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// activeRoot is the root under which leafs are signed now; nil: it is not known.
func (i *Issuer) activeRoot() *x509.Certificate {
	roots, ok := i.cfg.Provider.Roots().Load()
	if !ok {
		return nil
	}
	root, _ := roots.Active()
	return root.Certificate
}

// few is how many leafs are renewed at once when the root has changed: they take less than 0.1 s. More are spread, at 500 a second,
// which takes a tenth of a processor.
const few = 100

// spread is over which time so many leafs of a lifetime are renewed when the root has changed.
func spread(ttl time.Duration, leafs int64) time.Duration {
	if leafs <= few {
		return 0
	}
	return min(time.Duration(leafs)*2*time.Millisecond, ttl/10, longestSpread)
}

const longestSpread = time.Minute

// WatchRoots calls f with the roots of the provider, until ctx ends; then it returns nil.
func (i *Issuer) WatchRoots(ctx context.Context, f func(*sds.Roots)) error {
	i.cfg.Provider.Roots().Watch(ctx, f)
	return nil
}
