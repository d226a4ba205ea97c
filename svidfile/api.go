package svidfile

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAnswer bounds an answer of the API.
	maxAnswer = 16 << 20
	// askTimeout bounds a question that does not wait for a change, waitTime how long one may wait, and grace what the answer may
	// take beyond that: Consul adds a sixteenth to spread them.
	askTimeout = 15 * time.Second
	waitTime   = 5 * time.Minute
	grace      = waitTime/16 + 30*time.Second
)

// client asks the HTTP API.
type client struct {
	base    string // "http://localhost", "https://consul.example:8501/prefix"
	address string // as it is named in errors
	http    http.Client
	token   token
}

// newClient returns a client of the API at an address as Consul's clients take it. variable is os.Getenv but in tests.
func newClient(address string, t token, variable func(string) string) (*client, error) {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "http", address
	}
	if ssl, _ := strconv.ParseBool(variable("CONSUL_HTTP_SSL")); ssl && scheme == "http" {
		scheme = "https"
	}
	c := &client{address: scheme + "://" + rest, token: t}
	dialer := &net.Dialer{Timeout: askTimeout}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: askTimeout, IdleConnTimeout: time.Minute}
	c.http.Transport = transport
	// An answer that points elsewhere is none: the token would go there too.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	switch scheme {
	case "unix":
		if rest == "" {
			return nil, fmt.Errorf("address %q of the API has no path: write unix:///path/of/the/socket", address)
		}
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", rest) }
		c.base = "http://localhost"
		return c, nil
	case "http":
	case "https":
		var err error
		if transport.TLSClientConfig, err = tlsOf(variable); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("address %q of the API has the scheme %q: write http, https or unix", address, scheme)
	}
	u, err := url.Parse(c.address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("address %q of the API is no host and port: write it as 127.0.0.1:8500 or unix:///path", address)
	}
	c.base = strings.TrimSuffix(c.address, "/")
	return c, nil
}

// tlsOf is how the environment wants an API over https to be spoken to.
func tlsOf(variable func(string) string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: variable("CONSUL_TLS_SERVER_NAME")}
	if f := variable("CONSUL_CACERT"); f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("CONSUL_CACERT: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("CONSUL_CACERT: %s has no certificate in PEM", f)
		}
	}
	cert, key := variable("CONSUL_CLIENT_CERT"), variable("CONSUL_CLIENT_KEY")
	if (cert == "") != (key == "") {
		return nil, errors.New("only one of CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY is set: set both, or none")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("CONSUL_CLIENT_CERT: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// ask reads the answer at path into out. With an index above 0 it waits until there is another one, or waitTime is over. It returns
// the index of the answer.
func (c *client) ask(ctx context.Context, path string, index uint64, out any) (uint64, error) {
	timeout, query := askTimeout, ""
	if index > 0 {
		timeout, query = waitTime+grace, fmt.Sprintf("?index=%d&wait=%s", index, waitTime)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

// send sends a body to path and reads the answer into out.
func (c *client) send(ctx context.Context, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := c.do(ctx, http.MethodPost, path, "", body, out)
	return err
}

// do asks a question and reads the answer into out. It returns the index of the answer.
func (c *client) do(ctx context.Context, method, path, query string, body []byte, out any) (uint64, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+query, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	text, err := c.token.now()
	if err != nil {
		return 0, err
	}
	if text != "" {
		req.Header.Set("X-Consul-Token", text)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return 0, fmt.Errorf("%s at %s: %w: is the control plane or Consul's agent running there? --api and CONSUL_HTTP_ADDR say where", path, c.address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("answer to %s at %s: %w", path, c.address, err)
	}
	if resp.StatusCode != http.StatusOK {
		said := strings.TrimSpace(strings.ToValidUTF8(string(b[:min(len(b), 600)]), ""))
		err := fmt.Errorf("%s at %s: %s: %s", path, c.address, resp.Status, said)
		if resp.StatusCode == http.StatusForbidden && !strings.Contains(said, "ACLs are off") { // then no token helps
			err = fmt.Errorf("%w: give it a token of the service: --token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN", err)
		}
		return 0, err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return 0, fmt.Errorf("answer to %s at %s: is not the API's: %w: does something else listen there?", path, c.address, err)
	}
	next, _ := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	return next, nil
}

// token is what the API is asked with.
type token struct {
	// text is the token; file, if it is not empty, is read for each question.
	text, file string
}

// findToken is the token that a flag names, or the environment.
func findToken(file string, variable func(string) string) token {
	if file == "" {
		if text := variable("CONSUL_HTTP_TOKEN"); text != "" {
			return token{text: text}
		}
		file = variable("CONSUL_HTTP_TOKEN_FILE")
	}
	return token{file: file}
}

// now is the token of now. The error says nothing of it.
func (t token) now() (string, error) {
	if t.file == "" {
		return t.text, nil
	}
	b, err := os.ReadFile(t.file)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("token: %s is empty, or has what no token has: write one line with the token into it", t.file)
	}
	return text, nil
}
