//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// rotating is a mesh whose root is replaced under load: services of all protocols behind sidecars, applications without any, and other CAs.
type rotating struct {
	*meshtest.Mesh
	t    *testing.T
	cars []*meshtest.Sidecar
	// roots are those of the other CAs, by the names of the providers.
	roots map[string]*x509.CertPool
	// app is an application that fetches leaf and roots when it is told.
	app  *application
	apps *bystanders
}

// public are the services behind sidecars that are dialled.
var public = []string{"api", "two", "rpc", "db"}

func newRotating(t *testing.T, long bool) *rotating {
	t.Helper()
	m := &rotating{t: t, roots: map[string]*x509.CertPool{}}
	trust := func(name, root string) {
		t.Helper()
		text, err := os.ReadFile(root)
		m.roots[name] = x509.NewCertPool()
		if err != nil || !m.roots[name].AppendCertsFromPEM(text) {
			t.Fatalf("the root of %s: %v", name, err)
		}
	}
	plugin, files, vault, address := t.TempDir(), t.TempDir(), t.TempDir(), "127.0.0.1:1"
	pluginFor(t, plugin)
	trust("plugin", plugin+"/mesh-ca/root.pem")
	filesFor(t, files)
	trust("files", files+"/roots.pem")
	vaultCA := files + "/roots.pem" // nobody is there
	if long {
		address, _ = vaultFor(t, vault)
		vaultCA = caOf(t, vault)
		trust("vault", vault+"/root.pem")
	} else if err := os.WriteFile(vault+"/vault-token", []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := pageBlock(t, "certificates.md", "yaml", "ca_providers", "vault.example:8200", address, "/etc/sallyport/vault-ca.pem", vaultCA, "/etc/sallyport", vault,
		"/usr/local/lib/sallyport", plugin, "/var/lib/mesh-ca", plugin+"/mesh-ca", "/etc/offline-ca", files)
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Mesh = meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--config", file}, Prober: os.Geteuid() == 0})
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, tickingHealth(t))
	served, err := meshtest.ServeHTTP("127.0.0.1:0", "", rpc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(served.Close)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveStreams(t, "hello from api")})
	m.Add(meshtest.Service{Name: "two", Protocol: "http2", Local: serveStreams(t, "hello from two")})
	m.Add(meshtest.Service{Name: "rpc", Protocol: "grpc", Local: served})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: public})
	m.Add(meshtest.Service{Name: "aside", Upstreams: []string{"db"}})
	for _, name := range public {
		m.Intend(name, meshtest.Intentions{"web": "allow", "aside": "allow"})
	}
	registerBystanders(m.Mesh)
	m.Serve()
	m.cars = m.Sidecars(append([]string{"aside", "web"}, public...)...)
	m.app = newApplication(apiOf(t, m.Mesh), "web")
	m.apps = newBystanders(t, m.Mesh, long)
	return m
}

// load is of every kind: 500 requests a second in the long form, as many as a machine with other work answers else.
func (m *rotating) load(long bool) *meshtest.Load {
	m.t.Helper()
	c := meshtest.LoadConfig{
		URL: "http://" + m.Upstream("web", "api"), KeepAlive: 30, Fresh: 10, Streams: 3,
		TCP: m.Upstream("web", "db"), Held: 4, Dialled: 10,
	}
	two, each := meshtest.NewHTTP2("http://"+m.Upstream("web", "two")), 15
	m.t.Cleanup(two.Close)
	conn, err := grpc.NewClient("passthrough:///"+m.Upstream("web", "rpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	rpc, applications := healthClient{grpc_health_v1.NewHealthClient(conn)}, 2
	if long {
		c.KeepAlive, c.Fresh, c.Held, c.Dialled, each, applications = 150, 25, 10, 75, 115, 5
	}
	c.Calls = []meshtest.Call{{Rate: each, Do: two.Get}, {Rate: each, Do: rpc.check}}
	c.Holds = []meshtest.Hold{two.Hold, rpc.hold}
	m.apps.load(&c, applications)
	return startLoad(m.t, c)
}

// dial is a handshake with the sidecar of a service, and a word through it if it is db's. It returns the certificates that the sidecar shows.
func (m *rotating) dial(service string, cert *tls.Certificate) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{Certificates: []tls.Certificate{*cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	conn, err := d.DialContext(ctx, "tcp", m.Public(service))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if service != "db" {
		return shown, nil
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(conn, "x"); err != nil {
		return nil, err
	}
	_, err = conn.Read(make([]byte, 1))
	return shown, err
}

// phase awaits a phase, while the application fetches what it is told of.
func (m *rotating) phase(want string) {
	m.t.Helper()
	if took, err := meshtest.Within(3*time.Minute, func() error {
		s, err := caStatus(m.Mesh)
		if err != nil {
			return err
		}
		if err = m.app.refetch(); err != nil { // as a client that is told of changes does
			return err
		}
		now := ""
		if s.Rotation != nil {
			now = s.Rotation.Phase
		}
		if now != want {
			return fmt.Errorf("the phase is %q, want %q: %+v", now, want, s)
		}
		return nil
	}); err != nil {
		m.t.Fatalf("after %v: %v", took, err)
	}
}

// signedBy fails the test unless everybody shows a leaf of a provider, and of no other.
func (m *rotating) signedBy(provider string) {
	m.t.Helper()
	if s, err := caStatus(m.Mesh); err != nil || s.Provider != provider || len(s.Roots) != 1 || s.Roots[0].Provider != provider {
		m.t.Errorf("%v, %+v, want %s alone", err, s, provider)
	}
	for _, service := range public {
		shown, err := m.dial(service, m.app.leaf.Load())
		if err != nil {
			m.t.Fatalf("%s, with a leaf of the new root: %v", service, err)
		}
		above := x509.NewCertPool()
		for _, c := range shown[1:] {
			above.AddCert(c)
		}
		for name, roots := range m.roots {
			_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if is := err == nil; is != (name == provider) {
				m.t.Errorf("the leaf of %s leads to the root of %s: %v, want %v (%v)", service, name, is, name == provider, err)
			}
		}
	}
}

// TestCARotation replaces the root under load of all protocols, which nobody notices: first while one sidecar is stopped, and the control
// plane is killed in each phase: who is stopped is named and waited for, also after the start. Then another CA signs; in the long form OpenBao, a plug-in,
// files and the built-in root, one after the other.
func TestCARotation(t *testing.T) {
	t.Parallel()
	long := os.Getenv(longVariable) != ""
	m := newRotating(t, long)
	first := m.app.leaf.Load()
	if _, err := m.dial("db", first); err != nil {
		t.Fatalf("before the rotation: %v", err)
	}
	same := unmodified(t, m.cars...)
	load := m.load(long)
	to := []string{"", "plugin"}
	if long {
		to = []string{"", "vault", "plugin", "files", "builtin"}
	}
	for i, provider := range to {
		old, start := m.app.leaf.Load(), time.Now()
		what := "a rotation to " + provider
		if i == 0 {
			what, provider = "a rotation of the root", "builtin"
			m.whileStopped(m.cars[0])
		} else {
			m.MustRun("ca", "rotate", "--to", provider)
		}
		m.phase("activate")
		activated := time.Since(start)
		if _, err := m.dial("db", old); err != nil {
			t.Errorf("%s, before the old root has left: %v", what, err)
		}
		if i == 0 {
			m.killedLater()
		}
		m.phase("")
		meshtest.Await(t, what+": a leaf of the old root is refused", func() error {
			if _, err := m.dial("db", old); err == nil {
				return errors.New("it is let in")
			}
			return nil
		})
		m.signedBy(provider)
		same(what)
		m.apps.kept(t)
		figure(t, "%s: activated_s=%.0f rotated_s=%.0f", what, activated.Seconds(), time.Since(start).Seconds())
	}
	if _, err := m.dial("db", first); err == nil {
		t.Error("the first leaf is let in")
	}
	report := load.Stop()
	figure(t, "requests_per_s=%.0f", float64(report.Requests)/report.To.Sub(report.From).Seconds())
	unscathed(t, "rotations of the root", report)
	same("rotations of the root")
	if out := m.MustRun("ca", "status"); !strings.Contains(out, "rotation: none") {
		t.Error(out)
	}
}

// whileStopped begins a rotation while the Envoy of a sidecar is stopped: it is named, also by the next process after the control plane was
// killed, and waited for.
func (m *rotating) whileStopped(car *meshtest.Sidecar) {
	t := m.t
	t.Helper()
	pid := envoyOf(t, car)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	t.Cleanup(func() {
		if !resumed {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	m.MustRun("ca", "rotate")
	named := func(what string) {
		t.Helper()
		meshtest.Await(t, what, func() error {
			s, err := caStatus(m.Mesh)
			if err == nil && (s.Rotation == nil || s.Rotation.Phase != "prepare" || len(s.Rotation.Waiting) == 0 || !s.waits("proxy "+car.Name+"-sidecar-proxy")) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
	named("the sidecar that is stopped is named")
	m.apps.restarted(t, func() {
		m.KillServe()
		m.Serve()
	})
	named("the sidecar that is stopped is named after a start")
	time.Sleep(12 * time.Second) // longer than it takes when nobody is waited for
	named("it is waited for")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	resumed = true
}

// refetch is what a client does that waits for changes: the roots and the leaf anew.
func (a *application) refetch() error {
	var roots struct{ Roots []struct{ RootCert string } }
	if err := a.api.ask("GET", "/v1/agent/connect/ca/roots", a.token, nil, &roots); err != nil {
		return err
	}
	a.leaf.Store(a.fetch(a.name, a.token))
	return nil
}

// killedLater kills the control plane once more while the new root is activated, and as the old root leaves, or has just left.
func (m *rotating) killedLater() {
	t := m.t
	t.Helper()
	kill := func() {
		t.Helper()
		m.apps.restarted(t, func() {
			m.KillServe()
			m.Serve()
		})
	}
	kill()
	m.phase("activate") // as before
	if _, err := m.dial("db", m.app.leaf.Load()); err != nil {
		t.Errorf("with a leaf of the new root after a kill: %v", err)
	}
	if took, err := meshtest.Within(3*time.Minute, func() error {
		s, err := caStatus(m.Mesh)
		if err == nil && len(s.Roots) != 1 {
			err = fmt.Errorf("%+v", s)
		}
		return errors.Join(m.app.refetch(), err)
	}); err != nil {
		t.Fatalf("after %v: %v", took, err)
	}
	kill()
}
