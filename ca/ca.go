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
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/internal/keyring"
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
	// Keys encrypt all that is written to Dir, and what is there. Nil: it is in clear.
	Keys *keyring.Keyring
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
	// Upstreams are the CAs that may sign instead of the built-in root, by the names that Rotate takes. Nil: none.
	Upstreams map[string]UpstreamConfig
	// Provider is the one of a new CA, in an empty Dir; which one signs in another is a question of Rotate. Empty: Builtin.
	Provider string
	// Gate knows who has accepted what, which the phases of a rotation wait for. Nil: each lasts for a leaf's life.
	Gate Gate
	// Settle is how long after the last has accepted the new root leafs are signed under it, as a connection that was accepted before
	// may be judged by older roots. 0: 10 s.
	Settle time.Duration
	// FederationHint is the refresh hint of the bundle that other trust domains fetch; they are given three for a new root. 0: none
	// fetches it.
	FederationHint time.Duration
	// Logger gets renewals and their failures. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics until Close. Nil: they are not exported.
	Registerer prometheus.Registerer

	// now is the clock; nil but in tests.
	now func() time.Time
}

// Builtin is the name of the provider that is a root in Config.Dir.
const Builtin = "builtin"

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
	if cfg.Settle == 0 {
		cfg.Settle = defaultSettle
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	switch {
	case cfg.LeafTTL < MinLeafTTL:
		return cfg, fmt.Errorf("leaf TTL %s: at least %s", cfg.LeafTTL, MinLeafTTL)
	case cfg.LeafTTL > cfg.IntermediateTTL/2:
		return cfg, fmt.Errorf("leaf TTL %s: at most half of the intermediate's, which is %s", cfg.LeafTTL, cfg.IntermediateTTL)
	case cfg.IntermediateTTL >= cfg.RootTTL:
		return cfg, fmt.Errorf("intermediate TTL %s: must be below the root's, which is %s", cfg.IntermediateTTL, cfg.RootTTL)
	}
	return cfg, cfg.checkUpstreams()
}

// CA is the mesh's Provider: the built-in root. Open makes it, Run replaces what ends, Close ends it.
type CA struct {
	authority  *authority
	cfg        Config
	registerer prometheus.Registerer
	collectors []prometheus.Collector
	roots      latest.Value[*sds.Roots]
	// wait is for whom the rotation waits, problem what Status says; changed is set with each change of Status.
	wait    latest.Value[wait]
	problem latest.Value[string]
	changed latest.Value[struct{}]
	// wake makes Run look.
	wake chan struct{}

	// publishedVersion is the record of which Roots are, publishedUntil when they are made anew all the same. Guarded by authority.mu.
	publishedVersion            int
	publishedAt, publishedUntil time.Time

	// known are the roots that providers named, unknown is why those that they name now are not taken, early are all that they named if
	// some were not taken, and askNow that somebody wishes for an answer of the one that signs. Guarded by authority.mu.
	known, early map[string][]*x509.Certificate
	unknown      map[string]error
	askNow       bool

	// Run's alone, by provider: how it stands with those that are asked, what is asked for, and what of that is on the disk.
	asked          map[string]*asking
	requests, kept map[string]*upstreamRequest

	// Run's alone: what signs after the activation; the phase that is running, since when, since when it was seen, and since when
	// nobody is waited for.
	next    *candidate
	made    succession
	madeFor int // the version of the record
	// looked is the version of the record at which advance looked last.
	looked     int
	phase      Phase
	since      time.Time
	seen, free time.Time
	telling    telling
	// alarmed is when the last alarm was logged.
	alarmed time.Time
}

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
		log: cfg.Logger, step: step, missing: cfg.Missing, provider: cfg.Provider, keys: cfg.Keys, now: cfg.now,
	})
	if err != nil {
		return nil, err
	}
	c := &CA{
		authority: a, cfg: cfg, registerer: cfg.Registerer, wake: make(chan struct{}, 1),
		known: map[string][]*x509.Certificate{}, early: map[string][]*x509.Certificate{}, unknown: map[string]error{}, asked: map[string]*asking{},
	}
	c.loadRequests()
	if _, each := c.each(); each && a.intermediate != nil {
		a.intermediate, a.unsettled = nil, true // its provider signed intermediates in the last process, and now does each leaf
	}
	if err := c.register(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.publish()
	return c, nil
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

func (c *CA) log() *slog.Logger { return c.cfg.Logger }

// signal wakes Run. It does not block.
func (c *CA) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
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
