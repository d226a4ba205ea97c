package meshtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Client dials a sidecar's public port as itself, with a certificate of its own choice: what an
// attacker, or another mesh's sidecar, can do.
type Client struct {
	// Certificate is shown to the server if it asks; nil: none.
	Certificate *tls.Certificate
	// Roots and Server are what the server's certificate has to be of and say: the URI SAN. An
	// empty Server is not looked at.
	Roots  *x509.CertPool
	Server string
	// MaxVersion is the highest version of TLS spoken; 0: 1.3.
	MaxVersion uint16
	// HTTP2 speaks HTTP/2 in Get; else HTTP/1.1.
	HTTP2 bool
}

// Answer is what a client got.
type Answer struct {
	// Status is the http status; 0 for tcp, and if there was none.
	Status int
	// Body is what was received.
	Body string
	// Err is why there was nothing, or no more.
	Err error
	// Silent: neither an answer nor an end came until the client gave up.
	Silent bool
}

// Allowed reports whether the application answered: status 200, or text without an error.
func (a Answer) Allowed() bool {
	return a.Err == nil && (a.Status == http.StatusOK || a.Status == 0 && a.Body != "")
}

// Denied reports whether it was refused: status 403, or an end without a byte. Silence, another
// status and half an answer are neither.
func (a Answer) Denied() bool {
	return a.Status == http.StatusForbidden || a.Status == 0 && a.Err != nil && a.Body == "" && !a.Silent
}

// String is the answer for people.
func (a Answer) String() string {
	return fmt.Sprintf("status %d, %d bytes, err %v, silent %v", a.Status, len(a.Body), a.Err, a.Silent)
}

// patience is how long a client waits for an answer before it calls it silence.
const patience = 5 * time.Second

func (c Client) config() *tls.Config {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS10, // so that MaxVersion can be anything
		MaxVersion:         c.MaxVersion,
		InsecureSkipVerify: true, // VerifyConnection verifies by SPIFFE's rules
		VerifyConnection:   c.verify,
	}
	if c.HTTP2 {
		conf.NextProtos = []string{"h2"}
	}
	if c.Certificate != nil {
		// GetClientCertificate, since Certificates are sent only if the server names their issuer.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate, nil }
	}
	return conf
}

func (c Client) verify(s tls.ConnectionState) error {
	if c.Server == "" {
		return nil
	}
	inter := x509.NewCertPool()
	for _, i := range s.PeerCertificates[1:] {
		inter.AddCert(i)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.Roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != c.Server {
		return fmt.Errorf("server's certificate says %v, want %s", leaf.URIs, c.Server)
	}
	return nil
}

// Dial connects and does the handshake. A server of TLS 1.3 refuses a client's certificate after
// that: read a byte to know.
func (c Client) Dial(addr string) (*tls.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: c.config()}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// Echo connects, sends text and reads until as much has come back, or the end.
func (c Client) Echo(addr, text string) Answer {
	conn, err := c.Dial(addr)
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	return Exchange(conn, text, len(text))
}

// Listen connects and sends nothing for d; it is for servers that speak first.
func (c Client) Listen(addr string, d time.Duration) Answer {
	conn, err := c.Dial(addr)
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	return listen(conn, d)
}

// ListenPlain is Listen without TLS.
func ListenPlain(addr string, d time.Duration) Answer {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	return listen(conn, d)
}

func listen(conn net.Conn, d time.Duration) Answer {
	if err := conn.SetDeadline(time.Now().Add(d)); err != nil {
		return Answer{Err: err}
	}
	b, err := io.ReadAll(io.LimitReader(conn, 64<<10))
	a := Answer{Body: string(b), Err: err}
	if timedOut(err) {
		a.Silent, a.Err = len(b) == 0, nil
	} else if err == nil {
		a.Err = io.EOF
	}
	return a
}

// Exchange sends text on conn and reads n bytes.
func Exchange(conn net.Conn, text string, n int) Answer {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return Answer{Err: err}
	}
	// An error of the write is not the end: the answer, or an alert, may be there to be read.
	_, writeErr := io.WriteString(conn, text)
	b := make([]byte, n)
	got, err := io.ReadFull(conn, b)
	if err == nil {
		err = writeErr
	}
	return Answer{Body: string(b[:got]), Err: err, Silent: got == 0 && timedOut(err)}
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// Get asks for a path in http, on a connection of its own.
func (c Client) Get(addr, path string) Answer {
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: c.config(), ForceAttemptHTTP2: c.HTTP2}
	if c.HTTP2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetHTTP2(true)
	}
	defer tr.CloseIdleConnections()
	return Get(tr, "https://"+addr+path)
}

// Get asks for a URL through rt.
func Get(rt http.RoundTripper, url string) Answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return Answer{Err: err}
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return Answer{Err: err, Silent: timedOut(err) || errors.Is(err, context.DeadlineExceeded)}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return Answer{Status: resp.StatusCode, Body: string(b), Err: err}
}

// GetPlain asks for a URL without TLS, on a connection of its own: what an application does with
// its sidecar's upstream port.
func GetPlain(url string) Answer {
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	return Get(tr, url)
}

// EchoPlain connects without TLS, sends text and reads it back.
func EchoPlain(addr, text string) Answer {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	return Exchange(conn, text, len(text))
}
