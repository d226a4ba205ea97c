// Package plugin has the CA behind the mesh's in a program that somebody else wrote: it is run once for each question, or answers at a URL.
// The contract is docs/certificates/plug-in.md. What such a program says is taken as if an enemy had said it: it is bounded, parsed strictly,
// and never holds a private key.
package plugin

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config says who answers.
type Config struct {
	// Name is what the plug-in is called in errors, logs and metrics. Required.
	Name string
	// TrustDomain is what certificates are signed for. Required.
	TrustDomain spiffeid.TrustDomain
	// Command is the program and its arguments. The program is an absolute path, or a name that PATH leads to. Either this or Server.URL.
	Command []string
	// Env are NAME=VALUE that the program gets beside PATH, HOME and TMPDIR.
	Env []string
	// Server is where questions are sent: https://HOST[:PORT][/PATH] or unix:///SOCKET. Name and Timeout are set here.
	Server remote.Config
	// TokenFile has what is sent to Server as a bearer token; it is read for each question. Empty: nothing is.
	TokenFile string
	// Timeout bounds a question. Zero: 30 s, as the contract says.
	Timeout time.Duration
	// Logger gets what the program writes to stderr, and warnings. Nil: nothing is logged.
	Logger *slog.Logger
	// Metrics counts the questions. Nil: they are not counted.
	Metrics *Metrics
}

const (
	defaultTimeout = 30 * time.Second
	// maxAnswer bounds an answer in bytes.
	maxAnswer = 1 << 20
	// tolerance is by how much a certificate may outlive what was asked for: clocks differ, and CAs round.
	tolerance = 5 * time.Minute
	// skew is how much before now a certificate is to begin.
	skew = time.Minute
	// maxRetry bounds for how long a plug-in can ask to be left alone, defaultPending is how long one is that waits for an approval.
	maxRetry, defaultPending = time.Hour, time.Minute
	// maxHolds bounds the requests that wait for an approval.
	maxHolds = 4096
)

// CA is the ca.Upstream.
type CA struct {
	cfg Config
	log *slog.Logger
	// ask puts a question, and returns what was answered.
	ask   func(ctx context.Context, q question) ([]byte, error)
	close func()

	describing chan struct{} // held by the one who asks for it
	described  latest.Value[*description]
	distrusted latest.Value[[][sha256.Size]byte]
	unknown    latest.Value[error] // why the roots are not known now; nil: they are

	mu    sync.Mutex
	holds map[string]hold // by the ID of a question; "": all
	cut   map[string]bool // kinds of which it was said that they live shorter than asked for
}

var (
	_ ca.Upstream     = (*CA)(nil)
	_ ca.RootsProblem = (*CA)(nil)
)

// hold is that a question is not asked before until.
type hold struct {
	until time.Time
	err   error
}

// New returns a CA that has asked nothing yet. The error is a mistake in cfg.
func New(cfg Config) (*CA, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &CA{cfg: cfg, log: cfg.Logger, describing: make(chan struct{}, 1), holds: map[string]hold{}, cut: map[string]bool{}, close: func() {}}
	switch {
	case cfg.TrustDomain.IsZero():
		return nil, fmt.Errorf("plug-in %s: no trust domain", cfg.Name)
	case (len(cfg.Command) == 0) == (cfg.Server.URL == ""):
		return nil, fmt.Errorf("plug-in %s: give either a command or a URL", cfg.Name)
	case len(cfg.Command) > 0:
		p, err := newProgram(cfg, c.log)
		if err != nil {
			return nil, err
		}
		c.ask = p.ask
	default:
		s, err := newServer(cfg)
		if err != nil {
			return nil, err
		}
		c.ask, c.close = s.ask, s.client.Close
	}
	cfg.Metrics.prepare(cfg.Name)
	return c, nil
}

// Close ends the connections on which nothing is asked.
func (c *CA) Close() { c.close() }

// Sign implements ca.Upstream.
func (c *CA) Sign(ctx context.Context, r ca.UpstreamRequest) ([]*x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w: the request cannot be read: %w", ca.ErrInvalid, err)
	}
	kind := kindOf(r.Leaf)
	d, err := c.describe(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(d.signs, kind) {
		return nil, fmt.Errorf("%w: plug-in %s: it signs %s and no %s", ca.ErrDenied, c.cfg.Name, strings.Join(d.signs, " and "), kind)
	}
	ttl := r.TTL
	if most := d.longest[kind]; most > 0 {
		ttl = min(ttl, most)
	}
	q := question{
		Version: version, Op: opSign, ID: requestID(kind, r.ID, csr), Kind: kind, TrustDomain: c.cfg.TrustDomain.Name(), URI: r.ID.String(),
		CSR:        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})),
		TTLSeconds: int64(ttl / time.Second), SkewSeconds: int64(skew / time.Second),
	}
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: plug-in %s: others are asked first: %w", ca.ErrUnavailable, c.cfg.Name, ctx.Err())
	}
	a, err := c.put(ctx, q)
	if err != nil {
		return nil, err
	}
	chain, err := c.chainOf(a.Chain, csr, r, ttl)
	if err != nil {
		return nil, fmt.Errorf("plug-in %s: what it signed: %w", c.cfg.Name, err)
	}
	return chain, nil
}

// requestID is the same for what is asked again: signatures of requests differ, keys do not.
func requestID(kind string, id spiffeid.ID, csr *x509.CertificateRequest) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", kind, id)
	sum.Write(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum.Sum(nil))
}

// chainOf reads a chain, and refuses what the caller cannot know to be wrong.
func (c *CA) chainOf(texts []string, csr *x509.CertificateRequest, r ca.UpstreamRequest, ttl time.Duration) ([]*x509.Certificate, error) {
	certs, err := ca.ParseCertificates(strings.Join(texts, "\n"))
	if err != nil {
		return nil, err
	}
	chain, err := certpath.Chain(csr.PublicKey, certs)
	if err != nil {
		return nil, err
	}
	first := chain[0]
	switch end := time.Now().Add(ttl); {
	case first.IsCA == r.Leaf:
		return nil, fmt.Errorf("%w: asked for a %s, it is none", ca.ErrInvalid, kindOf(r.Leaf))
	case first.NotAfter.After(end.Add(tolerance)):
		return nil, fmt.Errorf("%w: it ends at %s, asked for was %s: no longer than ttl_seconds", ca.ErrInvalid, first.NotAfter.Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	case first.NotAfter.Before(end.Add(-tolerance)):
		c.warnOnce(kindOf(r.Leaf), time.Until(first.NotAfter))
	}
	if len(chain) != len(certs) {
		c.warnOnce("certificates", 0)
	}
	return chain, nil
}

// warnOnce logs that what comes is other than asked for, once for each kind.
func (c *CA) warnOnce(what string, life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut[what]:
	case what == "certificates":
		c.log.Warn("the plug-in returns certificates that do not belong to the chain, which are left out")
	default:
		c.log.Warn("the plug-in gives certificates a shorter life than asked for", "reason", what, "duration", life)
	}
	c.cut[what] = true
}

// put asks, unless the plug-in wants to be left alone, and reads what it says.
func (c *CA) put(ctx context.Context, q question) (*answer, error) {
	if err := c.held(q.ID); err != nil {
		return nil, err
	}
	text, err := c.ask(ctx, q)
	if err == nil {
		var a *answer
		if a, err = read(text); err == nil {
			c.cfg.Metrics.count(c.cfg.Name, "answered")
			return a, nil
		}
		err = fmt.Errorf("plug-in %s: %s: %w", c.cfg.Name, q.Op, err)
	}
	c.cfg.Metrics.count(c.cfg.Name, outcome(err))
	if l, ok := errors.AsType[*later](err); ok {
		id := ""
		if errors.Is(err, ca.ErrPending) {
			id = q.ID
		}
		c.hold(id, hold{time.Now().Add(l.after), err})
	}
	return nil, err
}

// held returns why a question is not asked now.
func (c *CA) held(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range []string{"", id} {
		if h, ok := c.holds[key]; ok && time.Now().Before(h.until) {
			return h.err
		}
	}
	return nil
}

func (c *CA) hold(id string, h hold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.holds {
		if !time.Now().Before(h.until) {
			delete(c.holds, key)
		}
	}
	if len(c.holds) < maxHolds {
		c.holds[id] = h
	}
}

// later is an error that says when to ask again.
type later struct {
	error
	after time.Duration
}

func (l *later) Unwrap() error { return l.error }

// outcome is an error in one word.
func outcome(err error) string {
	switch {
	case errors.Is(err, errPrivateKey):
		return "private_key"
	case errors.Is(err, ca.ErrPending):
		return "pending"
	case errors.Is(err, ca.ErrDenied):
		return "denied"
	case errors.Is(err, ca.ErrInvalid):
		return "invalid"
	}
	return "unavailable"
}
