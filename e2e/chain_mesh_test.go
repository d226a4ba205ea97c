//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// routedMesh is a mesh in which web dials api, which has several instances, as other services may.
type routedMesh struct {
	*meshtest.Mesh
	t     *testing.T
	ports map[string]int // of sidecars, by instance
	apps  map[string]*meshtest.Server
}

func newRoutedMesh(t *testing.T, envoy string) *routedMesh {
	t.Helper()
	m := &routedMesh{Mesh: meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy}), t: t, ports: map[string]int{}, apps: map[string]*meshtest.Server{}}
	m.Write("defaults.hcl", `Kind = "proxy-defaults"
Name = "global"
Config { protocol = "http" }
`)
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	return m
}

// instance writes the registration of an instance; status is what its check says.
func (m *routedMesh) instance(service, id, version, status string) {
	m.t.Helper()
	if m.apps[id] == nil {
		app, err := meshtest.ServeHTTP("127.0.0.1:0", "", &echoingApp{instance: id, failed: map[string]int{}})
		if err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(app.Close)
		m.apps[id] = app
	}
	m.served(service, id, version, status, m.apps[id])
}

// served is instance of an application that the test has itself.
func (m *routedMesh) served(service, id, version, status string, app *meshtest.Server) {
	m.t.Helper()
	if m.ports[id] == 0 {
		m.ports[id] = m.Port()
	}
	m.Write(id+".hcl", fmt.Sprintf(`service {
  name    = %q
  id      = %q
  address = "127.0.0.1"
  port    = %d
  meta { version = %q }
  check { status = %q }
  connect { sidecar_service { port = %d, address = "127.0.0.1" } }
}
`, service, id, app.Port(), version, status, m.ports[id]))
}

// echoingApp says what it was asked.
type echoingApp struct {
	instance string
	mu       sync.Mutex
	failed   map[string]int // how often a key was answered with a failure
}

// seen is what an application was asked.
type seen struct {
	Instance, Method, URI string
	Headers               http.Header
}

func (a *echoingApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.Header.Get("Upgrade") == "websocket":
		a.upgrade(w)
		return
	case strings.HasSuffix(r.URL.Path, meshtest.StreamPath):
		r.URL.Path = meshtest.StreamPath
		meshtest.ServeStreams("").ServeHTTP(w, r)
		return
	case q.Get("slow") != "":
		d, _ := time.ParseDuration(q.Get("slow"))
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	case q.Get("fail") != "":
		// "503,2,key": twice for a key.
		var status, times int
		var key string
		if _, err := fmt.Sscanf(strings.ReplaceAll(q.Get("fail"), ",", " "), "%d %d %s", &status, &times, &key); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		a.mu.Lock()
		a.failed[key]++
		fails := a.failed[key] <= times
		a.mu.Unlock()
		if fails {
			w.WriteHeader(status)
			return
		}
	}
	w.Header().Set("X-From", "application")
	w.Header().Set("X-Secret", "of the application")
	_ = json.NewEncoder(w).Encode(seen{a.instance, r.Method, r.RequestURI, r.Header})
}

// upgrade is a WebSocket as far as sidecars look at it: after the handshake bytes go to and fro.
func (a *echoingApp) upgrade(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Instance: %s\r\n\r\n", a.instance)
	for {
		b, err := rw.ReadByte()
		if err != nil {
			return
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
	}
}

// asked is what became of a request.
type asked struct {
	status  int
	headers http.Header
	seen    seen // nothing unless an application answered
}

// client asks api as web's application does, on connections of its own.
func (m *routedMesh) client() *chainClient {
	tr := &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}
	m.t.Cleanup(tr.CloseIdleConnections)
	return &chainClient{addr: m.Upstream("web", "api"), tr: tr}
}

type chainClient struct {
	addr string
	tr   *http.Transport
}

// ask makes a request. headers are "Name: value".
func (c *chainClient) ask(ctx context.Context, method, uri string, headers ...string) (asked, error) {
	// As it is written: net/http would make it canonical.
	path, query, _ := strings.Cut(uri, "?")
	req := &http.Request{Method: method, URL: &url.URL{Scheme: "http", Host: c.addr, Opaque: "//" + c.addr + path, RawQuery: query}, Host: "api", Header: http.Header{}}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.tr.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return asked{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return asked{}, err
	}
	a := asked{status: resp.StatusCode, headers: resp.Header}
	if resp.StatusCode == http.StatusOK && method != http.MethodHead {
		if err := json.Unmarshal(body, &a.seen); err != nil {
			return a, fmt.Errorf("%q: %w", body, err)
		}
	}
	return a, nil
}

// socket is a WebSocket through web's sidecar.
type socket struct {
	net.Conn
	r        *bufio.Reader
	instance string
}

func openSocket(ctx context.Context, addr, path string) (*socket, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: c, r: bufio.NewReader(c)}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path)
	resp, err := http.ReadResponse(s.r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("a WebSocket is answered %d", resp.StatusCode)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	s.instance = resp.Header.Get("X-Instance")
	return s, s.echo()
}

// echo sends a byte and reads it.
func (s *socket) echo() error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := s.Write([]byte{'x'}); err != nil {
		return err
	}
	b, err := s.r.ReadByte()
	if err == nil && b != 'x' {
		err = errors.New("another byte came back")
	}
	return err
}

// hold is a WebSocket that is used all the while.
func (c *chainClient) hold(path string) meshtest.Hold {
	return func(ctx context.Context, alive func()) error {
		s, err := openSocket(ctx, c.addr, path)
		if err != nil {
			return err
		}
		defer s.Close()
		for {
			if err := s.echo(); err != nil {
				return err
			}
			alive()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// within is an error where n of so many requests are not within four times the deviation of a share.
func within(n, of int, share float64) error {
	// Four times the deviation of a binomial distribution, and one for its steps.
	mean := float64(of) * share
	if d := float64(n) - mean; d*d > 16*mean*(1-share)+1 {
		return errors.New(strconv.Itoa(n) + " of " + strconv.Itoa(of) + fmt.Sprintf(", and %.1f would be the share", mean))
	}
	return nil
}
