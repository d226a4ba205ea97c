//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestTwoTrustDomains: a service of one mesh calls that of another through both sidecars, each mesh with the other's bundle from a file,
// and as soon as one of them does not know the other any more nothing passes, in either mode. Beside them go-spiffe calls and is called, and
// nobody notices what changes about others.
func TestTwoTrustDomains(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		for _, enforcement := range []string{"rbac", "ext_authz"} {
			t.Run(envoy+"/"+enforcement, func(t *testing.T) {
				t.Parallel()
				mesh := func(td string) (m *meshtest.Mesh, domains string) {
					domains = t.TempDir()
					return meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy, Flags: []string{"--trust-domain", td, "--trust-domains", domains}}), domains
				}
				a, ofA := mesh("td-a.example")
				b, ofB := mesh("td-b.example")
				b.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello"), Config: []string{"intention_enforcement = \"" + enforcement + "\""}})
				port := a.Port()
				var more *others
				var upstreams string
				if (envoy == meshtest.Version) == (enforcement == "ext_authz") { // each Envoy and each mode once
					more, upstreams = newOthers(t, a, b, ofA, ofB, "intention_enforcement = \""+enforcement+"\"")
				}
				a.Write("web.hcl", fmt.Sprintf(`service {
  name = "web"
  port = 1
  connect { sidecar_service {
    port = %d
    proxy { upstreams {
      spiffe_id       = "spiffe://td-b.example/ns/default/dc/dc1/svc/api"
      address         = "127.0.0.1"
      port            = %d
      protocol        = "http"
      local_bind_port = %d
    } %s }
  } }
}`, a.Port(), b.PublicPort("api"), port, upstreams))
				const callers = "Kind = \"service-intentions\"\nName = \"api\"\nSources = [{ spiffe_id = \"spiffe://td-a.example/ns/default/dc/dc1/svc/%s\", Action = \"allow\" }]\n"
				b.Write("callers.hcl", fmt.Sprintf(callers, "web"))
				a.Serve()
				b.Serve()
				know := func(of, whose *meshtest.Mesh, domains, td string) {
					writeTo(t, filepath.Join(domains, "bundle.jwks"), whose.MustRun("bundle", "show"))
					writeTo(t, filepath.Join(domains, "td.yaml"), "trust_domain: "+td+"\nbundle: bundle.jwks\n")
					if err := of.ServeProcess().Signal(syscall.SIGHUP); err != nil {
						t.Fatal(err)
					}
				}
				status := func() error {
					r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
					if err != nil {
						return err
					}
					defer r.Body.Close()
					body, _ := io.ReadAll(r.Body)
					if r.StatusCode != http.StatusOK || !strings.Contains(string(body), "hello") {
						return fmt.Errorf("%d %.100q", r.StatusCode, body)
					}
					return nil
				}
				refused := func() error {
					if err := status(); err == nil {
						return errors.New("api answered")
					}
					return nil
				}
				a.Sidecar("web")
				cars := []*meshtest.Sidecar{b.Sidecar("api")}
				if more != nil {
					cars = append(cars, b.Sidecars("db", "rpc")...)
				}
				if err := refused(); err != nil {
					t.Fatal(err)
				}
				know(a, b, ofA, "td-b.example")
				know(b, a, ofB, "td-a.example")
				meshtest.Await(t, "web of td-a reaches api of td-b", status)
				if out := b.MustRun("intention", "check", "spiffe://td-a.example/ns/default/dc/dc1/svc/web", "api"); !strings.Contains(out, "Allowed") {
					t.Errorf("intention check: %s", out)
				}
				b.Write("callers.hcl", fmt.Sprintf(callers, "other"))
				meshtest.Await(t, "web is not let in any more", refused)
				b.Write("callers.hcl", fmt.Sprintf(callers, "web"))
				meshtest.Await(t, "and is again", status)
				if more != nil {
					b.Remove("callers.hcl")
					more.callers("api", webOfA, callerOfC)
					more.run(t, cars...)
				}
			})
		}
	}
}

func writeTo(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
