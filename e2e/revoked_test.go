//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestRevoked revokes a certificate and then an identity, where rules decide and where ext_authz does: who has it is refused, its live
// tcp connection ends, another certificate of the same service is let in as before, and all of it is undone.
func TestRevoked(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		for _, mode := range []string{"rbac", "ext_authz"} {
			t.Run(envoy+" "+mode, func(t *testing.T) {
				t.Parallel()
				revoked(t, envoy, mode)
			})
		}
	}
}

func revoked(t *testing.T, envoy, mode string) {
	t.Helper()
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web"})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	enforce(m, mode)
	m.Serve()
	m.Sidecars("api", "db")
	other := map[string]meshtest.Client{"api": m.Client("web", "api"), "db": m.Client("web", "db")}
	thief := map[string]meshtest.Client{"api": other["api"], "db": other["db"]}
	stolen := m.Client("web", "db").Certificate
	for name, c := range thief {
		c.Certificate = stolen
		thief[name] = c
	}
	ask := func(of map[string]meshtest.Client, name string) meshtest.Answer {
		if name == "api" {
			return of[name].Get(m.Public(name), "/")
		}
		return of[name].Echo(m.Public(name), "x")
	}
	await := func(what string, of map[string]meshtest.Client, allowed bool) {
		t.Helper()
		began := time.Now()
		for _, name := range []string{"api", "db"} {
			meshtest.Await(t, what+": "+name, func() error {
				if a := ask(of, name); a.Allowed() != allowed || a.Denied() == allowed {
					return fmt.Errorf("%v, want allowed=%t", a, allowed)
				}
				return nil
			})
		}
		figure(t, "%s %s: %s after %.0f ms", envoy, mode, what, millis(time.Since(began)))
	}
	await("at first", thief, true)
	await("at first", other, true)
	live, err := thief["db"].Dial(m.Public("db"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if a := meshtest.Exchange(live, "x", 1); !a.Allowed() {
		t.Fatalf("the live connection: %v", a)
	}

	sum := sha256.Sum256(stolen.Certificate[0])
	m.Write("revoked.yaml", fmt.Sprintf("revoked:\n- sha256: %q\n  spiffe_id: %q\n", hex.EncodeToString(sum[:]), m.URI("web")))
	await("its certificate is revoked", thief, false)
	await("its certificate is revoked, another one", other, true)
	if envoy == meshtest.Version { // an older Envoy ends busy connections when its time to drain is over
		meshtest.Await(t, "the live connection ends", func() error {
			if a := meshtest.Exchange(live, "x", 1); a.Allowed() {
				return fmt.Errorf("it lives: %v", a)
			}
			return nil
		})
	}
	m.Write("revoked.yaml", fmt.Sprintf("revoked:\n- spiffe_id: %q\n", m.URI("web")))
	await("the identity is revoked", other, false)
	await("the identity is revoked, the first one", thief, false)
	m.Remove("revoked.yaml")
	await("undone", other, true)
	await("undone, the first one", thief, true)
}
