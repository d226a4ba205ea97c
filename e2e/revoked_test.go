//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// revokedDrain is the drain time of the Envoys: an older one ends live connections when it is over, every one the idle ones.
const revokedDrain = 2 * time.Second

// TestRevoked takes access away by an intention, by the revocation of a certificate and by that of its identity, where rules decide and where
// ext_authz does, and gives it back. When the command returns its holder is refused everywhere, live connections end as after the intention's removal, and
// another certificate of the service is let in as before.
func TestRevoked(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			newRevokedMesh(t, envoy).run()
		})
	}
}

// revokedMesh is a mesh in which web may connect to each of services, of which those that begin with db are tcp, the others http.
type revokedMesh struct {
	*meshtest.Mesh
	t        *testing.T
	services []string
	web      *tls.Certificate           // web's, which the control plane has issued to an application
	holder   map[string]meshtest.Client // with that one, by service
	other    map[string]meshtest.Client // with another one of web
}

func newRevokedMesh(t *testing.T, envoy string) *revokedMesh {
	t.Helper()
	m := &revokedMesh{
		Mesh: meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy}), t: t,
		holder: map[string]meshtest.Client{}, other: map[string]meshtest.Client{},
	}
	page, echo := serveHTTP(t, "hello"), serveEcho(t, "")
	for _, mode := range []string{"rbac", "ext_authz"} {
		config := []string{fmt.Sprintf("intention_enforcement = %q", mode)}
		m.Add(meshtest.Service{Name: "api-" + mode, Protocol: "http", Local: page, Config: config})
		m.Add(meshtest.Service{Name: "db-" + mode, Local: echo, Config: config})
		m.services = append(m.services, "api-"+mode, "db-"+mode)
	}
	m.Add(meshtest.Service{Name: "web"})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	m.Serve()
	var cars []*meshtest.Sidecar
	for _, s := range m.services {
		cars = append(cars, m.LaunchSidecar(s, "--drain-time", revokedDrain.String()))
	}
	for _, car := range cars {
		car.AwaitReady()
	}
	m.issue()
	for _, s := range m.services {
		c := m.Client("web", s)
		m.other[s] = c
		c.Certificate = m.web
		m.holder[s] = c
	}
	return m
}

// issue has the control plane give an application of web a certificate.
func (m *revokedMesh) issue() {
	m.t.Helper()
	dir := m.t.TempDir()
	token := tokenFile(m.t, filepath.Join(dir, "token"), strings.TrimSpace(m.MustRun("token", "create", "web")))
	cmd := exec.Command(sallyport, "svid", "write", "web", "--out", filepath.Join(dir, "web"), "--token-file", token, "--once", "--runtime-dir", m.Runtime)
	cmd.Env = meshtest.Environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("svid write: %v\n%s", err, out)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "web", "current", "svid.pem"), filepath.Join(dir, "web", "current", "key.pem"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.web = &pair
}

// let waits until all services let somebody in, or refuse him.
func (m *revokedMesh) let(what string, who map[string]meshtest.Client, in bool) {
	m.t.Helper()
	for _, s := range m.services {
		meshtest.Await(m.t, what+": "+s, func() error { return m.lets(s, who[s], in) })
	}
}

func (m *revokedMesh) lets(service string, c meshtest.Client, in bool) error {
	a := c.Get
	if strings.HasPrefix(service, "db") {
		a = c.Echo
	}
	arg := map[bool]string{true: "x", false: "/"}[strings.HasPrefix(service, "db")]
	if got := a(m.Public(service), arg); got.Allowed() != in || got.Denied() == in {
		return fmt.Errorf("%s: %v, want allowed=%t", service, got, in)
	}
	return nil
}

// heldByThief are connections of the holder.
type heldByThief struct {
	done sync.WaitGroup
	mu   sync.Mutex
	// ended is when each ended, or, of http, refused a request; zero: it did not.
	ended map[string]time.Time
}

// connect opens connections to all services: to those of tcp a busy one and an idle one, to those of http one with a request after the other.
func (m *revokedMesh) connect() *heldByThief {
	m.t.Helper()
	l := &heldByThief{ended: map[string]time.Time{}}
	watch := func(name string, alive func() bool) {
		l.mu.Lock()
		l.ended[name] = time.Time{}
		l.mu.Unlock()
		l.done.Go(func() {
			for end := time.Now().Add(2 * meshtest.Deadline); alive(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					return
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.ended[name] = time.Now()
		})
	}
	for _, s := range m.services {
		c := m.holder[s]
		if !strings.HasPrefix(s, "db") {
			tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c.Dial(m.Public(s)) }, MaxConnsPerHost: 1} //nolint:contextcheck // it dials for seconds at most
			m.t.Cleanup(tr.CloseIdleConnections)
			get := func() bool { return meshtest.Get(tr, "https://"+m.Public(s)+"/").Allowed() }
			if !get() {
				m.t.Fatalf("%s: the first request is refused", s)
			}
			watch(s+" request", get)
			continue
		}
		for _, kind := range []string{"busy", "idle"} {
			conn, err := c.Dial(m.Public(s))
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(func() { _ = conn.Close() })
			exchange := func() bool { return meshtest.Exchange(conn, "x", 1).Allowed() }
			if !exchange() {
				m.t.Fatalf("%s: the first exchange fails", s)
			}
			if kind == "idle" {
				exchange = func() bool {
					_ = conn.SetReadDeadline(time.Now().Add(2 * meshtest.Deadline))
					_, err := conn.Read(make([]byte, 1))
					return isTimeout(err)
				}
			}
			watch(s+" "+kind, exchange)
		}
	}
	return l
}

// ends demands that all connections of l end soon after access was taken away at some time, and says when they did.
func (m *revokedMesh) ends(what string, l *heldByThief, began time.Time, refused time.Duration) {
	m.t.Helper()
	l.done.Wait()
	var text strings.Builder
	fmt.Fprintf(&text, "%s: refused_ms=%.0f", strings.ReplaceAll(what, " ", "_"), millis(refused))
	for _, name := range slices.Sorted(maps.Keys(l.ended)) {
		at := l.ended[name]
		if at.IsZero() {
			m.t.Errorf("%s: %s lives", what, name)
			continue
		}
		fmt.Fprintf(&text, " %s_ms=%.0f", strings.ReplaceAll(name, " ", "_"), millis(at.Sub(began)))
		// A service ends connections every five seconds at most, and what is busy may take the time to drain.
		if took := at.Sub(began); took > 5*time.Second+revokedDrain+meshtest.Deadline {
			m.t.Errorf("%s: %s ended after %v", what, name, took)
		}
	}
	figure(m.t, "%s", &text)
}

// taken has access be taken away by a command, which returns when all refuse, and given back by another one.
func (m *revokedMesh) taken(what, name string, refused map[string]meshtest.Client) {
	m.t.Helper()
	l := m.connect()
	began := time.Now()
	out := m.MustRun("revoke", name, "--reason", "stolen")
	took := time.Since(began)
	for _, s := range m.services {
		if err := m.lets(s, refused[s], false); err != nil {
			m.t.Errorf("%s: the command has returned: %v\n%s", what, err, out)
		}
	}
	m.ends(what, l, began, took)
}

func (m *revokedMesh) run() {
	t := m.t
	m.let("at first", m.holder, true)
	m.let("at first", m.other, true)

	l := m.connect()
	m.Intend("*", meshtest.Intentions{"web": "deny"})
	began := time.Now()
	m.let("the intention is gone", m.holder, false)
	m.ends("the intention is gone", l, began, time.Since(began))
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	m.let("the intention is back", m.holder, true)

	serial := m.serial()
	m.taken("its certificate is revoked", serial, m.holder)
	m.let("another one", m.other, true)
	if r := m.Run("intention", "check", "web", "db-rbac"); r.Exit != 0 {
		t.Errorf("its certificate alone is revoked: %s", r.Stdout)
	}
	meshtest.Await(t, "Envoys report that they refused it, and why", func() error {
		all := ownMetrics(t, m.Mesh)
		for _, s := range []string{"api-rbac", "db-rbac"} {
			if name := fmt.Sprintf("sallyport_refusals_total{destination=%q,reason=\"revoked\"}", s); all[name] < 1 {
				return fmt.Errorf("%s is %v", name, all[name])
			}
		}
		return nil
	})
	m.MustRun("unrevoke", serial)
	m.let("its certificate is revoked no more", m.holder, true)

	m.taken("its identity is revoked", m.URI("web"), m.other)
	m.let("its identity is revoked", m.holder, false)
	if r := m.Run("intention", "check", "web", "db-rbac"); r.Exit != 1 || !strings.Contains(r.Stdout, "stolen") || !strings.Contains(r.Stdout, "sallyport unrevoke "+m.URI("web")) {
		t.Errorf("intention check: exit %d, %s", r.Exit, r.Stdout)
	}
	m.MustRun("unrevoke", m.URI("web"))
	m.let("its identity is revoked no more", m.holder, true)
	m.let("its identity is revoked no more", m.other, true)
}

// serial is the number of web's certificate as `sallyport leaf list` prints it, its beginning.
func (m *revokedMesh) serial() string {
	m.t.Helper()
	var leafs []struct{ Serial string }
	if err := json.Unmarshal([]byte(m.MustRun("leaf", "list", "web", "--json")), &leafs); err != nil || len(leafs) != 1 {
		m.t.Fatalf("%v: web has the leafs %+v", err, leafs)
	}
	return leafs[0].Serial[:12]
}

// TestRevokeByCommand: a control plane that may not write to its catalog has the command do it.
func TestRevokeByCommand(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("the control plane is to run as somebody else, so the test has to run as root")
	}
	const nobody = 65534
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, User: nobody, Prober: true})
	m.Add(meshtest.Service{Name: "api", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.AwaitCheck("web", "api", true)
	out := m.MustRun("revoke", m.URI("web"), "--reason", "stolen")
	if r := m.Run("intention", "check", "web", "api"); r.Exit != 1 || !strings.Contains(r.Stdout, "stolen") {
		t.Errorf("intention check: exit %d, %s\n%s", r.Exit, r.Stdout, out)
	}
	info, err := os.Stat(filepath.Join(m.Catalog, "revoked.yaml"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the list is %v, %v", info, err)
	}
	m.MustRun("unrevoke", m.URI("web"))
	m.AwaitCheck("web", "api", true)
}
