package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// TestTLS: over TLS the API is the same, the caller is its address, and without TLS nothing is answered.
func TestTLS(t *testing.T) {
	r := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ask := func(config *tls.Config, token, host string) (int, string, error) {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
		scheme := "https"
		if config == nil {
			scheme = "http"
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+l.Addr().String()+"/v1/agent/connect/ca/leaf/api", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("X-Consul-Token", token)
		res, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer func() { _ = res.Body.Close() }()
		if res.ProtoMajor != 1 {
			t.Errorf("HTTP/%d", res.ProtoMajor)
		}
		b, err := io.ReadAll(res.Body)
		return res.StatusCode, string(b), err
	}
	if code, body, err := ask(&tls.Config{RootCAs: pool}, "api", ""); err != nil || code != 200 || !strings.Contains(body, "PRIVATE KEY") {
		t.Errorf("over TLS: %d %s %v", code, body, err)
	}
	if code, body, err := ask(&tls.Config{RootCAs: pool}, "", ""); err != nil || code != 403 {
		t.Errorf("without a token: %d %s %v", code, body, err)
	}
	if code, body, err := ask(&tls.Config{RootCAs: pool}, "api", "evil.example"); err != nil || code != 421 {
		t.Errorf("another host: %d %s %v", code, body, err)
	}
	if code, body, err := ask(nil, "api", ""); err != nil || code != 400 || strings.Contains(body, "KEY") {
		t.Errorf("without TLS: %d %s %v", code, body, err)
	}
	if _, _, err := ask(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "api", ""); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	// Handshakes that do not go on are few, and others still get through.
	var silent []net.Conn
	for range handshaking * mostUnfinishedOfPeer {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		if _, err := c.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
			t.Fatal(err)
		}
	}
	r.unfinished[1].awaitUsed(t, handshaking*mostUnfinishedOfPeer)
	if _, _, err := ask(&tls.Config{RootCAs: pool}, "api", ""); err == nil {
		t.Error("no bound of handshakes")
	}
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/leaf/api", "api", ""); a.code != http.StatusOK {
		t.Errorf("on the socket meanwhile: %d %s", a.code, a.body)
	}
	for _, c := range silent {
		_ = c.Close()
	}
	r.unfinished[1].awaitUsed(t, 0)
	if code, _, err := ask(&tls.Config{RootCAs: pool}, "api", ""); err != nil || code != 200 {
		t.Errorf("after them: %d %v", code, err)
	}
	// The caller without a token is its address, and it came over TCP.
	peers := make(chan Peer, 1)
	r.config.Authority = peerNoter{peers}
	if _, _, err := ask(&tls.Config{RootCAs: pool}, "", ""); err != nil {
		t.Error(err)
	}
	if p := <-peers; p.Name != "127.0.0.1" || !p.TCP {
		t.Errorf("the peer is %+v", p)
	} else if process, err := p.Process(); err == nil {
		t.Errorf("the peer is a process: %v", process)
	}
}

// peerNoter is an Authority that tells who came.
type peerNoter struct{ peers chan Peer }

func (n peerNoter) Identify(_ context.Context, _ string, p Peer) (Caller, error) {
	n.peers <- p
	return Caller{ID: p.Name}, nil
}

func (peerNoter) Act(_ context.Context, c *Caller, service identity.Name, _ bool) error {
	return Denied(c, service, remedy)
}
