// Package ca is the built-in certificate authority of a mesh. It keeps a root and an intermediate in a directory, signs leafs that live in
// memory only and renews them, and is an sds.Source. A second, separate authority certifies the control plane's own TLS endpoint.
//
// The package decides what a certificate looks like (one function, check, looks at all of them) and how the state survives crashes,
// full disks and other hands. It does not decide who may have which leaf: who calls WatchSVID gets it.
//
// Concurrency: CA and Endpoint may be used by several goroutines. What they hand out is shared and immutable.
package ca

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Defaults of Config.
const (
	DefaultLeafTTL         = 72 * time.Hour
	DefaultIntermediateTTL = 365 * 24 * time.Hour
	DefaultRootTTL         = 10 * 365 * 24 * time.Hour
	// MinLeafTTL is the shortest life of a leaf: below it, renewal would depend on everybody being quick.
	MinLeafTTL = time.Minute
)

// Config says where a CA is kept and how long its certificates live.
type Config struct {
	// Dir is the CA's own directory. It is made, with mode 0700, if it is missing. Required.
	Dir string
	// TrustDomain is what the identities are in. Zero: that of the CA in Dir, or for a new one a random <uuid>.consul. If the CA in
	// Dir has another, Open fails.
	TrustDomain spiffeid.TrustDomain
	// LeafTTL is how long a leaf is valid. 0: DefaultLeafTTL; at least MinLeafTTL and at most half of IntermediateTTL, so that no leaf
	// outlives the intermediate that signed it.
	LeafTTL time.Duration
	// RootTTL is how long the root of a new CA is valid; one that exists stays as it is. 0: DefaultRootTTL.
	RootTTL time.Duration
	// IntermediateTTL is how long an intermediate is valid; it is replaced at half of it. 0: DefaultIntermediateTTL. Below RootTTL.
	IntermediateTTL time.Duration
	// Logger is told about renewals and their failures. Nil: nobody is.
	Logger *slog.Logger
	// Registerer takes the metrics until Close. Nil: they are counted for nobody.
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
		cfg.RootTTL = DefaultRootTTL
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

// CA signs the leafs of a mesh. It is an sds.Source. Open makes it, Run renews what it signed, Close ends it.
type CA struct {
	authority  *authority
	log        *slog.Logger
	issued     prometheus.Counter
	registerer prometheus.Registerer
	collectors []prometheus.Collector

	mu    sync.Mutex
	leafs map[leafKey]*leaf
}

// Open opens the CA in cfg.Dir, or makes a new one if nothing of one is there. It holds a lock on the directory until Close: a second
// Open, by any process, fails. State that is damaged, or that others can read or write, is an error that says how to mend it.
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
		log: cfg.Logger, step: step,
	})
	if err != nil {
		return nil, err
	}
	c := &CA{authority: a, log: cfg.Logger, registerer: cfg.Registerer, leafs: make(map[leafKey]*leaf)}
	if err := c.register(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if left := time.Until(a.root.cert.NotAfter); left < cfg.IntermediateTTL {
		c.log.Warn("the root of the CA ends soon", "file", rootFile, "duration", left)
	}
	return c, nil
}

func (c *CA) register() error {
	c.issued = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sallyport_ca_leafs_issued_total",
		Help: "Leaf certificates that the built-in CA signed.",
	})
	rootExpiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_ca_root_expiry_timestamp_seconds",
		Help: "When the root of the built-in CA ends, as Unix time.",
	}, func() float64 { return float64(c.authority.root.cert.NotAfter.Unix()) })
	intermediateExpiry := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sallyport_ca_intermediate_expiry_timestamp_seconds",
		Help: "When the intermediate of the built-in CA ends, as Unix time. It is replaced at half its life.",
	}, func() float64 { return float64(c.authority.signer().cert.NotAfter.Unix()) })
	if c.registerer == nil {
		return nil
	}
	for _, m := range []prometheus.Collector{c.issued, rootExpiry, intermediateExpiry} {
		if err := c.registerer.Register(m); err != nil {
			return fmt.Errorf("metrics of the CA: %w", err)
		}
		c.collectors = append(c.collectors, m)
	}
	return nil
}

// Close gives the directory and the metrics free. Run and the watches must have ended.
func (c *CA) Close() error {
	for _, m := range c.collectors {
		c.registerer.Unregister(m)
	}
	c.collectors = nil
	return c.authority.disk.close()
}

// TrustDomain is what the identities of the leafs are in.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.authority.trustDomain }

// Roots are the certificates that the leafs are verified with, the one that signs first. The caller may change the slice, not what
// it points to.
func (c *CA) Roots() []*x509.Certificate { return slices.Clone(c.authority.roots) }

// Health is why the CA's directory could not be written when it had to be, nil if it could. Leafs are signed all the same, from memory.
func (c *CA) Health() error { return c.authority.health() }

// String names the directory: nothing else of a CA is for a log.
func (c *CA) String() string { return "ca.CA(" + c.authority.disk.path + ")" }

// GoString is String.
func (c *CA) GoString() string { return c.String() }

// LogValue is String.
func (c *CA) LogValue() slog.Value { return slog.StringValue(c.String()) }

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
