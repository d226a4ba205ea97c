//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// foreignWorkload is a workload of another trust domain as go-spiffe has it: an SVID, and the bundles of those whom it knows.
type foreignWorkload struct {
	*x509svid.SVID
	*x509bundle.Set
}

// GetX509SVID makes it an x509svid.Source.
func (w *foreignWorkload) GetX509SVID() (*x509svid.SVID, error) { return w.SVID, nil }

func newForeignWorkload(t *testing.T, ca *meshtest.Authority, id string, knows ...*x509bundle.Bundle) *foreignWorkload {
	t.Helper()
	leaf := ca.Issue(t, meshtest.LeafSpec{URIs: []string{id}})
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range leaf.Certificate {
		chain = append(chain, der...)
	}
	svid, err := x509svid.ParseRaw(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return &foreignWorkload{svid, x509bundle.NewSet(knows...)}
}

// bundleOf is the bundle of a mesh as it gives it to others.
func bundleOf(t *testing.T, m *meshtest.Mesh, domain string) *x509bundle.Bundle {
	t.Helper()
	b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(domain), []byte(m.MustRun("bundle", "show")))
	if err != nil {
		t.Fatal(err)
	}
	return b.X509Bundle()
}

// serve answers in HTTP/1.1, HTTP/2 and gRPC until the test ends, and only whom id says.
func (w *foreignWorkload) serve(t *testing.T, id string) (web, rpc int) {
	t.Helper()
	only := tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))
	listen := func() (net.Listener, int) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l, l.Addr().(*net.TCPAddr).Port
	}
	forWeb, web := listen()
	s := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello in %s", r.Proto) }),
		TLSConfig: tlsconfig.MTLSServerConfig(w, w, only), ReadHeaderTimeout: time.Minute,
	}
	ended := make(chan error, 2)
	go func() { ended <- s.ServeTLS(forWeb, "", "") }()
	forRPC, rpc := listen()
	g := grpc.NewServer(grpc.Creds(grpccredentials.MTLSServerCredentials(w, w, only)))
	healthv1.RegisterHealthServer(g, health.NewServer())
	go func() { ended <- g.Serve(forRPC) }()
	t.Cleanup(func() {
		s.Close()
		g.Stop()
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	return web, rpc
}

// get asks the server of the identity id.
func (w *foreignWorkload) get(addr, id string, http2 bool) meshtest.Answer {
	tr := &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(w, w, tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))), Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	defer tr.CloseIdleConnections()
	return meshtest.Get(tr, "https://"+addr+"/")
}

// dial opens a connection for bytes to the server of the identity id.
func (w *foreignWorkload) dial(addr, id string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), meshtest.Deadline)
	defer cancel()
	d := tls.Dialer{Config: tlsconfig.MTLSClientConfig(w, w, tlsconfig.AuthorizeID(spiffeid.RequireFromString(id)))}
	return d.DialContext(ctx, "tcp", addr)
}

// check asks a server of gRPC how it is; a nil w: without TLS.
func (w *foreignWorkload) check(addr, id string) error {
	how := grpc.WithTransportCredentials(insecure.NewCredentials())
	if w != nil {
		how = grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(w, w, tlsconfig.AuthorizeID(spiffeid.RequireFromString(id))))
	}
	conn, err := grpc.NewClient(addr, how)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil && r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("%v", r)
	}
	return err
}

// serveHealth is an application of gRPC, without TLS.
func serveHealth(t *testing.T) *meshtest.Server {
	t.Helper()
	g := grpc.NewServer()
	healthv1.RegisterHealthServer(g, health.NewServer())
	s, err := meshtest.ServeHTTP("127.0.0.1:0", "", g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Stop()
		s.Close()
	})
	return s
}

// knows writes what a control plane is told of another trust domain whose roots are these; a SIGHUP has it read at once.
func knows(t *testing.T, dir, domain string, roots ...*meshtest.Authority) {
	t.Helper()
	var text []byte
	for _, r := range roots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate.Raw})...)
	}
	writeTo(t, filepath.Join(dir, domain+".pem"), string(text))
	writeTo(t, filepath.Join(dir, domain+".yaml"), "trust_domain: "+domain+"\nbundle: "+domain+".pem\n")
}

// exchanges reports whether bytes come back on a connection.
func exchanges(conn net.Conn) error {
	if a := meshtest.Exchange(conn, "x", 1); !a.Allowed() {
		return fmt.Errorf("%v", a)
	}
	return nil
}
