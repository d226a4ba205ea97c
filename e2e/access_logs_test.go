//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// logLine is what is written of a request or connection.
type logLine struct {
	Listener, Method, Path, Source, Destination, Decision, Intention, Protocol string

	Code    float64 `json:"response_code"`
	Details string  `json:"response_code_details"`
	Failure string  `json:"downstream_transport_failure_reason"`
	Ended   string  `json:"connection_termination_details"`
}

// accessLines are those that a sidecar has written, between lines of other logs.
func accessLines(s *meshtest.Sidecar) (lines []logLine, err error) {
	for text := range strings.Lines(s.Log()) {
		var l logLine
		if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "\n") {
			continue
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// awaitLine waits for a line that ok takes.
func awaitLine(t *testing.T, s *meshtest.Sidecar, what string, ok func(logLine) bool) {
	t.Helper()
	meshtest.Await(t, what, func() error {
		lines, err := accessLines(s)
		for _, l := range lines {
			if ok(l) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("none of %d lines: %+v", len(lines), lines))
	})
}

// TestAccessLogs: each Envoy writes who asked for what, what came of it and by which intention; that failures alone are to be written changes
// no listener of the service.
func TestAccessLogs(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db", "api"}})
			m.Intend("db", meshtest.Intentions{"web": "allow"})
			m.Intend("api", meshtest.Intentions{"web": "allow", "batch": "deny"})
			sink := map[string]string{meshtest.Version: "stdout", "1.36.4": "stderr"}[envoy]
			m.Write("defaults.hcl", fmt.Sprintf("Kind = \"proxy-defaults\"\nName = \"global\"\nAccessLogs { Enabled = true Type = %q }\n", sink))
			m.Serve()
			flush := []string{"--", "--file-flush-interval-msec", "100"}
			cars := map[string]*meshtest.Sidecar{}
			for _, name := range []string{"db", "api", "web"} {
				cars[name] = m.LaunchSidecar(name, flush...)
			}
			for _, s := range cars {
				s.AwaitReady()
			}
			get := func(path string) meshtest.Answer {
				return meshtest.GetPlain("http://" + m.Upstream("web", "api") + path)
			}
			meshtest.Await(t, "web → api", func() error {
				if a := get("/first"); !a.Allowed() {
					return fmt.Errorf("%v", a)
				}
				return nil
			})
			if a := meshtest.EchoPlain(m.Upstream("web", "db"), "hello"); !a.Allowed() {
				t.Errorf("web → db: %v", a)
			}
			for _, destination := range []string{"api", "db"} {
				c := m.Client("batch", destination)
				denied := c.Echo
				if destination == "api" {
					denied = c.Get
				}
				if a := denied(m.Public(destination), "/secret"); !a.Denied() {
					t.Errorf("batch → %s: %v", destination, a)
				}
			}
			web, batch := m.URI("web"), m.URI("batch")
			for what, s := range map[string]struct {
				by string
				ok func(logLine) bool
			}{
				"what api served": {"api", func(l logLine) bool {
					return l.Listener == "public_listener" && l.Method == "GET" && l.Path == "/first" && l.Source == web && l.Code == 200 && l.Decision == "allowed" && l.Intention != ""
				}},
				"what web asked api for": {"web", func(l logLine) bool {
					return l.Listener == "upstream api" && l.Path == "/first" && l.Destination == m.URI("api") && l.Code == 200
				}},
				"what api refused": {"api", func(l logLine) bool {
					return l.Source == batch && l.Path == "/secret" && l.Code == 403 && l.Decision == "denied" && strings.HasPrefix(l.Details, "rbac_access_denied_matched_policy")
				}},
				"the connection that db served": {"db", func(l logLine) bool {
					return l.Listener == "public_listener" && l.Method == "" && l.Source == web && l.Failure == ""
				}},
				"web's connection to db": {"web", func(l logLine) bool { return l.Listener == "upstream db" && l.Destination == m.URI("db") }},
				"whom db refused":        {"db", func(l logLine) bool { return l.Failure != "" }},
			} {
				awaitLine(t, cars[s.by], what, s.ok)
			}

			before := cars["api"].Stats()["listener_manager.listener_modified"]
			m.Write("defaults-api.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\nConfig { access_logs = \"failures\" }\n")
			n := 0
			meshtest.Await(t, "failures alone", func() error { // of a hundred requests none that went well is written
				n++
				prefix := fmt.Sprintf("/round-%d/", n)
				for i := range 100 {
					if a := get(fmt.Sprint(prefix, i)); !a.Allowed() {
						t.Errorf("web → api: %v", a)
					}
				}
				if a := m.Client("batch", "api").Get(m.Public("api"), prefix+"secret"); !a.Denied() {
					t.Errorf("batch → api: %v", a)
				}
				awaitLine(t, cars["api"], "the refusal", func(l logLine) bool { return l.Path == prefix+"secret" && l.Code == 403 })
				awaitLine(t, cars["web"], "web's own log", func(l logLine) bool { return l.Listener == "upstream api" && l.Path == prefix+"99" })
				lines, err := accessLines(cars["api"])
				for _, l := range lines {
					if l.Listener == "public_listener" && strings.HasPrefix(l.Path, prefix) && l.Code == 200 {
						return fmt.Errorf("written: %+v", l)
					}
				}
				return err
			})
			if after := cars["api"].Stats()["listener_manager.listener_modified"]; after != before {
				t.Errorf("listener_modified grew by %d", after-before)
			}
		})
	}
}
