package bootstrap_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// controlPlane is a gRPC server that answers every stream with an empty mesh, and keeps what it was sent as authorization.
type controlPlane struct {
	address string
	tokens  chan string
	mu      sync.Mutex
	opened  int
	end     chan struct{} // closed: streams end
}

func newControlPlane(t *testing.T, network, address string, opts ...grpc.ServerOption) *controlPlane {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	cp := &controlPlane{address: l.Addr().String(), tokens: make(chan string, 100), end: make(chan struct{})}
	s := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(cp.stream))...)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return cp
}

func (cp *controlPlane) stream(_ any, s grpc.ServerStream) error {
	cp.mu.Lock()
	cp.opened++
	end := cp.end
	cp.mu.Unlock()
	md, _ := metadata.FromIncomingContext(s.Context())
	cp.tokens <- strings.Join(md.Get("authorization"), "|")
	failed := make(chan error, 1)
	go func() { // ends with the stream
		for {
			req := &discoveryv3.DeltaDiscoveryRequest{}
			err := s.RecvMsg(req)
			if err == nil && req.GetResponseNonce() == "" {
				err = s.SendMsg(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: req.GetTypeUrl(), Nonce: "1"})
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	select {
	case <-end:
		return nil
	case err := <-failed:
		return err
	}
}

// token is what the next stream carries.
func (cp *controlPlane) token(t *testing.T) string {
	t.Helper()
	select {
	case token := <-cp.tokens:
		return token
	case <-time.After(deadline):
		t.Fatal("no stream")
		return ""
	}
}

func (cp *controlPlane) streams() int {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.opened
}

// hangUp ends the streams that are open.
func (cp *controlPlane) hangUp() {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	close(cp.end)
	cp.end = make(chan struct{})
}

func newCA(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return sign(t, template, template, key, key), key
}

func newLeaf(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, uri string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key, caKey)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
