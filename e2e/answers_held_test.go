//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestAnswersAreInForce: while a file is broken, an allow that waits for it is none in any answer of the HTTP API, as `intention check` says, and is
// one when the file is gone.
func TestAnswersAreInForce(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport})
	m.Write("plain.hcl", `service { name = "plain" port = 7000 }`+"\n")
	m.Write("all.hcl", `Kind = "service-intentions" Name = "*" Sources = [{ Name = "mon" Action = "allow" }, { Name = "*" Action = "deny" }]`+"\n")
	m.Serve()
	api := asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), strings.TrimSpace(m.MustRun("token", "create", "--reader")))
	// says is what the API says of source => plain, in each of its ways.
	says := func(source string) map[string]string {
		out := map[string]string{}
		for _, path := range []string{
			"/v1/connect/intentions/check?source=" + source + "&destination=plain", "/v1/connect/intentions/exact?source=*&destination=*",
			"/v1/connect/intentions/match?by=destination&name=plain", "/v1/connect/intentions", "/v1/config/service-intentions/*", "/v1/config/service-intentions",
		} {
			a, err := api.ask(apiQuestion{line: apiLine("GET " + path)})
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := json.Unmarshal([]byte(a.body), &v); err != nil {
				t.Fatalf("%s: %d %s", path, a.code, a.body)
			}
			each(v, func(x map[string]any) {
				if allowed, ok := x["Allowed"]; ok {
					out[path] = map[any]string{true: "allow", false: "deny"}[allowed]
				}
				if action, ok := x["Action"].(string); ok && (x["SourceName"] == "*" || x["Name"] == "*") {
					out[path] = action
				}
			})
		}
		return out
	}
	all := func(want string) {
		t.Helper()
		meshtest.Await(t, "all answers say "+want, func() error {
			got := says("shop")
			if len(got) != 6 {
				return fmt.Errorf("%d answers: %v", len(got), got)
			}
			for path, action := range got {
				if action != want {
					return fmt.Errorf("%s says %s", path, action)
				}
			}
			return nil
		})
	}
	all("deny")
	m.Write("broken.hcl", `Kind = "service-intentions" Name = "plain" Sources = [{`+"\n")
	meshtest.Await(t, "the file is not taken", func() error {
		if p := m.Status().Catalog.Problems; len(p) == 0 {
			return errors.New("no problems")
		}
		return nil
	})
	m.Write("all.hcl", `Kind = "service-intentions" Name = "*" Sources = [{ Name = "mon" Action = "allow" }, { Name = "*" Action = "allow" }]`+"\n")
	meshtest.Await(t, "the allow waits", func() error {
		if r := m.Run("intention", "check", "shop", "plain"); r.Exit != 4 {
			return fmt.Errorf("intention check: exit %d: %s%s", r.Exit, r.Stdout, r.Stderr)
		}
		return nil
	})
	all("deny")
	m.Remove("broken.hcl")
	all("allow")
}
