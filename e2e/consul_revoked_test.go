//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// consulRevoked revokes web's identity and then its certificate beside a Consul with ACLs, with the operator's token: api and db refuse it,
// live connections end, a second node knows it at once, and all of it is undone. own is the file with the control planes' token.
func consulRevoked(t *testing.T, c *meshtest.Consul, m *meshtest.Mesh, own string) {
	t.Helper()
	other := besideConsul(t, c)
	other.SetFlags("--token-file", own)
	other.Serve()
	knows := func(n int) error {
		r := other.Run("revoked", "--json")
		var all struct{ Revoked []struct{ Origin string } }
		if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || len(all.Revoked) != n || n > 0 && !strings.HasPrefix(all.Revoked[0].Origin, "sallyport/revoked:") {
			return fmt.Errorf("the other node knows %+v, want %d: %w: %s", all, n, err, r.Stderr)
		}
		return nil
	}
	refused := func() error {
		if err := wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api"))); err != nil {
			return fmt.Errorf("api: %w", err)
		}
		if err := wantDenied(meshtest.EchoPlain(m.Upstream("web", "db"), "x")); err != nil {
			return fmt.Errorf("db: %w", err)
		}
		return nil
	}
	if r := m.Run("revoke", m.URI("web")); r.Exit != 2 || !strings.Contains(r.Stderr, `key "sallyport/revoked" { policy = "write" }`) {
		t.Errorf("with the control plane's own token: exit %d, %s", r.Exit, r.Stderr)
	}
	operator := tokenFile(t, filepath.Join(t.TempDir(), "operator"), management)
	var leafs []struct{ Serial string }
	if err := json.Unmarshal([]byte(m.MustRun("leaf", "list", "web", "--json")), &leafs); err != nil || len(leafs) != 1 {
		t.Fatalf("%v: web has the leafs %+v", err, leafs)
	}
	for what, name := range map[string]string{"identity": m.URI("web"), "certificate": leafs[0].Serial} {
		live := connect(t, m.Upstream("web", "db"))
		if a := meshtest.Exchange(live, "x", 1); !a.Allowed() {
			t.Fatalf("the live connection: %v", a)
		}
		began := time.Now()
		out := m.MustRun("revoke", name, "--reason", "stolen", "--token-file", operator)
		ran := time.Since(began)
		if err := refused(); err != nil { // the command has waited for it
			t.Errorf("%s: %v\n%s", what, err, out)
		}
		told := meshtest.Await(t, "the other node knows", func() error { return knows(1) })
		ended := meshtest.Await(t, "the live connection ends", func() error {
			if a := meshtest.Exchange(live, "x", 1); a.Allowed() {
				return fmt.Errorf("it lives: %v", a)
			}
			return nil
		})
		m.MustRun("unrevoke", name, "--token-file", operator)
		figure(t, "%s: revoke_ms=%.0f other_node_ms=%.0f live_ended_ms=%.0f", what, millis(ran), millis(told), millis(ended))
		works(t, c, m)
		meshtest.Await(t, "the other node knows", func() error { return knows(0) })
	}
	if log := m.ServeProcess().Log(); strings.Contains(log, management) {
		t.Error("the control plane's log holds the operator's token")
	}
}
