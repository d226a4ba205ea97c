//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestClientCertificates dials sidecars as web, with certificates that web's is not quite like.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	for _, s := range []shape{{mode: "rbac", protocol: "tcp"}, {mode: "both", protocol: "tcp"}, {mode: "ext_authz", protocol: "tcp"}, {mode: "rbac", protocol: "http"}, {mode: "ext_authz", protocol: "http"}, {mode: "both", protocol: "http"}} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			m, app, api := s.build(t, meshtest.Version)
			ca, td := m.Authority(), m.Status().TrustDomain
			foreign := meshtest.ForeignAuthority(t, td)
			web, batch := m.URI("web"), m.URI("batch")
			tests := []struct {
				name string
				cert *tls.Certificate
				max  uint16
				want bool
				// http: it gets through the handshake, and the answer is 403. The others get no answer at all.
				http bool
			}{
				{name: "web's", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), want: true},
				{name: "batch's", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{batch}}), http: true},
				{name: "none"},
				{name: "of a foreign root", cert: foreign.Issue(t, meshtest.LeafSpec{URIs: []string{web}})},
				{name: "expired", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, NotBefore: -2 * time.Hour, NotAfter: -time.Hour})},
				{name: "not valid yet", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, NotBefore: time.Hour, NotAfter: 2 * time.Hour})},
				{name: "web and batch", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web, batch}}), http: true},
				{name: "batch and web", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{batch, web}}), http: true},
				{name: "web twice", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web, web}}), http: true},
				{name: "no name", cert: ca.Issue(t, meshtest.LeafSpec{})},
				{name: "a DNS name", cert: ca.Issue(t, meshtest.LeafSpec{DNS: []string{"web"}})},
				{name: "its URI as DNS name", cert: ca.Issue(t, meshtest.LeafSpec{DNS: []string{web}})},
				{name: "its URI as common name", cert: ca.Issue(t, meshtest.LeafSpec{CommonName: web})},
				{name: "of another trust domain", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{strings.Replace(web, td, "elsewhere.consul", 1)}})},
				{name: "of another datacenter", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{strings.Replace(web, "/dc/dc1/", "/dc/dc2/", 1)}})},
				{name: "of another namespace", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{strings.Replace(web, "/ns/default/", "/ns/other/", 1)}})},
				{name: "web's, TLS 1.2", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), max: tls.VersionTLS12},
				{name: "web's, TLS 1.1", cert: ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), max: tls.VersionTLS11},
			}
			refused := 0
			for _, tt := range tests {
				requests, bytes := app.Requests.Load(), app.Bytes.Load()
				c := meshtest.Client{Certificate: tt.cert, MaxVersion: tt.max, Roots: ca.Roots, Server: m.URI("api")}
				a, _ := api.Decided(func() meshtest.Answer {
					if s.protocol == "tcp" {
						return c.Echo(m.Public("api"), "hello api\n")
					}
					return c.Get(m.Public("api"), "/")
				})
				reached := app.Requests.Load() != requests || app.Bytes.Load() != bytes
				switch {
				case tt.want && !a.Allowed():
					t.Errorf("certificate %s: %v, want an answer", tt.name, a)
				case !tt.want && !a.Denied():
					t.Errorf("certificate %s: %v, want it refused", tt.name, a)
				case !tt.want && a.Status != 0 && !tt.http:
					t.Errorf("certificate %s: %v, want the handshake to fail", tt.name, a)
				case !tt.want && reached:
					t.Errorf("certificate %s: refused, but the application heard of it", tt.name)
				case !tt.want:
					refused++
				}
			}
			if a := meshtest.GetPlain("http://" + m.Public("api") + "/"); a.Status != 0 || a.Silent {
				t.Errorf("without TLS: %v, want the connection closed", a)
			}
			figure(t, "certificates=%d refused=%d", len(tests), refused)
		})
	}
}

// TestUpstreamImpersonation: where api's sidecar should be somebody else answers, with a certificate of the mesh.
func TestUpstreamImpersonation(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "web"})
	m.Serve()
	ca := m.Authority()
	foreign := meshtest.ForeignAuthority(t, m.Status().TrustDomain)
	uri := func(service string) meshtest.LeafSpec { return meshtest.LeafSpec{URIs: []string{m.URI(service)}} }
	certs := []struct {
		name string
		cert func(service string) *tls.Certificate
		want bool
	}{
		{"batch's certificate", func(string) *tls.Certificate { return ca.Issue(t, uri("batch")) }, false},
		{"its name by a foreign root", func(s string) *tls.Certificate { return foreign.Issue(t, uri(s)) }, false},
		{"its name, expired", func(s string) *tls.Certificate {
			return ca.Issue(t, meshtest.LeafSpec{URIs: []string{m.URI(s)}, NotBefore: -2 * time.Hour, NotAfter: -time.Hour})
		}, false},
		{"its URI as DNS name", func(s string) *tls.Certificate {
			return ca.Issue(t, meshtest.LeafSpec{DNS: []string{m.URI(s)}})
		}, false},
		{"its own", func(s string) *tls.Certificate { return ca.Issue(t, uri(s)) }, true}, // so that the others are refused for what they are
	}
	m.Add(meshtest.Service{Name: "http", Protocol: "http"})
	m.Add(meshtest.Service{Name: "tcp"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"http", "tcp"}})
	m.Sidecar("web")
	ask := func(service string) meshtest.Answer {
		if service == "tcp" {
			return meshtest.EchoPlain(m.Upstream("web", service), "hello")
		}
		return meshtest.GetPlain("http://" + m.Upstream("web", service) + "/")
	}
	for _, c := range certs {
		for _, service := range []string{"http", "tcp"} {
			server := serveTLS(t, c.cert(service), service)
			m.Add(meshtest.Service{Name: service, Port: server.port})
			if c.want {
				meshtest.Await(t, c.name+" over "+service, func() error { return wantAllowed(ask(service)) })
				continue
			}
			// Once the handshake was tried the refusal is a refusal, not an upstream that Envoy does not have yet.
			meshtest.Await(t, "web's Envoy tries "+c.name+" over "+service, func() error {
				if a := ask(service); a.Allowed() {
					t.Fatalf("web → somebody with %s over %s: %v", c.name, service, a)
				}
				if server.accepted.Load() == 0 {
					return errors.New("not dialled yet")
				}
				return nil
			})
			for range 3 {
				if a := ask(service); a.Allowed() || service == "http" && a.Status != 503 {
					t.Errorf("web → somebody with %s over %s: %v, want it refused", c.name, service, a)
				}
			}
			if n := server.received(); n != 0 {
				t.Errorf("somebody with %s got %d requests or bytes over %s", c.name, n, service)
			}
		}
	}
}

// TestOpenSSL looks at a sidecar's port with a client that has nothing to do with us: TLS 1.3, the SPIFFE ID, and no entry without a certificate.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	m, _, _ := shape{mode: "rbac", protocol: "http"}.build(t, meshtest.Version)
	web := m.Client("web", "api")
	conn, err := web.Dial(m.Public("api"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	if state.Version != tls.VersionTLS13 || len(leaf.URIs) != 1 || leaf.URIs[0].String() != m.URI("api") || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		t.Errorf("api's sidecar: version %#x, names %v %v; want TLS 1.3 and %s alone", state.Version, leaf.URIs, leaf.DNSNames, m.URI("api"))
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		fmt.Println("NOTE: no openssl on this machine; TestOpenSSL looked with Go's client alone")
		return
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "web.pem"), filepath.Join(dir, "web.key")
	writePEM(t, certFile, keyFile, web.Certificate)
	request := "GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
	with := sClient(t, openssl, request, "-connect", m.Public("api"), "-cert", certFile, "-key", keyFile, "-cert_chain", certFile)
	for _, want := range []string{"TLSv1.3", "HTTP/1.1 200", "hello from api"} {
		if !strings.Contains(with, want) {
			t.Errorf("openssl s_client with web's certificate does not say %q:\n%s", want, with)
		}
	}
	if uri := opensslSAN(t, openssl, with); !strings.Contains(uri, "URI:"+m.URI("api")) {
		t.Errorf("openssl x509: subject alternative name %q, want URI:%s", uri, m.URI("api"))
	}
	without := sClient(t, openssl, request, "-connect", m.Public("api"))
	if strings.Contains(without, "HTTP/1.1") || !strings.Contains(without, "certificate required") {
		t.Errorf("openssl s_client without a certificate, want the alert \"certificate required\" and no answer:\n%s", without)
	}
	old := sClient(t, openssl, request, "-connect", m.Public("api"), "-tls1_2", "-cert", certFile, "-key", keyFile)
	if strings.Contains(old, "HTTP/1.1") || !strings.Contains(old, "protocol version") {
		t.Errorf("openssl s_client with TLS 1.2, want the alert \"protocol version\" and no answer:\n%s", old)
	}
}

// sClient runs openssl s_client, which ends when the server closes the connection.
func sClient(t *testing.T, openssl, input string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), openssl, append([]string{"s_client", "-ign_eof"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	out, _ := cmd.CombinedOutput() // the exit status of a refused handshake is 1
	return string(out)
}

func opensslSAN(t *testing.T, openssl, output string) string {
	t.Helper()
	b, _ := pem.Decode([]byte(output)) // which skips what is before
	if b == nil {
		t.Fatalf("no certificate in\n%s", output)
	}
	cmd := exec.CommandContext(t.Context(), openssl, "x509", "-noout", "-ext", "subjectAltName")
	cmd.Stdin = bytes.NewReader(pem.EncodeToMemory(b))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl x509: %v\n%s", err, out)
	}
	return string(out)
}

func writePEM(t *testing.T, certFile, keyFile string, c *tls.Certificate) {
	t.Helper()
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, certFile, string(chain))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// tlsServer poses as a sidecar: it answers http, or echoes, behind a certificate of its own.
type tlsServer struct {
	port     int
	accepted atomic.Int64 // connections
	received func() int64 // requests, or bytes
}

func serveTLS(t *testing.T, cert *tls.Certificate, protocol string) *tlsServer {
	t.Helper()
	app := serveEcho(t, "")
	if protocol == "http" {
		app = serveHTTP(t, "from an impostor")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &tlsServer{port: l.Addr().(*net.TCPAddr).Port, received: func() int64 { return app.Requests.Load() + app.Bytes.Load() }}
	conf := &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"}}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			go func() {
				defer raw.Close()
				conn := tls.Server(raw, conf)
				if conn.Handshake() != nil {
					return
				}
				back, err := net.Dial("tcp", app.Addr)
				if err != nil {
					return
				}
				defer back.Close()
				go func() { _, _ = io.Copy(back, conn); back.Close() }()
				_, _ = io.Copy(conn, back)
			}()
		}
	}()
	return s
}
