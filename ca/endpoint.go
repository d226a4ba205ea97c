package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/keyring"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// EndpointConfig says where the authority of the control plane's own endpoint is kept.
type EndpointConfig struct {
	// Dir is its own directory, not the CA's. It is made, with mode 0700, if it is missing.
	// Required.
	Dir string
	// Keys encrypt all that is written to Dir, and what is there. Nil: it is in clear.
	Keys *keyring.Keyring
	// TrustDomain is the mesh's. Required: another than the one that Dir was made with is an error.
	TrustDomain spiffeid.TrustDomain
	// Names are the host names and IP addresses by which clients reach the endpoint, for its
	// certificate. May be empty: Envoys go by the URI alone. Others are an error.
	Names []string
	// Logger gets failed renewals. Nil: nothing is logged.
	Logger *slog.Logger
}

// Endpoint is the certificate of the control plane's TLS endpoint, under a root of its own: a mesh
// whose root is being replaced still reaches the control plane that replaces it. OpenEndpoint makes
// it, Close ends it.
type Endpoint struct {
	authority *authority
	log       *slog.Logger
	id        spiffeid.ID
	profile   profile

	mu      sync.Mutex
	current *tls.Certificate
	term    term
}

// endpointTTL is how long the endpoint's certificate is valid. The endpoint renews it by itself, so
// a leaf's lifetime is enough.
const endpointTTL = DefaultLeafTTL

// CheckEndpointNames returns an error unless all of names are what EndpointConfig takes.
func CheckEndpointNames(names []string) error {
	_, err := serverProfile(names)
	return err
}

// OpenEndpoint opens the authority in cfg.Dir, or makes a new one, with the same care and the same
// errors as Open.
func OpenEndpoint(cfg EndpointConfig) (*Endpoint, error) {
	if cfg.TrustDomain.IsZero() {
		return nil, errors.New("certificate of the endpoint: no trust domain")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	id, err := spiffeid.FromSegments(cfg.TrustDomain, "sallyport", "xds")
	if err != nil {
		return nil, fmt.Errorf("certificate of the endpoint: %w", err)
	}
	p, err := serverProfile(cfg.Names)
	if err != nil {
		return nil, fmt.Errorf("certificate of the endpoint: %w", err)
	}
	a, err := openAuthority(authorityConfig{
		dir: cfg.Dir, trustDomain: cfg.TrustDomain,
		rootTTL: defaultRootTTL, intermediateTTL: DefaultIntermediateTTL, leafTTL: endpointTTL, log: log, keys: cfg.Keys,
	})
	if err != nil {
		return nil, fmt.Errorf("certificate of the endpoint: %w", err)
	}
	e := &Endpoint{authority: a, log: log, id: id, profile: p}
	if _, err := e.certificate(nil); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close releases the directory.
func (e *Endpoint) Close() error { return e.authority.disk.close() }

// TLSConfig is a server's configuration: TLS 1.3 with the endpoint's certificate, renewed as
// handshakes ask for it. Clients show no certificate; their token says who they are. The caller may
// change it.
func (e *Endpoint) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		GetCertificate:         e.certificate,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
	}
}

// RootsPEM are the certificates that clients of the endpoint verify it with, as PEM.
func (e *Endpoint) RootsPEM() []byte {
	var b []byte
	for _, cert := range e.authority.trusted() {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: cert.Raw})...)
	}
	return b
}

// URI is the URI SAN of the endpoint's certificate, which Envoys demand, by whatever name they reach
// it: spiffe://<trust domain>/sallyport/xds.
func (e *Endpoint) URI() string { return e.id.String() }

// certificate is a tls.Config's GetCertificate. If renewal fails, the old certificate serves as
// long as it is valid.
func (e *Endpoint) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.current != nil && !e.term.due(now, now.Sub(e.term.begin)) {
		return e.current, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	var chain []*x509.Certificate
	if err == nil {
		chain, err = e.authority.issue(e.profile, e.id, key.Public(), endpointTTL, now)
	}
	if err != nil {
		err = fmt.Errorf("certificate of the endpoint: %w", err)
		if e.current == nil || valid(e.current.Leaf, now) != nil {
			return nil, err
		}
		e.log.Error("certificate of the endpoint not renewed, the last one stays in use", "err", err)
		return e.current, nil
	}
	next := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		next.Certificate = append(next.Certificate, cert.Raw)
	}
	e.current, e.term = next, newTerm(now, chain[0], 0)
	return next, nil
}
