package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// handshakeTimeout bounds what a handshake waits for here: the first certificate, and the API's
// judgement.
const handshakeTimeout = 10 * time.Second

// suites12 are what TLS 1.2 is spoken with: ECDHE and AEAD.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// defaultALPN are the protocols that are offered and taken.
var defaultALPN = []string{"h2", "http/1.1"}

// config is what both sides have in common. Sessions are not resumed: a resumed one shows no
// certificate, and would come past the judgement.
func (s *Service) config(alpn []string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: alpn, SessionTicketsDisabled: true}
	if s.options.AllowTLS12 {
		c.MinVersion, c.CipherSuites = tls.VersionTLS12, suites12
	}
	return c
}

// ServerTLSConfig is for connections that come in: their peers are those whom the mesh lets connect to
// the service, which is asked in each handshake. While the API is away all are refused.
//
// alpn are the protocols that the application speaks, for ALPN; none given: "h2" and "http/1.1", as
// http.Server does. Nothing is to be changed in the config: each connection gets one of its own, in
// which changes do not show.
func (s *Service) ServerTLSConfig(alpn ...string) *tls.Config {
	if len(alpn) == 0 {
		alpn = defaultALPN
	}
	outer := s.serverConfig(s.ctx, alpn, nil)
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return s.serverConfig(hello.Context(), alpn, s.handle(hello.Conn, true)), nil
	}
	return outer
}

// serverConfig is a config for connections, or for that one that h stands for.
func (s *Service) serverConfig(ctx context.Context, alpn []string, h *handle) *tls.Config {
	config := s.config(alpn)
	config.ClientAuth = tls.RequireAnyClientCert                                         // VerifyConnection looks at it
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { //nolint:contextcheck // hello has its own
		ctx, cancel := context.WithTimeout(hello.Context(), handshakeTimeout)
		defer cancel()
		l, _, err := s.credentials(ctx)
		if err != nil {
			return nil, err
		}
		return &l.tls, nil
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		peer, err := s.judge(ctx, state, h)
		s.options.Metrics.judged(peer, err, time.Since(began))
		return err
	}
	return config
}

// judge decides whether a peer may come in. It returns who the peer is, if that is known.
func (s *Service) judge(ctx context.Context, state tls.ConnectionState, h *handle) (spiffeid.ID, error) {
	_, roots, err := s.credentials(ctx)
	if err != nil {
		return spiffeid.ID{}, err
	}
	peer, err := verify(state.PeerCertificates, roots, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if h != nil {
		// Before the question: a change that comes after the answer finds it.
		if err := s.register(h.connection, peer, state, x509.ExtKeyUsageClientAuth, roots); err != nil {
			return peer, err
		}
	}
	v, err := s.authorize(ctx, peer, serialNumber(state.PeerCertificates[0]))
	if err == nil && !v.allowed {
		err = fmt.Errorf("%s may not connect to %s: %w: %s", peer, s.name, ErrDenied, v.reason)
	}
	if err != nil && h != nil {
		s.live.remove(h.connection)
	}
	return peer, err
}

// authorize asks the API whether a peer may connect to the service.
func (s *Service) authorize(ctx context.Context, peer spiffeid.ID, serial string) (verdict, error) {
	body, err := json.Marshal(struct{ Target, ClientCertURI, ClientCertSerial string }{s.name, peer.String(), serial})
	if err != nil {
		return verdict{}, err
	}
	got, err := s.api.do(ctx, "authorize", http.MethodPost, "/v1/agent/connect/authorize", nil, body)
	if err != nil {
		return verdict{}, fmt.Errorf("nobody says whether %s may connect to %s: %w", peer, s.name, err)
	}
	return decodeVerdict(got.body)
}

// Handshake makes a connection of mutual TLS of one that is open, as its client, to the service whose
// SPIFFE ID it is: for addresses that do not come from the catalog. If it fails conn is closed. A peer
// that refuses shows in the first Read only, as TLS 1.3 has it.
//
// alpn are as in ServerTLSConfig.
func (s *Service) Handshake(ctx context.Context, conn net.Conn, peer spiffeid.ID, alpn ...string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	h := s.handle(conn, false)
	client := tls.Client(conn, s.clientConfig(peer, alpn, h)) //nolint:contextcheck // HandshakeContext brings it
	if err := client.HandshakeContext(ctx); err != nil {
		if h != nil {
			s.live.remove(h.connection)
		}
		_ = conn.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no handshake within %s: %w", handshakeTimeout, err)
		}
		return nil, err
	}
	return client, nil
}

// ClientTLSConfig is for connections to the service whose SPIFFE ID it is, for libraries that want a
// config. alpn are as in ServerTLSConfig. EndOnRevocation does not end these connections.
func (s *Service) ClientTLSConfig(peer spiffeid.ID, alpn ...string) *tls.Config {
	return s.clientConfig(peer, alpn, nil)
}

func (s *Service) clientConfig(peer spiffeid.ID, alpn []string, h *handle) *tls.Config {
	if len(alpn) == 0 {
		alpn = defaultALPN
	}
	config := s.config(alpn)
	config.InsecureSkipVerify = true // names in DNS mean nothing here: VerifyConnection looks at the SPIFFE ID
	config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		l, _, err := s.credentials(info.Context())
		if err != nil {
			return nil, err
		}
		return &l.tls, nil
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if s.ctx.Err() != nil {
			return s.notReady()
		}
		roots := s.state.roots.Load()
		if roots == nil {
			return s.notReady()
		}
		is, err := verify(state.PeerCertificates, roots, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if !same(is, peer) {
			return &otherPeer{is}
		}
		if h != nil {
			return s.register(h.connection, is, state, x509.ExtKeyUsageServerAuth, roots)
		}
		return nil
	}
	return config
}

// register makes c one of those that EndOnRevocation is about. roots are those that its peer was
// verified with; if there are others by now, which may have missed it, it is verified again.
func (s *Service) register(c *connection, peer spiffeid.ID, state tls.ConnectionState, usage x509.ExtKeyUsage, roots *x509bundle.Bundle) error {
	c.peer, c.chain, c.began = peer, state.PeerCertificates, time.Now()
	s.live.add(c)
	now := s.state.roots.Load()
	if now == roots {
		return nil
	}
	_, err := verify(c.chain, now, usage)
	if err != nil {
		s.live.remove(c)
	}
	return err
}

// otherPeer is the failure of a handshake with somebody else; Dial says more.
type otherPeer struct{ is spiffeid.ID }

func (e *otherPeer) Error() string { return fmt.Sprintf("the peer is %s: %v", e.is, ErrWrongPeer) }

func (e *otherPeer) Unwrap() error { return ErrWrongPeer }
