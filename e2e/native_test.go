//go:build e2e

package e2e

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
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// localAPI is Consul's HTTP API as applications without a sidecar ask it: the agent's, or sallyport's own.
type localAPI struct {
	t     *testing.T
	base  string
	http  *http.Client
	token func(service string) string
}

// apiOf is sallyport's API of m, on its socket.
func apiOf(t *testing.T, m *meshtest.Mesh) *localAPI {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.Runtime, "http.sock"))
	}}
	t.Cleanup(tr.CloseIdleConnections)
	tokens := map[string]string{}
	return &localAPI{t: t, base: "http://localhost", http: &http.Client{Transport: tr, Timeout: 20 * time.Second}, token: func(service string) string {
		if tokens[service] == "" {
			tokens[service] = strings.TrimSpace(m.MustRun("token", "create", service))
		}
		return tokens[service]
	}}
}

// agentAPI is that of a Consul agent without ACLs.
func agentAPI(t *testing.T, c *meshtest.Consul) *localAPI {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &localAPI{t: t, base: "http://" + c.Addr, http: &http.Client{Transport: tr, Timeout: 20 * time.Second}, token: func(string) string { return "" }}
}

func (a *localAPI) ask(method, path, token string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, body)
	if err != nil {
		return err
	}
	if token != "" {
		r.Header.Set("X-Consul-Token", token)
	}
	resp, err := a.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s %.200s", method, path, resp.Status, b)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// application is a native application: it shows a leaf that it fetched itself, and asks who may connect.
type application struct {
	api   *localAPI
	name  string
	token string
	leaf  atomic.Pointer[tls.Certificate]
	roots *x509.CertPool
	dials atomic.Int64 // connections that it took
}

func newApplication(api *localAPI, name string) *application {
	api.t.Helper()
	a := &application{api: api, name: name, token: api.token(name), roots: x509.NewCertPool()}
	a.leaf.Store(a.fetch(name, a.token))
	var roots struct{ Roots []struct{ RootCert string } }
	if err := api.ask(http.MethodGet, "/v1/agent/connect/ca/roots", a.token, nil, &roots); err != nil {
		api.t.Fatal(err)
	}
	for _, r := range roots.Roots {
		a.roots.AppendCertsFromPEM([]byte(r.RootCert))
	}
	return a
}

// fetch is the leaf of a service.
func (a *application) fetch(service, token string) *tls.Certificate {
	a.api.t.Helper()
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	if err := a.api.ask(http.MethodGet, "/v1/agent/connect/ca/leaf/"+service, token, nil, &leaf); err != nil {
		a.api.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		a.api.t.Fatal(err)
	}
	return &cert
}

// authorized judges who dials, as Consul's SDK does.
func (a *application) authorized(s tls.ConnectionState) error {
	if s.DidResume {
		return errors.New("the session was resumed")
	}
	leaf, inter := s.PeerCertificates[0], x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return err
	}
	var answer struct {
		Authorized bool
		Reason     string
	}
	question := map[string]string{"Target": a.name, "ClientCertURI": leaf.URIs[0].String(), "ClientCertSerial": fmt.Sprintf("%x", leaf.SerialNumber)}
	if err := a.api.ask(http.MethodPost, "/v1/agent/connect/authorize", a.token, question, &answer); err != nil {
		return err
	}
	if !answer.Authorized {
		return errors.New(answer.Reason)
	}
	a.dials.Add(1)
	return nil
}

// config is that of a server with ALPN as given.
func (a *application) config(protocols ...string) *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{
			Certificates: []tls.Certificate{*a.leaf.Load()}, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: a.authorized, NextProtos: protocols, SessionTicketsDisabled: true,
		}, nil
	}}
}

// listen makes the application listen on the port by TLS.
func (a *application) listen(port int, protocols ...string) net.Listener {
	a.api.t.Helper()
	l, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port), a.config(protocols...))
	if err != nil {
		a.api.t.Fatal(err)
	}
	a.api.t.Cleanup(func() { l.Close() })
	return l
}

// echo sends back what comes.
func (a *application) echo(port int) {
	a.api.t.Helper()
	l := a.listen(port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// http answers each request with its name, ALPN and version.
func (a *application) http(port int, protocols ...string) {
	a.api.t.Helper()
	l := a.listen(port, protocols...)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %q", a.name, r.Proto, r.TLS.NegotiatedProtocol)
	})}
	go func() { _ = s.Serve(l) }()
	a.api.t.Cleanup(func() { s.Close() })
}

// client dials the sidecar of a service.
func (a *application) client(m *meshtest.Mesh, server string) meshtest.Client {
	return meshtest.Client{Certificate: a.leaf.Load(), Roots: a.roots, Server: m.URI(server)}
}

// nativeMesh is a mesh with native services, and how it is told of them.
type nativeMesh struct {
	*meshtest.Mesh
	envoy string
	api   *localAPI
	// register adds a native instance on a port, healthy or not.
	register func(service string, port int, healthy bool)
	protocol func(service, protocol string)
}

// TestNative: sidecars and native applications reach each other, by the exact identity, as intentions say.
func TestNative(t *testing.T) { //nolint:tparallel // four Envoys at one time are enough load
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			native(t, nativeMesh{
				Mesh: m, envoy: envoy, api: apiOf(t, m),
				register: func(service string, port int, healthy bool) {
					status := "passing"
					if !healthy {
						status = "critical"
					}
					m.Write("native-"+service+".hcl", fmt.Sprintf("service {\n  name = %q\n  id = \"native-%s\"\n  address = \"127.0.0.1\"\n  port = %d\n  check { status = %q }\n  connect { native = true }\n}\n", service, service, port, status))
				},
				protocol: func(service, protocol string) {
					m.Write("defaults-"+service+".hcl", fmt.Sprintf("Kind = \"service-defaults\"\nName = %q\nProtocol = %q\n", service, protocol))
				},
			})
			if r := m.RunAlone("validate", m.Catalog); r.Exit != 0 || strings.Contains(r.Stdout+r.Stderr, "sidecar") {
				t.Errorf("validate: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
			}
		})
	}
}

// TestConsulNative is TestNative beside a Consul agent, from which the applications have their leafs and verdicts.
func TestConsulNative(t *testing.T) { //nolint:tparallel // as TestNative
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			c := meshtest.StartConsul(t, meshtest.Agent{})
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Envoy: envoy})
			native(t, nativeMesh{
				Mesh: m, envoy: envoy, api: agentAPI(t, c),
				register: func(service string, port int, healthy bool) {
					if !healthy { // of a check that is there a registration changes no status
						c.Must(http.MethodPut, "/v1/agent/check/fail/"+service, nil, nil)
						return
					}
					c.Register(map[string]any{
						"Name": service, "ID": "native-" + service, "Port": port, "Connect": map[string]any{"Native": true}, // dialled at its node's address
						"Check": map[string]any{"CheckID": service, "TTL": "1h", "Status": "passing"},
					})
				},
				protocol: func(service, protocol string) {
					c.PutConfig(map[string]any{"Kind": "service-defaults", "Name": service, "Protocol": protocol})
				},
			})
		})
	}
}

// nativeDrain is the drain time of the Envoy that native applications dial.
const nativeDrain = 3 * time.Second

func native(t *testing.T, m nativeMesh) {
	t.Helper()
	// Native: mail over tcp; sdk speaks http with ALPN as Consul's SDK has it, plain without ALPN, rpc HTTP/2.
	ports := map[string]int{"mail": m.Port(), "sdk": m.Port(), "plain": m.Port(), "rpc": m.Port()}
	for service, protocol := range map[string]string{"sdk": "http", "plain": "http", "rpc": "http2"} {
		m.protocol(service, protocol)
	}
	for service, port := range ports {
		m.register(service, port, true)
		m.Intend(service, meshtest.Intentions{"web": "allow"})
	}
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, ""), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "page", Protocol: "http", Local: serveHTTP(t, "hello from page"), CheckInterval: "1s"})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"mail", "sdk", "plain", "rpc"}, CheckInterval: "1s"})
	m.Intend("db", meshtest.Intentions{"mail": "allow", "web": "allow"})
	m.Intend("page", meshtest.Intentions{"sdk": "allow"})
	m.Serve()
	m.LaunchSidecar("db", "--drain-time", nativeDrain.String()).AwaitReady()
	m.Sidecars("web", "page")
	apps := map[string]*application{}
	for service := range ports {
		apps[service] = newApplication(m.api, service)
	}
	mail, sdk := apps["mail"], apps["sdk"]
	mail.echo(ports["mail"])
	sdk.http(ports["sdk"], "h2")
	apps["plain"].http(ports["plain"])
	apps["rpc"].http(ports["rpc"], "h2")

	toMail := func() meshtest.Answer { return meshtest.EchoPlain(m.Upstream("web", "mail"), "hello") }
	meshtest.Await(t, "web reaches the native services", func() error {
		if err := wantAllowed(toMail()); err != nil {
			return fmt.Errorf("mail: %w", err)
		}
		for service, want := range map[string]string{"sdk": `sdk HTTP/1.1 ""`, "plain": `plain HTTP/1.1 ""`, "rpc": `rpc HTTP/2.0 "h2"`} {
			if a := meshtest.GetPlain("http://" + m.Upstream("web", service)); a.Body != want {
				return fmt.Errorf("%s: %v %.100q, want %q", service, a, a.Body, want)
			}
		}
		return nil
	})
	meshtest.Await(t, "the status has the native services, and how they are", func() error { // beside Consul by its agent's checks
		if out := strings.Join(strings.Fields(m.MustRun("status")), " "); !regexp.MustCompile(`Applications without a sidecar .*native-mail, of mail, at \S+, native, passing`).MatchString(out) {
			return errors.New(out)
		}
		return nil
	})
	m.AwaitCheck("web", "mail", true)
	m.AwaitCheck("mail", "db", true)
	m.AwaitCheck("mail", "page", false)

	// Another service of the mesh in its place is not it.
	own := mail.leaf.Load()
	mail.leaf.Store(sdk.leaf.Load())
	if a := toMail(); !a.Denied() {
		t.Errorf("web → mail, which says that it is sdk: %v", a)
	}
	mail.leaf.Store(own)
	if a := toMail(); !a.Allowed() {
		t.Errorf("web → mail, which is itself again: %v", a)
	}

	// What intentions say of a native destination it enforces itself.
	m.Intend("mail", meshtest.Intentions{"web": "deny"})
	meshtest.Await(t, "mail refuses web", func() error { return wantDenied(toMail()) })
	m.AwaitCheck("web", "mail", false)
	m.Intend("mail", meshtest.Intentions{"web": "allow"})
	meshtest.Await(t, "mail lets web in", func() error { return wantAllowed(toMail()) })

	nativeDials(t, m, mail, sdk)
	nativeBesideSidecar(t, m, mail, ports["mail"])
}

// nativeDials has native applications dial sidecars.
func nativeDials(t *testing.T, m nativeMesh, mail, sdk *application) {
	t.Helper()
	toDB := func() meshtest.Answer { return mail.client(m.Mesh, "db").Echo(m.Public("db"), "hello") }
	if a := toDB(); !a.Allowed() {
		t.Errorf("mail → db: %v", a)
	}
	wrong := mail.client(m.Mesh, "page")
	if a := wrong.Echo(m.Public("db"), "hello"); a.Allowed() {
		t.Errorf("mail takes db for page: %v", a)
	}
	if a := sdk.client(m.Mesh, "db").Echo(m.Public("db"), "hello"); !a.Denied() {
		t.Errorf("sdk → db, which nothing allows: %v", a)
	}
	// With ALPN as Consul's SDK has it, which an http service's sidecar does not offer.
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{Certificates: []tls.Certificate{*sdk.leaf.Load()}, NextProtos: []string{"h2"}, InsecureSkipVerify: true}}
		return d.DialContext(ctx, "tcp", addr)
	}}
	defer tr.CloseIdleConnections()
	if a := meshtest.Get(tr, "https://"+m.Public("page")+"/"); a.Body != "hello from page" {
		t.Errorf("sdk → page: %v", a)
	}
	if a := mail.client(m.Mesh, "page").Get(m.Public("page"), "/"); a.Status != http.StatusForbidden {
		t.Errorf("mail → page, which nothing allows: %v", a)
	}

	live, err := mail.client(m.Mesh, "db").Dial(m.Public("db"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if a := meshtest.Exchange(live, "ping", 4); !a.Allowed() {
		t.Fatalf("a connection of mail to db: %v", a)
	}
	start := time.Now()
	m.Intend("db", meshtest.Intentions{"mail": "deny", "web": "allow"})
	refused, err := meshtest.Within(promise+room, func() error { return wantDenied(toDB()) })
	if err != nil {
		t.Errorf("mail is still let in to db after %v: %v", refused, err)
	}
	ends := promise
	if m.envoy == "1.36.4" { // from 1.39 on at the next byte
		ends = nativeDrain
	}
	_, err = meshtest.Within(ends+room, func() error {
		if a := meshtest.Exchange(live, "ping", 4); a.Allowed() {
			return fmt.Errorf("the live connection lives on: %v", a)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	figure(t, "mail_denied_by_db: refused_ms=%.0f live_ended_ms=%.0f", millis(refused), millis(time.Since(start)))
	if a := meshtest.Get(tr, "https://"+m.Public("page")+"/"); a.Body != "hello from page" {
		t.Errorf("sdk → page after a denial by db: %v", a)
	}
}

// nativeBesideSidecar gives mail an instance with a sidecar: each takes its share, and the one that is critical none.
func nativeBesideSidecar(t *testing.T, m nativeMesh, mail *application, port int) {
	t.Helper()
	other := serveEcho(t, "")
	m.Add(meshtest.Service{Name: "mail", Local: other, CheckInterval: "1s"})
	m.Sidecar("mail")
	ask := func() error {
		for range 10 {
			if a := meshtest.EchoPlain(m.Upstream("web", "mail"), "hello"); !a.Allowed() {
				return errors.New(a.String())
			}
		}
		return nil
	}
	meshtest.Await(t, "both kinds of instances are dialled", func() error {
		n, s := mail.dials.Load(), other.Dials.Load()
		if err := ask(); err != nil {
			return err
		}
		if n, s = mail.dials.Load()-n, other.Dials.Load()-s; n == 0 || s == 0 {
			return fmt.Errorf("%d connections to the native one, %d to the one with a sidecar", n, s)
		}
		return nil
	})
	m.register("mail", port, false)
	meshtest.Await(t, "the one that is critical is not dialled", func() error {
		n := mail.dials.Load()
		if err := ask(); err != nil {
			return err
		}
		if n = mail.dials.Load() - n; n > 0 {
			return fmt.Errorf("%d connections to it", n)
		}
		return nil
	})
}
