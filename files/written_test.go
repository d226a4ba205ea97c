package files_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// TestWritten holds that what is told of entries and sidecars is what Consul tells of the same definitions, however they are spelled.
func TestWritten(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"defaults.json": `{"Kind": "service-defaults", "Name": "web", "protocol": "HTTP", "local_request_timeout_ms": "5000", "Hash": 7, "upstream_config": {
  "defaults": {"connect_timeout_ms": 3000, "limits": {"max_connections": 0}, "passive_health_check": {"interval": "10s", "max_failures": 3}},
  "overrides": [{"name": "api", "connect_timeout_ms": 4000}]}}`,
		"proxies.yaml": "Kind: proxy-defaults\nName: global\nConfig:\n  protocol: http\n  local_connect_timeout_ms: 1000\n",
		"mesh.hcl":     "Kind = \"mesh\"\nTLS { Incoming { TLSMinVersion = \"TLSv1_2\" } }\nMeta { a = \"b\" }\n",
		"api.hcl": `Kind = "service-intentions"
Name = "api"
Sources = [{ Name = "*" Action = "deny" }, { Name = "web" Action = "allow" Description = "d" }]
Meta { who = "me" }
`,
		"web.hcl": `services {
  name = "web" port = 8080 tags = ["a"] meta { team = "shop" } address = "10.0.0.1" enable_tag_override = true
  check { name = "up" http = "http://127.0.0.1/" interval = "10s" status = "critical" }
  connect { sidecar_service { port = 21000 proxy {
    config { max_inbound_connections = 7 }
    upstreams { destination_name = "api" local_bind_port = 5000 config { connect_timeout_ms = 9 } }
    upstreams { destination_name = "db" local_bind_port = 5001 }
    expose { paths { path = "/h" listener_port = 21500 local_path_port = 8080 } }
  } } }
}
services { name = "alone" port = 1 }
services { name = "own" kind = "connect-proxy" port = 21001 proxy { destination_service_name = "alone" local_service_port = 2 } }
`,
	})
	c := load(t, files.Config{Dir: dir})
	name := identity.NewName
	entries := []*catalog.Entry{
		{Kind: "mesh", Name: "mesh", Meta: map[string]string{"a": "b"}, Fields: `{"TLS":{"Incoming":{"TLSMinVersion":"TLSv1_2"}}}`, Origin: "mesh.hcl:1"},
		{Kind: "proxy-defaults", Name: "global", Fields: `{"Config":{"local_connect_timeout_ms":1000,"protocol":"http"}}`, Origin: "proxies.yaml:1"},
		{
			Kind: "service-defaults", Name: "web", Origin: "defaults.json:1",
			Fields: `{"LocalRequestTimeoutMs":5000,"Protocol":"http","UpstreamConfig":{"Defaults":{"ConnectTimeoutMs":3000,"Limits":{"MaxConnections":0},"MeshGateway":{},` +
				`"PassiveHealthCheck":{"Interval":10000000000,"MaxFailures":3},"Peer":""},"Overrides":[{"ConnectTimeoutMs":4000,"MeshGateway":{},"Name":"api","Peer":""}]}}`,
		},
		{
			Kind: "service-intentions", Name: "api", Meta: map[string]string{"who": "me"}, Origin: "api.hcl:1",
			Sources: []catalog.EntrySource{{Source: intention.Source{Name: name("*")}}, {Source: intention.Source{Name: name("web")}, Description: "d"}},
		},
	}
	if diff := cmp.Diff(entries, c.Entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	sidecars := []*catalog.Sidecar{
		{
			Registration: catalog.Registration{ID: "own", Service: name("own"), Port: 21001, Status: "passing", Origin: "web.hcl:12"},
			Destination:  name("alone"), LocalPort: 2, Config: `{"local_connect_timeout_ms":1000,"protocol":"http"}`,
		},
		{
			Registration: catalog.Registration{
				ID: "web-sidecar-proxy", Service: name("web-sidecar-proxy"), Tags: []string{"a"}, Meta: map[string]string{"team": "shop"}, Address: "10.0.0.1", Port: 21000, Status: "critical", Origin: "web.hcl:4",
				Checks: []catalog.Check{{ID: "service:web-sidecar-proxy:2", Name: "Connect Sidecar Aliasing web", Status: "critical", Type: "alias", Output: `Aliased check "up" failing: `}},
			},
			Destination: name("web"), Instance: "web", LocalAddress: "127.0.0.1", LocalPort: 8080,
			Config: `{"local_connect_timeout_ms":1000,"local_request_timeout_ms":5000,"max_inbound_connections":7,"protocol":"http"}`,
			Upstreams: []catalog.SidecarUpstream{
				{Destination: "api", BindPort: 5000, Config: `{"connect_timeout_ms":9,"limits":{"MaxConnections":0},"passive_health_check":{"Interval":10000000000,"MaxFailures":3},"protocol":"http"}`},
				{Destination: "db", BindPort: 5001, Config: `{"connect_timeout_ms":3000,"limits":{"MaxConnections":0},"passive_health_check":{"Interval":10000000000,"MaxFailures":3},"protocol":"http"}`},
			},
			Exposed: []catalog.ExposedPath{{Path: "/h", ListenerPort: 21500, LocalPort: 8080, Protocol: catalog.HTTP, Origin: "web.hcl:8"}},
		},
	}
	if diff := cmp.Diff(sidecars, c.Sidecars); diff != "" {
		t.Errorf("sidecars (-want +got):\n%s", diff)
	}
	web := c.Registrations[len(c.Registrations)-1]
	check := []catalog.Check{{ID: "service:web", Name: "up", Status: "critical", Type: "http", Interval: "10s"}}
	if web.ID != "web" || !web.EnableTagOverride || cmp.Diff(check, web.Checks) != "" {
		t.Errorf("web is %+v", web)
	}
}
