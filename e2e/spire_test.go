//go:build e2e && spire

package e2e

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// spireServer is a SPIRE server of td-b.example, which offers its bundle by https_spiffe and follows that of td-a.example.
type spireServer struct {
	t        *testing.T
	dir      string
	endpoint string
}

func startSPIRE(t *testing.T, port, bundlePort, ours int) *spireServer {
	t.Helper()
	binary := os.Getenv("SPIRE_SERVER")
	if binary == "" {
		t.Fatal("SPIRE_SERVER is not set: `make test-spire` builds one and names it")
	}
	dir, err := os.MkdirTemp("", "spire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &spireServer{t, dir, fmt.Sprintf("https://127.0.0.1:%d/", bundlePort)}
	writeTo(t, filepath.Join(dir, "server.conf"), fmt.Sprintf(`server {
  bind_address = "127.0.0.1"
  bind_port    = "%d"
  socket_path  = "%s/api.sock"
  data_dir     = "%[2]s/data"
  trust_domain = "td-b.example"
  ca_ttl       = "24h"
  federation {
    bundle_endpoint {
      address      = "127.0.0.1"
      port         = %[3]d
      refresh_hint = "10s"
      profile "https_spiffe" {}
    }
    federates_with "td-a.example" {
      bundle_endpoint_url = "https://127.0.0.1:%[4]d"
      bundle_endpoint_profile "https_spiffe" { endpoint_spiffe_id = "spiffe://td-a.example/sallyport/bundle" }
    }
  }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "%[2]s/data/store" } }
  KeyManager "memory" { plugin_data {} }
}
`, port, dir, bundlePort, ours))
	meshtest.Start(t, "spire-server", filepath.Join(dir, "log"), exec.Command(binary, "run", "-config", filepath.Join(dir, "server.conf")))
	meshtest.Await(t, "SPIRE is up", func() error { _, err := s.try("healthcheck"); return err })
	return s
}

func (s *spireServer) try(args ...string) (string, error) {
	out, err := exec.Command(os.Getenv("SPIRE_SERVER"), append(args, "-socketPath", filepath.Join(s.dir, "api.sock"))...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

func (s *spireServer) run(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// mint is a workload that SPIRE gives a leaf.
func (s *spireServer) mint(path string, knows ...*x509bundle.Bundle) *foreignWorkload {
	s.t.Helper()
	dir := s.t.TempDir()
	s.run("x509", "mint", "-spiffeID", "spiffe://td-b.example"+path, "-write", dir)
	svid, err := x509svid.Load(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return &foreignWorkload{svid, x509bundle.NewSet(knows...)}
}

// authority is the ID of SPIRE's authority that is "active", "prepared" or "old".
func (s *spireServer) authority(which string) string {
	s.t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s.run("localauthority", "x509", "show", "-output", "json")), &all); err != nil {
		s.t.Fatal(err)
	}
	var one struct {
		ID string `json:"authority_id"`
	}
	if err := json.Unmarshal(all[which], &one); err != nil || one.ID == "" {
		s.t.Fatalf("no authority that is %s: %s, %v", which, all, err)
	}
	return one.ID
}

// TestSPIRE: a SPIRE server is the other trust domain. Its bundle is fetched by https_spiffe and followed through a rotation of its CA; its
// leafs pass as the callers that intentions name, and as whom an upstream names, and those of the mesh's CA in its names do not; and SPIRE
// follows ours.
func TestSPIRE(t *testing.T) {
	const billing, other = "spiffe://td-b.example/ns/prod/sa/billing", "spiffe://td-b.example/ns/prod/sa/other"
	domains := t.TempDir()
	var ports [4]int
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: meshtest.Version})
	for i := range ports {
		ports[i] = m.Port()
	}
	s := startSPIRE(t, ports[0], ports[1], ports[2])
	m.SetFlags("--trust-domain", "td-a.example", "--trust-domains", domains, "--bundle-address", fmt.Sprintf("127.0.0.1:%d", ports[2]), "--bundle-refresh-hint", "10s")
	writeTo(t, filepath.Join(domains, "td-b.json"), s.run("bundle", "show", "-format", "spiffe"))
	writeTo(t, filepath.Join(domains, "td-b.yaml"), "trust_domain: td-b.example\nbundle: td-b.json\nendpoint:\n  url: "+s.endpoint+
		"\n  profile: https_spiffe\n  spiffe_id: spiffe://td-b.example/spire/server\n")
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	for _, service := range []string{"api", "db"} {
		m.Write(service+"-callers.hcl", fmt.Sprintf("Kind = \"service-intentions\"\nName = %q\nSources = [{ spiffe_id = %q, Action = \"allow\" }]\n", service, billing))
	}
	m.Serve()
	bundle := bundleOf(t, m, "td-a.example")
	server := s.mint("/ns/prod/sa/billing", bundle)
	web, rpc := server.serve(t, "spiffe://td-a.example/ns/default/dc/dc1/svc/web")
	local := map[string]int{"http2": ports[3], "grpc": m.Port()}
	upstreams := ""
	for protocol, port := range map[string]int{"http2": web, "grpc": rpc} {
		upstreams += fmt.Sprintf("upstreams {\n spiffe_id = %q\n address = \"127.0.0.1\"\n port = %d\n protocol = %q\n local_bind_port = %d\n}\n", billing, port, protocol, local[protocol])
	}
	m.Write("web.hcl", fmt.Sprintf("service {\n name = \"web\"\n port = 1\n connect { sidecar_service {\n port = %d\n proxy {\n%s } } }\n}", m.Port(), upstreams))
	m.Sidecars("api", "db", "web")

	const services = "spiffe://td-a.example/ns/default/dc/dc1/svc/"
	asks := func(w *foreignWorkload) func() error {
		return func() error {
			conn, err := w.dial(m.Public("db"), services+"db")
			if err == nil {
				defer conn.Close()
				err = exchanges(conn)
			}
			return errors.Join(err, wantAllowed(w.get(m.Public("api"), services+"api", true)))
		}
	}
	refused := func(what string, w *foreignWorkload) {
		t.Helper()
		conn, err := w.dial(m.Public("db"), services+"db")
		if err == nil {
			err = exchanges(conn)
			conn.Close()
		}
		if a := w.get(m.Public("api"), services+"api", true); err == nil || !a.Denied() {
			t.Errorf("%s: db: %v, api: %v; want both refused", what, err, a)
		}
	}
	first := s.mint("/ns/prod/sa/billing", bundle)
	meshtest.Await(t, "SPIRE's billing is let in", asks(first))
	refused("SPIRE's other", s.mint("/ns/prod/sa/other", bundle))
	refused("billing by the mesh's own CA", newForeignWorkload(t, m.Authority(), billing, bundle))
	if out, err := s.try("x509", "mint", "-spiffeID", services+"web"); err == nil {
		t.Errorf("SPIRE signs for td-a.example: %s", out)
	}
	meshtest.Await(t, "web reaches SPIRE's billing", func() error {
		return wantAllowed(meshtest.GetPlain(fmt.Sprintf("http://127.0.0.1:%d/", local["http2"])))
	})
	meshtest.Await(t, "web reaches it in gRPC", func() error {
		return (*foreignWorkload)(nil).check(fmt.Sprintf("127.0.0.1:%d", local["grpc"]), "")
	})

	// SPIRE's rotation, from outside: a new root comes before it signs, the old one goes after.
	roots := func(n int, what string) {
		t.Helper()
		took, err := meshtest.Within(time.Minute, func() error {
			b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("td-b.example"), []byte(m.MustRun("bundle", "show", "--trust-domain", "td-b.example")))
			if err == nil && len(b.X509Authorities()) != n {
				err = fmt.Errorf("%d roots", len(b.X509Authorities()))
			}
			return err
		})
		if err != nil {
			t.Fatalf("%s: want %d roots: %v\n%s", what, n, err, m.MustRun("status"))
		}
		figure(t, "%s: fetched after %.1f s", what, took.Seconds())
	}
	s.run("localauthority", "x509", "prepare")
	roots(2, "prepare")
	s.run("localauthority", "x509", "activate", "-authorityID", s.authority("prepared"))
	second := s.mint("/ns/prod/sa/billing", bundle)
	meshtest.Await(t, "a leaf of the new CA is let in", asks(second))
	meshtest.Await(t, "and one of the old one", asks(first))
	old := s.authority("old")
	s.run("localauthority", "x509", "taint", "-authorityID", old)
	s.run("localauthority", "x509", "revoke", "-authorityID", old)
	roots(1, "revoke")
	meshtest.Await(t, "a leaf of the old CA is refused", func() error {
		if asks(first)() == nil {
			return errors.New("it is let in")
		}
		return nil
	})
	meshtest.Await(t, "one of the new CA is not", asks(second))
	if status := m.MustRun("status"); strings.Contains(status, "td-b.example, of which") {
		t.Errorf("the status warns: %s", status)
	}

	// Ours, as SPIRE sees it. It begins with what an operator gives it, and asks once a minute.
	file := filepath.Join(s.dir, "td-a.json")
	writeTo(t, file, m.MustRun("bundle", "show"))
	s.run("bundle", "set", "-format", "spiffe", "-id", "spiffe://td-a.example", "-path", file)
	m.MustRun("ca", "rotate")
	took, err := meshtest.Within(3*time.Minute, func() error {
		out := s.run("bundle", "list", "-format", "spiffe", "-id", "spiffe://td-a.example")
		b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("td-a.example"), []byte(out))
		// With so short a hint and so few leafs the first root may be gone before SPIRE asks.
		if err == nil && !slices.ContainsFunc(b.X509Authorities(), func(c *x509.Certificate) bool { return !bundle.HasX509Authority(c) }) {
			err = errors.New("only the first root")
		}
		return err
	})
	if err != nil {
		t.Fatalf("SPIRE does not know the mesh's second root: %v", err)
	}
	figure(t, "SPIRE knows the mesh's second root after %.0f s", took.Seconds())
}
