package ca

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func mustOpenEndpoint(t *testing.T, dir string) *Endpoint {
	t.Helper()
	e, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: trustDomain(t)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// dial makes a handshake with server under client and returns the certificate that it was shown.
func dial(t *testing.T, server, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, server).HandshakeContext(t.Context()) }()
	conn := tls.Client(b, client)
	err := conn.HandshakeContext(t.Context())
	b.Close()
	serverErr := <-done
	if err != nil {
		return nil, err
	}
	if serverErr != nil {
		return nil, serverErr
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

// client verifies as Envoy does: the chain, and the URI SAN.
func client(e *Endpoint) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.RootsPEM())
	return &tls.Config{
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			chain := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				chain.AddCert(c)
			}
			leaf := s.PeerCertificates[0]
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != e.URI() {
				return fmt.Errorf("URI SANs %v, want %s", leaf.URIs, e.URI())
			}
			_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}
}

func TestEndpoint(t *testing.T) {
	data := t.TempDir()
	c := mustOpen(t, Config{Dir: filepath.Join(data, "ca"), TrustDomain: trustDomain(t)})
	defer mustClose(t, c)
	dir := filepath.Join(data, "endpoint")
	e := mustOpenEndpoint(t, dir)
	if want := "spiffe://" + testDomain + "/sallyport/xds"; e.URI() != want {
		t.Errorf("URI() = %s, want %s", e.URI(), want)
	}
	cert, err := dial(t, e.TLSConfig(), client(e))
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || cert.IsCA || len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
		t.Errorf("server's certificate: usages %v, CA %t, DNS %v", cert.ExtKeyUsage, cert.IsCA, cert.DNSNames)
	}
	old := client(e)
	old.MaxVersion = tls.VersionTLS12
	if _, err := dial(t, e.TLSConfig(), old); err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("TLS 1.2: error %v, want that the version is not supported", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(rootOf(c))
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the mesh's root vouches for the endpoint")
	}
	roots := string(e.RootsPEM())
	if strings.Count(roots, "BEGIN CERTIFICATE") != 1 || strings.Contains(roots, "PRIVATE") {
		t.Errorf("RootsPEM() = %s", roots)
	}
	mustClose(t, e)

	e = mustOpenEndpoint(t, dir)
	if string(e.RootsPEM()) != roots {
		t.Error("another root after reopening")
	}
	mustClose(t, e)

	other := spiffeid.RequireTrustDomainFromString("other.example")
	if _, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: other}); err == nil || !strings.Contains(err.Error(), "configured is other.example") {
		t.Errorf("another trust domain: error %v", err)
	}
	if _, err := OpenEndpoint(EndpointConfig{Dir: dir}); err == nil || err.Error() != "certificate of the endpoint: no trust domain" {
		t.Errorf("no trust domain: error %v", err)
	}
	writeFile(t, readFile(t, dir, rootFile)[:100], dir, rootFile)
	if _, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: trustDomain(t)}); err == nil || !strings.Contains(err.Error(), "root.pem: is cut off: restore it from a backup") {
		t.Errorf("broken state: error %v", err)
	}
}

// TestEndpointNames: clients that go by the name or address that they dial, as all but Envoys do,
// find it in the certificate, and no other.
func TestEndpointNames(t *testing.T) {
	names := []string{"cp.example.com", "localhost", "10.0.0.5", "fd00::5", "my_host", "localhost"}
	e, err := OpenEndpoint(EndpointConfig{Dir: caDir(t), TrustDomain: trustDomain(t), Names: names})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, e)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.RootsPEM())
	for _, name := range names[:4] {
		if _, err := dial(t, e.TLSConfig(), &tls.Config{RootCAs: pool, ServerName: name}); err != nil {
			t.Errorf("a client of %s: %v", name, err)
		}
	}
	for _, name := range []string{"example.com", "10.0.0.6", "sallyport"} {
		if _, err := dial(t, e.TLSConfig(), &tls.Config{RootCAs: pool, ServerName: name}); err == nil {
			t.Errorf("a client of %s is content", name)
		}
	}
	cert, err := dial(t, e.TLSConfig(), client(e)) // an Envoy
	if err != nil || len(cert.DNSNames) != 3 || len(cert.IPAddresses) != 2 {
		t.Errorf("DNS %v, IP %v, %v", cert.DNSNames, cert.IPAddresses, err)
	}
	for _, name := range []string{"", "a b", "a..b", "-a", "https://a", "a:1", "*", "10.0.0.0/8", strings.Repeat("a.", 127) + "a.b"} {
		_, err := OpenEndpoint(EndpointConfig{Dir: caDir(t), TrustDomain: trustDomain(t), Names: []string{"a", name}})
		if err == nil || !strings.Contains(err.Error(), "neither a host name nor an address") {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestEndpointRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		e := mustOpenEndpoint(t, dir)
		defer mustClose(t, e)
		get := e.TLSConfig().GetCertificate
		first, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(endpointTTL / 2)
		if same, err := get(nil); err != nil || same != first {
			t.Errorf("renewed at half its life: %v", err)
		}
		time.Sleep(endpointTTL / 4)
		second, err := get(nil)
		if err != nil || second == first {
			t.Errorf("not renewed at three quarters of its life: %v", err)
		}
		// Nobody connects for years: whatever expired meanwhile is made anew at the next handshake.
		e.authority.disk.step = func(string) error { return syscall.ENOSPC }
		time.Sleep(3 * DefaultIntermediateTTL)
		if _, err := dial(t, e.TLSConfig(), client(e)); err != nil {
			t.Error(err)
		}
		if err := e.authority.health(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("health() = %v, want that the disk is full", err)
		}
		time.Sleep(defaultRootTTL)
		if _, err := get(nil); err == nil || !strings.HasPrefix(err.Error(), "certificate of the endpoint: sallyport root ") {
			t.Errorf("after the end of the root: error %v", err)
		}
	})
}
