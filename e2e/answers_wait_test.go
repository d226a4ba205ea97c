//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestCallersWait: beside files an intention that changes wakes who may know of it, with what each may know, and nobody else; whose token is revoked
// meanwhile gets nothing.
func TestCallersWait(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	for _, name := range []string{"web", "api", "db"} {
		m.Add(meshtest.Service{Name: name, Local: serveEcho(t, "")})
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"api": "deny"})
	m.Serve()
	made := func(args ...string) string {
		return strings.TrimSpace(m.MustRun(append([]string{"token", "create"}, args...)...))
	}
	const list, match = "/v1/connect/intentions?", "/v1/connect/intentions/match?by=destination&name=db"
	waits := []struct {
		who, token, path string
		code             int
		woken            bool
		has, hasNot      string
	}{
		{"a reader", made("--reader"), list, http.StatusOK, true, `"SourceName":"late"`, ""},
		{"the destination", made("db"), list, http.StatusOK, true, `"SourceName":"late"`, `"DestinationName":"api"`},
		{"the destination, of itself", made("db"), match, http.StatusOK, true, `"SourceName":"late"`, `"DestinationName":"api"`},
		{"a source", made("api"), list, http.StatusOK, true, `"Action":"allow"`, "late"},
		{"who is neither", made("web"), list, http.StatusOK, false, `"DestinationName":"api"`, "late"},
		{"whose token is revoked", "", list, http.StatusForbidden, true, "ACL not found", "late"},
	}
	const wait = 6 * time.Second
	var revoked struct {
		Token string
		ID    string `json:"token_id"`
	}
	if err := json.Unmarshal([]byte(made("db", "--json")), &revoked); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, w := range waits {
		if w.token == "" {
			w.token = revoked.Token
		}
		api := asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), w.token)
		first, err := api.ask(apiQuestion{line: apiLine("GET " + w.path)})
		if err != nil || first.code != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", w.who, first.code, first.body, err)
		}
		all.Go(func() {
			began := time.Now()
			a, err := api.ask(apiQuestion{line: apiLine(fmt.Sprintf("GET %s&wait=%s&index=%s", w.path, wait, first.header.Get("X-Consul-Index")))})
			woken := time.Since(began) < wait-time.Second
			if err != nil || a.code != w.code || woken != w.woken || !strings.Contains(a.body, w.has) || w.hasNot != "" && strings.Contains(a.body, w.hasNot) {
				t.Errorf("%s: %d after %v: %s, %v", w.who, a.code, time.Since(began).Round(time.Millisecond), a.body, err)
			}
		})
	}
	meshtest.Await(t, "all wait", func() error {
		if text := metrics(t, m); !strings.Contains(text, fmt.Sprintf("sallyport_api_waiting_requests %d\n", len(waits))) {
			return errNothing
		}
		return nil
	})
	m.MustRun("token", "revoke", revoked.ID)
	m.Intend("db", meshtest.Intentions{"api": "allow", "late": "allow"})
	all.Wait()
}
