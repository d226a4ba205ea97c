package remote

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/unixsocket"
)

const (
	dialTimeout  = 5 * time.Second
	helloTimeout = 10 * time.Second
	idleTimeout  = 30 * time.Second
	// maxHeader bounds the header of an answer in bytes, maxFile a file that is read.
	maxHeader = 64 << 10
	maxFile   = 1 << 20
)

// errUnread is that a file of the Config cannot be used, and never could.
var errUnread = errors.New("cannot be used")

// staleFiles is an error of a question that was asked with what the files had before.
type staleFiles struct{ cause, problem error }

func (s *staleFiles) Error() string { return s.cause.Error() }
func (s *staleFiles) Unwrap() error { return s.cause }

// wrongUser is that somebody else answers at a Unix socket.
type wrongUser struct {
	uid     int
	allowed []int
}

func (w *wrongUser) Error() string {
	return fmt.Sprintf("the socket is user %d's, want %v", w.uid, w.allowed)
}

// refusedServer is what Verify or Reach said of the server.
type refusedServer struct{ err error }

func (r *refusedServer) Error() string { return r.err.Error() }
func (r *refusedServer) Unwrap() error { return r.err }

// badSocket says what is wrong with the URL of a Unix socket; empty: nothing.
func badSocket(u *url.URL) string {
	switch {
	case u.Host != "" || !filepath.IsAbs(u.Path):
		return "is no absolute path: write unix:///PATH"
	case len(u.Path) > unixsocket.MaxPath:
		return fmt.Sprintf("has a path of %d bytes, and a socket's has %d at most", len(u.Path), unixsocket.MaxPath)
	}
	return ""
}

// files has the transport that was made of the files as they were last. Its connections are those of one state of the files, so that a
// new certificate is shown, and an old root believed, by none that comes later.
type files struct {
	mu        sync.Mutex
	sum       [sha256.Size]byte
	transport *http.Transport
}

func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.transport != nil {
		f.transport.CloseIdleConnections()
	}
}

// overNetwork asks with the files as they are now, or as they were when they could be read last.
func (c *Client) overNetwork(req *http.Request) (*http.Response, error) {
	transport, problem := c.current()
	if transport == nil {
		return nil, fmt.Errorf("%w: %w", errUnread, problem)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil && problem != nil {
		return nil, &staleFiles{cause: err, problem: fmt.Errorf("besides, what was read earlier is used, as %w", problem)}
	}
	return resp, err
}

// current returns the transport, nil if there never was one, and what is wrong with the files now.
func (c *Client) current() (*http.Transport, error) {
	c.files.mu.Lock()
	defer c.files.mu.Unlock()
	config, sum, err := c.readFiles()
	if err != nil {
		return c.files.transport, err
	}
	if c.files.transport == nil || c.files.sum != sum {
		if c.files.transport != nil {
			c.files.transport.CloseIdleConnections()
		}
		c.files.transport, c.files.sum = c.newTransport(config), sum
	}
	return c.files.transport, nil
}

// readFiles makes the TLS configuration, and a sum of what it was made of.
func (c *Client) readFiles() (*tls.Config, [sha256.Size]byte, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.cfg.ServerName}
	if verify := c.cfg.Verify; verify != nil {
		config.InsecureSkipVerify = true // VerifyConnection judges in its place, resumed connections too
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if err := verify(state.PeerCertificates); err != nil {
				return &refusedServer{err}
			}
			return nil
		}
	}
	sum := sha256.New()
	if f := c.cfg.CAFile; f != "" {
		b, err := readFile(f)
		if err != nil {
			return nil, [sha256.Size]byte{}, fmt.Errorf("%s: %w", c.cfg.CAOption, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(b) {
			return nil, [sha256.Size]byte{}, fmt.Errorf("%s: %s has no certificate in PEM", c.cfg.CAOption, f)
		}
		sum.Write(b)
	}
	if c.cfg.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(c.cfg.CA)) {
			return nil, [sha256.Size]byte{}, fmt.Errorf("%s: it has no certificate in PEM", c.cfg.CAOption)
		}
	}
	if c.cfg.CertFile != "" {
		cert, err := readFile(c.cfg.CertFile)
		if err != nil {
			return nil, [sha256.Size]byte{}, fmt.Errorf("client certificate: %w", err)
		}
		key, err := readFile(c.cfg.KeyFile)
		if err != nil {
			return nil, [sha256.Size]byte{}, fmt.Errorf("key of the client certificate: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, [sha256.Size]byte{}, fmt.Errorf("client certificate %s with key %s: %w", c.cfg.CertFile, c.cfg.KeyFile, err)
		}
		// Shown even if the server names no CA that it is of: then it says what is wrong.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		sum.Write(cert)
		sum.Write(key)
	}
	return config, [sha256.Size]byte(sum.Sum(nil)), nil
}

// readFile reads a file that has no more than maxFile bytes.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is no file of %d bytes or less", name, maxFile)
	}
	return os.ReadFile(name)
}

// newTransport speaks HTTP/1.1: over HTTP/2 a refused client certificate is not told from a server that went away.
func (c *Client) newTransport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: helloTimeout,
		IdleConnTimeout: idleTimeout, MaxConnsPerHost: c.cfg.Connections, MaxIdleConnsPerHost: c.cfg.Connections, MaxResponseHeaderBytes: maxHeader,
		// The bound of an answer is on what is sent.
		DisableCompression: true,
		// What Verify goes by may change: nobody is asked by a connection that was judged earlier.
		DisableKeepAlives: c.cfg.Verify != nil,
	}
	if reach := c.cfg.Reach; reach != nil {
		t.Proxy = nil
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err == nil {
				err = reach(at.Addr().Unmap())
			}
			if err != nil {
				return &refusedServer{err}
			}
			return nil
		}
	}
	if c.socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "unix", c.socket)
			if err != nil || len(c.cfg.UIDs) == 0 {
				return conn, err
			}
			peer, err := unixsocket.PeerOf(conn)
			if err == nil && !slices.Contains(c.cfg.UIDs, peer.UID) {
				err = &wrongUser{uid: peer.UID, allowed: c.cfg.UIDs}
			}
			if err != nil {
				_ = conn.Close()
				return nil, err
			}
			return conn, nil
		}
	}
	return t
}
