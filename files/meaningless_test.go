package files_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
)

// TestMeaningless holds that a setting that does nothing is told, whatever else changes, where it
// is meant for what it does nothing for.
func TestMeaningless(t *testing.T) {
	t.Parallel()
	const service = `services {
  name = "%s"
  port = 1
  connect { sidecar_service { proxy {
    config { %s }
    upstreams = [{ destination_name = "%s", local_bind_port = %d
      config { %s }
    }]
  } } }
}
`
	const requests = "limits { max_concurrent_requests = 3, max_connections = 4 }"
	contents := map[string]string{
		"web.hcl": fmt.Sprintf(service, "web", "local_request_timeout_ms = 5", "db", 1001, requests),
		"api.hcl": fmt.Sprintf(service, "api", "local_request_timeout_ms = 5", "web", 1002, ""),
		"db.hcl":  fmt.Sprintf(service, "db", "local_idle_timeout_ms = 5", "api", 1003, requests),
		"entries.yaml": `Kind: proxy-defaults
Name: global
Config: {local_request_timeout_ms: 1}
---
Kind: service-defaults
Name: api
Protocol: http
LocalRequestTimeoutMs: 7
UpstreamConfig:
  Defaults: {Limits: {MaxConcurrentRequests: 1}}
  Overrides: [{Name: web, Limits: {MaxConcurrentRequests: 1}}]
---
Kind: service-defaults
Name: db
LocalRequestTimeoutMs: 7
---
Kind: service-defaults
Name: Web
Protocol: http
`,
	}
	dir := write(t, contents)
	r := run(t, files.Config{Dir: dir})
	r.services("Web", "api", "db", "web")
	const tcp = "which is tcp (no service-defaults say otherwise)"
	want := []string{
		"entries.yaml:11: max_concurrent_requests has no meaning for the upstream web, " + tcp + ": max_connections limits it",
		"entries.yaml:15: local_request_timeout_ms has no meaning for db, which is tcp (service-defaults at entries.yaml:13 have no Protocol): nothing in it is known to be a request",
		`entries.yaml:17: service-defaults of "Web" do not hold for the service "web" (web.hcl:1), as letter case counts here: spell them alike`,
		"web.hcl:5: local_request_timeout_ms has no meaning for web, " + tcp + ": nothing in it is known to be a request",
		"web.hcl:7: max_concurrent_requests has no meaning for the upstream db, which is tcp (service-defaults at entries.yaml:13 have no Protocol): max_connections limits it",
	}
	if diff := cmp.Diff(want, r.Status().Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	writeFile(t, filepath.Join(dir, "more.hcl"), "service {\n name = \"more\"\n port = 9\n}\n")
	r.services("Web", "api", "db", "more", "web")
	if diff := cmp.Diff(want, r.Status().Warnings); diff != "" {
		t.Errorf("after another file came, warnings (-want +got):\n%s", diff)
	}
}
