// Package ca issues the leafs of a mesh. An Issuer makes keys and requests, has a Provider sign
// them, and renews the leafs, which live in memory only: it is an sds.Source. The built-in
// Provider, CA, keeps a root and an intermediate in a directory. A second, separate authority
// certifies the control plane's own TLS endpoint.
//
// The package decides what a certificate of the CA looks like (one function, check, verifies all of
// them) and how the state survives crashes, full disks and foreign writes. It does not decide who
// may have which leaf: every caller of WatchSVID gets it.
//
// Concurrency: all types may be used by several goroutines. What they return is shared and
// immutable.
package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Defaults of Config.
const (
	DefaultLeafTTL         = 72 * time.Hour
	DefaultIntermediateTTL = 365 * 24 * time.Hour
	defaultRootTTL         = 10 * 365 * 24 * time.Hour
	// MinLeafTTL is the shortest lifetime of a leaf: below it, renewal might come too late.
	MinLeafTTL = time.Minute
)

// Config says where a CA is kept and how long its certificates live.
type Config struct {
	// Dir is the CA's own directory. It is made, with mode 0700, if it is missing. Required.
	Dir string
	// Missing is what Open returns, in other words, if there is no CA in Dir: why there has to be one.
	// Nil: a new one is made.
	Missing error
	// TrustDomain is what the identities are in. Zero: that of the CA in Dir, or for a new one a
	// random <uuid>.consul. If the CA in Dir has another, Open fails.
	TrustDomain spiffeid.TrustDomain
	// LeafTTL is how long a leaf is valid. 0: DefaultLeafTTL; at least MinLeafTTL and at most half
	// of IntermediateTTL, so that no leaf outlives the intermediate that signed it.
	LeafTTL time.Duration
	// RootTTL is how long the root of a new CA is valid; one that exists stays as it is. 0: ten
	// years.
	RootTTL time.Duration
	// IntermediateTTL is how long an intermediate is valid; it is replaced at half of it. 0:
	// DefaultIntermediateTTL. Below RootTTL.
	IntermediateTTL time.Duration
	// Logger gets renewals and their failures. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics until Close. Nil: they are not exported.
	Registerer prometheus.Registerer
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.LeafTTL == 0 {
		cfg.LeafTTL = DefaultLeafTTL
	}
	if cfg.IntermediateTTL == 0 {
		cfg.IntermediateTTL = DefaultIntermediateTTL
	}
	if cfg.RootTTL == 0 {
		cfg.RootTTL = defaultRootTTL
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.LeafTTL < MinLeafTTL:
		return cfg, fmt.Errorf("leaf TTL %s: at least %s", cfg.LeafTTL, MinLeafTTL)
	case cfg.LeafTTL > cfg.IntermediateTTL/2:
		return cfg, fmt.Errorf("leaf TTL %s: at most half of the intermediate's, which is %s", cfg.LeafTTL, cfg.IntermediateTTL)
	case cfg.IntermediateTTL >= cfg.RootTTL:
		return cfg, fmt.Errorf("intermediate TTL %s: must be below the root's, which is %s", cfg.IntermediateTTL, cfg.RootTTL)
	}
	return cfg, nil
}

// CA is the built-in Provider. Open makes it, Run renews its intermediate, Close ends it.
type CA struct {
	authority  *authority
	registerer prometheus.Registerer
	collectors []prometheus.Collector
	roots      latest.Value[*sds.Roots]
}

// chainDepth is how many certificates stand above a leaf: the intermediate and the root.
const chainDepth = 2

// Open opens the CA in cfg.Dir, or makes a new one if nothing of one is there. It holds a lock on
// the directory until Close: a second Open, by any process, fails. State that is damaged, or that
// others can read or write, is an error that names the remedy.
func Open(cfg Config) (*CA, error) { return open(cfg, nil) }

// open is Open with a disk.step.
func open(cfg Config, step func(string) error) (*CA, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a, err := openAuthority(authorityConfig{
		dir: cfg.Dir, trustDomain: cfg.TrustDomain, newTrustDomain: newTrustDomain,
		rootTTL: cfg.RootTTL, intermediateTTL: cfg.IntermediateTTL, leafTTL: cfg.LeafTTL,
		log: cfg.Logger, step: step, missing: cfg.Missing,
	})
	if err != nil {
		return nil, err
	}
	c := &CA{authority: a, registerer: cfg.Registerer}
	if err := c.register(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if left := time.Until(a.root.cert.NotAfter); left < cfg.IntermediateTTL {
		cfg.Logger.Warn("the root of the CA ends soon", "file", rootFile, "duration", left)
	}
	roots := make([]sds.Root, len(a.roots))
	for i, cert := range a.roots {
		sum := sha256.Sum256(cert.Raw)
		roots[i] = sds.Root{ID: hex.EncodeToString(sum[:]), Certificate: cert}
	}
	c.roots.Set(sds.NewRoots(a.trustDomain, roots[0].ID, roots).Within(chainDepth))
	return c, nil
}

func (c *CA) register() error {
	if c.registerer == nil {
		return nil
	}
	rootExpiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_ca_root_expiry_timestamp_seconds",
		Help: "When the root of the built-in CA ends, as Unix time.",
	}, func() float64 { return float64(c.authority.root.cert.NotAfter.Unix()) })
	intermediateExpiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_ca_intermediate_expiry_timestamp_seconds",
		Help: "When the intermediate of the built-in CA ends, as Unix time. It is replaced at half its life.",
	}, func() float64 { return float64(c.authority.signer().cert.NotAfter.Unix()) })
	for _, m := range []prometheus.Collector{rootExpiry, intermediateExpiry} {
		if err := c.registerer.Register(m); err != nil {
			return fmt.Errorf("metrics of the CA: %w", err)
		}
		c.collectors = append(c.collectors, m)
	}
	return nil
}

// Close releases the directory and the metrics. Run and the watches must have ended.
func (c *CA) Close() error {
	for _, m := range c.collectors {
		c.registerer.Unregister(m)
	}
	c.collectors = nil
	return c.authority.disk.close()
}

// TrustDomain is what the identities of the leafs are in.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.authority.trustDomain }

// Roots are what verifies the leafs; the ID of each is the SHA-256 of its DER in hex. They are set
// from the start.
func (c *CA) Roots() *latest.Value[*sds.Roots] { return &c.roots }

// Sign implements Provider.
func (c *CA) Sign(_ context.Context, csr *x509.CertificateRequest, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	return c.authority.issue(leafProfile(), id, csr.PublicKey, ttl, time.Now())
}

// Run renews the intermediate, until ctx ends; then it returns nil. Without it that happens when a
// leaf is signed.
func (c *CA) Run(ctx context.Context) error {
	for {
		c.authority.renewIfDue(time.Now())
		if !backoff.Sleep(ctx, tick) {
			return nil
		}
	}
}

// Health is the error of the last write to the CA's directory, nil if there was none. Leafs are
// signed all the same, from memory.
func (c *CA) Health() error { return c.authority.health() }

// newTrustDomain draws a trust domain of the form that Consul's have: <uuid>.consul.
func newTrustDomain() (spiffeid.TrustDomain, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return spiffeid.TrustDomain{}, err
	}
	b[6] = b[6]&0x0f | 0x40 // RFC 9562, 5.4: version 4
	b[8] = b[8]&0x3f | 0x80 // and its variant
	return spiffeid.TrustDomainFromString(fmt.Sprintf("%x-%x-%x-%x-%x.consul", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}
