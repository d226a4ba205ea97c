//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// authorizer asks a control plane's HTTP API whether connections are authorized.
type authorizer struct {
	client      *http.Client
	trustDomain string
}

func newAuthorizer(t *testing.T, m *meshtest.Mesh) authorizer {
	t.Helper()
	return authorizer{asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), "").client, m.Status().TrustDomain}
}

func (a authorizer) uri(source string) string {
	return "spiffe://" + a.trustDomain + "/ns/default/dc/dc1/svc/" + source
}

// ask returns the answer as "true", "false" or "500 why".
func (a authorizer) ask(t *testing.T, token, uri, target string) string {
	t.Helper()
	body, err := json.Marshal(map[string]string{"Target": target, "ClientCertURI": uri})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/v1/agent/connect/authorize", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", token)
	r, err := a.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Authorized bool }
	if r.StatusCode != http.StatusOK || json.Unmarshal(text, &said) != nil {
		return fmt.Sprintf("%d %s", r.StatusCode, text)
	}
	return strconv.FormatBool(said.Authorized)
}

// TestConsulElsewhere: beside Consul authorize and `intention check` answer about services that are on no node of this control plane: by
// what is said of them, within a second of a change, and with the rights of whoever asks; while the agent is away about those that were
// asked about before, and of others that it is not known.
func TestConsulElsewhere(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management, Default: "deny"})
	m := besideConsul(t, c)
	m.SetFlags("--token-file", tokenFile(t, m.Runtime+"-token", c.Token))
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
	// Another node's agent has db; the catalog alone has queue.
	for _, service := range []string{"db", "queue"} {
		c.Must("PUT", "/v1/catalog/register", map[string]any{"Node": "far", "Address": "192.0.2.7", "Service": map[string]any{"ID": service, "Service": service, "Port": 5432, "Connect": map[string]any{"Native": true}}}, nil)
	}
	c.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	a := newAuthorizer(t, m)
	_, db := c.ServiceToken("db")
	_, web := c.ServiceToken("web")

	asked := time.Now()
	if got := a.ask(t, db, a.uri("web"), "db"); got != "true" {
		t.Errorf("web → db: %s", got)
	}
	first := time.Since(asked)
	for _, tc := range []struct{ token, source, target, want string }{
		{c.Token, "web", "DB", "true"}, // for rights letter case counts
		{db, "batch", "db", "false"},
		{web, "web", "db", "403 Permission denied"},
		{"", "web", "db", "403 Permission denied"},
		{c.Token, "web", "queue", "false"},
		{c.Token, "web", "lone", "false"},
		{c.Token, "web", "*", "false"},
	} {
		if got := a.ask(t, tc.token, a.uri(tc.source), tc.target); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s → %s: %s, want %s", tc.source, tc.target, got, tc.want)
		}
	}
	if r := m.Run("intention", "check", "web", "db"); r.Exit != 0 || !strings.Contains(r.Stdout, "by the intention web => db (allow) at service-intentions/db") {
		t.Errorf("intention check web db: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	if r := m.Run("intention", "check", "batch", "lone"); r.Exit != 1 || !strings.Contains(r.Stdout, "by default policy") {
		t.Errorf("intention check batch lone: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}

	var longest time.Duration
	for _, action := range []string{"deny", "allow", "deny", "allow"} {
		c.Intend("db", meshtest.Intentions{"web": action})
		took, err := meshtest.Within(promise+room, func() error {
			if got := a.ask(t, db, a.uri("web"), "db"); got != strconv.FormatBool(action == "allow") {
				return fmt.Errorf("%s is answered %s", action, got)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%v after the change: %v", took, err)
		}
		longest = max(longest, took)
	}

	c.Kill()
	meshtest.Await(t, "the control plane sees that the agent is away", func() error {
		if r := m.Run("check"); !strings.Contains(r.Stdout, "does not answer") {
			return fmt.Errorf("%s", r.Stdout)
		}
		return nil
	})
	if got := a.ask(t, db, a.uri("web"), "db"); got != "true" {
		t.Errorf("web → db while the agent is away: %s", got)
	}
	if got := a.ask(t, db, a.uri("batch"), "db"); got != "false" {
		t.Errorf("batch → db while the agent is away: %s", got)
	}
	if r := m.Run("intention", "check", "web", "never"); r.Exit != 2 || !strings.Contains(r.Stderr, "failed getting intention match") {
		t.Errorf("intention check of what was never asked about, while the agent is away: exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
	}
	c.Launch()
	c.AwaitReady()
	c.Intend("db", meshtest.Intentions{"web": "deny"})
	meshtest.Await(t, "the agent that is back is heard", func() error {
		if got := a.ask(t, db, a.uri("web"), "db"); got != "false" {
			return fmt.Errorf("web → db: %s", got)
		}
		return nil
	})
	if got := a.ask(t, c.Token, a.uri("web"), "never"); got != "false" {
		t.Errorf("web → never, with the agent back: %s", got)
	}
	figure(t, "first_ms=%.0f change_ms=%.0f", millis(first), millis(longest))
}
