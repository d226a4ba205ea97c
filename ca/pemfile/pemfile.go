// Package pemfile has the CA behind the mesh's in files that somebody renews: an intermediate and its key, by which leafs are signed here,
// or a request that is written there and the chain that somebody has signed for it. Files are read again when they change; what cannot be
// used keeps what was good last.
package pemfile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config names the files, all in PEM. None may be written to by other users.
type Config struct {
	// TrustDomain is what certificates are signed for. Required.
	TrustDomain spiffeid.TrustDomain
	// Roots are what verifiers are to trust, self-signed. Required.
	Roots string
	// Chain is an intermediate, and after it each certificate that signed the one before. Required.
	Chain string
	// Key is the private key of Chain's first, which other users cannot read: each leaf is signed by it. Either this or Request.
	Key string
	// Request is where the request for an intermediate is written, for which somebody puts the certificate into Chain.
	Request string
	// Logger gets files that change, and why one cannot be used. Nil: nothing is logged.
	Logger *slog.Logger
}

const (
	// poll is how often files are looked at while nobody asks, glance how often at most.
	poll, glance = 10 * time.Second, time.Second
	// backdate is how long before it was signed a leaf is valid.
	backdate = time.Minute
)

// CA is the ca.Upstream.
type CA struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	glanced time.Time
	seen    [3]mark // of the files that made good
	good    *state  // nil: nothing was yet
	problem error   // of the files as they are now
}

var (
	_ ca.Upstream     = (*CA)(nil)
	_ ca.RootsProblem = (*CA)(nil)
)

// state is what the files said when they could be used.
type state struct {
	roots []*x509.Certificate
	chain []*x509.Certificate // nil without a Key
	key   crypto.Signer
}

// New returns a CA that has read nothing yet. The error is a mistake in cfg.
func New(cfg Config) (*CA, error) {
	switch {
	case cfg.TrustDomain.IsZero():
		return nil, errors.New("no trust domain")
	case cfg.Roots == "":
		return nil, errors.New("roots_file is missing: the file of the roots that verifiers are to trust")
	case cfg.Chain == "":
		return nil, errors.New("chain_file is missing: the file of the intermediate, and what signed it without the root")
	case (cfg.Key == "") == (cfg.Request == ""):
		return nil, errors.New("give either key_file, the intermediate's key, by which leafs are signed here, or request_file, where a request for an intermediate is written")
	}
	names := map[string]bool{}
	for _, name := range []string{cfg.Roots, cfg.Chain, cfg.Key + cfg.Request} {
		if names[name] {
			return nil, fmt.Errorf("%s is named twice: roots, chain and key or request are a file each", name)
		}
		names[name] = true
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &CA{cfg: cfg, log: cfg.Logger}, nil
}

// EachLeaf reports whether leafs are signed, and no intermediate.
func (c *CA) EachLeaf() bool { return c.cfg.Key != "" }

// Sign implements ca.Upstream.
func (c *CA) Sign(_ context.Context, r ca.UpstreamRequest) ([]*x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the request cannot be read: %w", ca.ErrInvalid, err)
	case r.Leaf && !c.EachLeaf():
		return nil, fmt.Errorf("%w: %s is signed by somebody, who signs no leafs", ca.ErrDenied, c.cfg.Chain)
	case !r.Leaf && c.EachLeaf():
		return nil, fmt.Errorf("%w: %s signs leafs, and no intermediate", ca.ErrDenied, c.cfg.Chain)
	case !r.Leaf:
		return c.answered(csr)
	}
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if end := s.chain[0].NotAfter; !now.Before(end) {
		return nil, fmt.Errorf("%w: %s: its intermediate ended at %s: put a new one there, and its key into %s", ca.ErrUnavailable, c.cfg.Chain, end.Format(time.RFC3339), c.cfg.Key)
	}
	leaf, err := s.sign(csr.PublicKey, r.ID, r.TTL, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ca.ErrInvalid, c.cfg.Chain, err)
	}
	return append([]*x509.Certificate{leaf}, s.chain...), nil
}

// answered returns the chain that somebody has signed for a request, which it writes where he finds it.
func (c *CA) answered(csr *x509.CertificateRequest) ([]*x509.Certificate, error) {
	certs, problem := readCertificates(c.cfg.Chain)
	if problem == nil {
		var chain []*x509.Certificate
		if chain, problem = certpath.Chain(csr.PublicKey, certs); problem == nil {
			if !chain[0].IsCA {
				return nil, fmt.Errorf("%w: %s: what is signed there is not a CA's: sign it with CA:TRUE", ca.ErrInvalid, c.cfg.Chain)
			}
			return chain, nil
		}
	}
	if err := c.write(csr); err != nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	return nil, fmt.Errorf("%w: sign the request %s as a CA's, and put the certificate, with its signers, into %s (now: %w)", ca.ErrPending, c.cfg.Request, c.cfg.Chain, problem)
}

// write writes a request unless one for its key is there.
func (c *CA) write(csr *x509.CertificateRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := checkPlace(c.cfg.Request); err != nil {
		return fmt.Errorf("the request is not written: %w", err)
	}
	if text, err := readFile(c.cfg.Request, public); err == nil {
		if block, _ := pem.Decode(text); block != nil {
			if there, err := x509.ParseCertificateRequest(block.Bytes); err == nil && bytes.Equal(there.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo) {
				return nil
			}
		}
	}
	if err := atomicfile.Replace(c.cfg.Request, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw})); err != nil {
		return fmt.Errorf("the request cannot be written: %w", err)
	}
	c.log.Info("a request for an intermediate is to be signed", "file", c.cfg.Request)
	return os.Chmod(c.cfg.Request, 0o644) //nolint:gosec // it is no secret, and others sign it
}

// WatchRoots implements ca.Upstream.
func (c *CA) WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error {
	var last []*x509.Certificate
	for ctx.Err() == nil {
		if s, err := c.current(); err == nil && !slices.EqualFunc(s.roots, last, (*x509.Certificate).Equal) {
			c.log.Info("the roots of the CA", "count", len(s.roots), "file", c.cfg.Roots)
			f(s.roots)
			last = s.roots
		}
		backoff.Sleep(ctx, poll)
	}
	return nil
}

// RootsProblem implements ca.RootsProblem.
func (c *CA) RootsProblem() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// current returns what the files say, or said when they could be used last. The error is that they never could.
func (c *CA) current() (*state, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.glanced) < glance && c.good != nil {
		return c.good, nil
	}
	c.glanced = now
	seen := c.marks()
	if c.good == nil || c.problem != nil || seen != c.seen {
		s, err := c.load(now)
		switch {
		case err == nil:
			if c.good != nil {
				c.log.Info("the files of the CA are read again", "file", c.cfg.Chain)
			}
			c.good, c.seen, c.problem = s, seen, nil
		case c.problem != nil && err.Error() == c.problem.Error(): // as was said
		case c.good == nil:
			c.log.Error("the files of the CA cannot be used", "err", err)
			c.problem = err
		default:
			c.log.Error("the files of the CA cannot be used: what they said last holds", "err", err)
			c.problem = err
		}
	}
	if c.good == nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrUnavailable, c.problem)
	}
	return c.good, nil
}

// load reads the files. What is returned signs leafs that proxies accept, if it signs any.
func (c *CA) load(now time.Time) (*state, error) {
	roots, err := readCertificates(c.cfg.Roots)
	if err != nil {
		return nil, err
	}
	s := &state{}
	for _, r := range roots {
		switch {
		case !r.IsCA || !certpath.SelfSigned(r):
			return nil, fmt.Errorf("%s: %.100q is not a root: self-signed, with CA:TRUE: leave it out", c.cfg.Roots, r.Subject)
		case now.After(r.NotAfter) || slices.ContainsFunc(s.roots, r.Equal):
		default:
			s.roots = append(s.roots, r)
		}
	}
	if len(s.roots) == 0 {
		return nil, fmt.Errorf("%s: all of its roots have ended: put the CA's root of today there", c.cfg.Roots)
	}
	slices.SortFunc(s.roots, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	if !c.EachLeaf() {
		return s, nil
	}
	if s.key, err = readKey(c.cfg.Key); err != nil {
		return nil, err
	}
	certs, err := readCertificates(c.cfg.Chain)
	if err != nil {
		return nil, err
	}
	if s.chain, err = certpath.Chain(s.key.Public(), certs); err != nil {
		return nil, fmt.Errorf("%s: %w: %s is the key of another one: if both are being replaced, the second is awaited", c.cfg.Chain, err, c.cfg.Key)
	}
	if uris := s.chain[0].URIs; len(uris) > 1 || len(uris) == 1 && uris[0].String() != c.cfg.TrustDomain.IDString() {
		return nil, fmt.Errorf("%s: the intermediate is for %.200v, want none or %s: have one signed for this trust domain", c.cfg.Chain, uris, c.cfg.TrustDomain.IDString())
	}
	return s, c.probe(s, now)
}

// probe signs a leaf, for nobody, and verifies it.
func (c *CA) probe(s *state, now time.Time) error {
	id, err := spiffeid.FromPath(c.cfg.TrustDomain, "/ns/default/dc/dc1/svc/probe")
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf, err := s.sign(key.Public(), id, time.Minute, now)
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.Chain, err)
	}
	bundle, _ := certpath.Bundle(s.roots, false, now)
	if err := certpath.VerifyChain(append([]*x509.Certificate{leaf}, s.chain...), bundle, certpath.Wanted{ID: id, Key: key.Public(), Now: now}); err != nil {
		return fmt.Errorf("%s, under the roots of %s: %w", c.cfg.Chain, c.cfg.Roots, err)
	}
	return nil
}
