package bootstrap_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/testca"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// controlPlane is a gRPC server that answers every stream with an empty mesh, and keeps what it was
// sent as authorization.
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

func newCA(t *testing.T) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
}

func newLeaf(t *testing.T, ca *testca.Pair, uri string) tls.Certificate {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	leaf := testca.Sign(t, &x509.Certificate{
		URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
	return tls.Certificate{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}
}
