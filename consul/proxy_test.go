package consul

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/files"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// parse is the JSON of a test.
func parse[T any](t testing.TB, text string) T {
	t.Helper()
	v, err := decodeJSON[T]([]byte(text))
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// sidecarOf is a proxy of web with some JSON in its proxy block.
func sidecarOf(t testing.TB, block string) *sidecar {
	t.Helper()
	r := parse[*registration](t, `{"Kind": "connect-proxy", "ID": "p", "Service": "p", "Port": 21000, "Proxy": {"DestinationServiceName": "web", "LocalServicePort": 80`+block+`}}`)
	s, ok := readSidecar(r, nil, "dc1", "")
	if !ok {
		t.Fatal("no sidecar")
	}
	return s
}

func texts(list []Problem) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, "\n")
}

// What cannot be had yet is refused where it is said, and nothing else is.
func TestRefused(t *testing.T) {
	const gone = ": its listener is not there"
	for name, c := range map[string]struct {
		upstream string // fields of the upstream api
		want     string // of the problem; empty: none
	}{
		"plain":                   {`"LocalBindPort": 5000`, ""},
		"service":                 {`"DestinationType": "service", "LocalBindPort": 5000`, ""},
		"own datacenter":          {`"Datacenter": "dc1", "LocalBindPort": 5000`, ""},
		"default tenancy":         {`"DestinationNamespace": "default", "DestinationPartition": "default", "LocalBindPort": 5000`, ""},
		"gateway within its dc":   {`"LocalBindPort": 5000, "MeshGateway": {"Mode": "remote"}`, ""}, // Consul uses gateways for other datacenters alone
		"socket":                  {`"LocalBindSocketPath": "/run/api.sock", "LocalBindSocketMode": "0750"`, ""},
		"prepared query":          {`"DestinationType": "prepared_query", "LocalBindPort": 5000`, `destinations of type "prepared_query" are not supported yet` + gone},
		"peer":                    {`"DestinationPeer": "east", "LocalBindPort": 5000`, `the peer "east": peers are not supported yet` + gone},
		"namespace":               {`"DestinationNamespace": "shop", "LocalBindPort": 5000`, `namespaces and partitions are not supported yet` + gone},
		"partition":               {`"DestinationPartition": "shop", "LocalBindPort": 5000`, `namespaces and partitions are not supported yet` + gone},
		"escape hatch, listener":  {`"LocalBindPort": 5000, "Config": {"envoy_listener_json": "{}"}`, `envoy_listener_json is not supported yet` + gone},
		"escape hatch, cluster":   {`"LocalBindPort": 5000, "Config": {"envoy_cluster_json": "{}"}`, `envoy_cluster_json is not supported yet` + gone},
		"no port":                 {`"LocalBindAddress": "127.0.0.1"`, `it has neither LocalBindPort nor LocalBindSocketPath` + gone},
		"port out of range":       {`"LocalBindPort": 70000`, `it has neither LocalBindPort nor LocalBindSocketPath` + gone},
		"address":                 {`"LocalBindAddress": "host", "LocalBindPort": 5000`, `LocalBindAddress "host" is no IP address` + gone},
		"relative socket":         {`"LocalBindSocketPath": "api.sock"`, `LocalBindSocketPath is not the path of a socket` + gone},
		"socket mode":             {`"LocalBindSocketPath": "/a", "LocalBindSocketMode": "rw"`, `LocalBindSocketMode "rw" is not permission bits in octal` + gone},
		"escape hatch, something": {`"LocalBindPort": 5000, "Config": {"envoy_other": 1}`, `config.envoy_other is not supported yet: it is not taken`},
		"a value that is none":    {`"LocalBindPort": 5000, "Config": {"connect_timeout_ms": "soon"}`, `config.connect_timeout_ms is "soon", which is not a whole number: it is not taken`},
		"centrally configured":    {`"CentrallyConfigured": true`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := sidecarOf(t, `, "Upstreams": [{"DestinationName": "api", `+c.upstream+`}, {"DestinationName": "other", "LocalBindPort": 5001}, null]`)
			if s.proxy.Refused != "" {
				t.Fatal("the proxy is refused")
			}
			var got []string
			for _, u := range s.upstreams {
				got = append(got, u.Destination.Service)
			}
			want := "api other"
			if strings.HasSuffix(c.want, gone) || name == "centrally configured" {
				want = "other"
			}
			if strings.Join(got, " ") != want {
				t.Errorf("upstreams %q, want %q", got, want)
			}
			if c.want != "" {
				c.want = "proxy p, upstream api: service p: " + c.want
			}
			if got := texts(s.problems); got != c.want {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
}

func TestRefusedProxy(t *testing.T) {
	for name, c := range map[string]struct {
		block   string
		want    string
		refused bool
	}{
		"transparent":         {`, "Mode": "transparent", "Upstreams": [{"DestinationName": "*"}, {"DestinationName": "x"}]`, "transparent mode is not supported yet: the outbound listener is not there, the upstreams that have a port are", false},
		"permissive":          {`, "MutualTLSMode": "permissive"`, "permissive mutual TLS is not supported: connections without mutual TLS are refused", false},
		"strict":              {`, "MutualTLSMode": "strict", "Mode": "direct"`, "", false},
		"expose checks":       {`, "Expose": {"Checks": true}`, "", false},
		"extension":           {`, "EnvoyExtensions": [{"Name": "builtin/lua"}]`, `the Envoy extension "builtin/lua" is not supported: the proxy is served without it`, false},
		"required extension":  {`, "EnvoyExtensions": [{"Name": "builtin/ext-authz", "Required": true}]`, `the Envoy extension "builtin/ext-authz" is required and not supported: the proxy is not served`, true},
		"public listener":     {`, "Config": {"envoy_public_listener_json": "{}"}`, "envoy_public_listener_json is not supported yet: the proxy is not served", true},
		"local cluster":       {`, "Config": {"envoy_local_cluster_json": "{}"}`, "envoy_local_cluster_json is not supported yet: the proxy is not served", true},
		"tracing":             {`, "Config": {"envoy_tracing_json": "{}"}`, "config.envoy_tracing_json is not supported yet: it is not taken", false},
		"two spellings":       {`, "Config": {"BindPort": 1, "bind_port": 2}`, `config.bind_port is given twice (first as BindPort): it is not taken`, false},
		"enforcement":         {`, "Config": {"intention_enforcement": "none"}`, `config.intention_enforcement "none" is not known: rbac, ext_authz and both are: it is not taken`, false},
		"keys of others":      {`, "Config": {"team": "shop"}`, "", false},
		"no application port": {`, "LocalServicePort": 0`, "nothing to hand connections to: neither the proxy nor its service has a port of the application; the proxy is not served", true},
		"application address": {`, "LocalServiceAddress": "app.example"`, `LocalServiceAddress "app.example" is no IP address: the proxy is not served`, true},
		"socket":              {`, "LocalServiceSocketPath": "app.sock"`, "its LocalServiceSocketPath is not the path of a socket: the proxy is not served", true},
		"no service":          {`, "DestinationServiceName": ""`, `the service "" cannot be part of an identity: the proxy is not served`, true},
		"service with spaces": {`, "DestinationServiceName": "a b"`, `the service "a b" cannot be part of an identity: the proxy is not served`, true},
		"wildcard service":    {`, "DestinationServiceName": "*"`, `the service "*" cannot be part of an identity: the proxy is not served`, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := sidecarOf(t, c.block)
			if c.want != "" {
				c.want = "proxy p: service p: " + c.want
			}
			if got := texts(s.problems); got != c.want || (s.proxy.Refused != "") != c.refused {
				t.Errorf("refused %q, problems %q; want %v, %q", s.proxy.Refused, got, c.refused, c.want)
			}
		})
	}
	for name, text := range map[string]string{
		"application": `{"ID": "web", "Service": "web", "Port": 80}`,
		"gateway":     `{"Kind": "mesh-gateway", "ID": "g", "Service": "g"}`,
		"of a peer":   `{"Kind": "connect-proxy", "ID": "p", "PeerName": "east", "Proxy": {"DestinationServiceName": "web"}}`,
		"no ID":       `{"Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web"}}`,
	} {
		if s, ok := readSidecar(parse[*registration](t, text), nil, "dc1", ""); ok {
			t.Errorf("%s is a sidecar: %+v", name, s)
		}
	}
	s, ok := readSidecar(parse[*registration](t, `{"Kind": "connect-proxy", "ID": "p", "Namespace": "shop", "Proxy": {"DestinationServiceName": "web"}}`), nil, "dc1", "")
	if !ok || !s.nobody {
		t.Error("a proxy of another namespace is served")
	}
}

// A registration in the catalog says nothing of what the agent would have filled in.
func TestRegisteredInCatalog(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		port    uint16
		socket  string
	}{
		"port":   {`{"ID": "web-1", "Service": "web", "Port": 8080}`, 8080, ""},
		"socket": {`{"ID": "web-1", "Service": "web", "SocketPath": "/run/web.sock"}`, 0, "/run/web.sock"},
	} {
		r := parse[*registration](t, `{"Kind": "connect-proxy", "ID": "p", "Port": 21000, "Address": "::1", "Proxy": {"DestinationServiceName": "web", "DestinationServiceID": "web-1"}}`)
		s, _ := readSidecar(r, map[string]*registration{"web-1": parse[*registration](t, c.service)}, "dc1", "")
		if s.proxy.Refused != "" || s.proxy.Inbound.LocalPort != c.port || s.proxy.Inbound.LocalSocket != c.socket || s.proxy.Inbound.Address != "::1" {
			t.Errorf("%s: %+v, %s", name, s.proxy.Inbound, texts(s.problems))
		}
	}
}

// The first of a proxy's config, Meta of service-defaults, and proxy-defaults counts, and then what is configured for the whole mesh.
func TestOwnSettings(t *testing.T) {
	newOnly := catalog.NewConnections
	for name, c := range map[string]struct {
		config, meta, defaults string // JSON
		protocol               string
		mesh                   Config
		want                   string
		text                   string
	}{
		"nothing":                      {want: "rbac drain"},
		"nothing, http":                {protocol: "http", want: "rbac next-request"},
		"the mesh's":                   {mesh: Config{Enforcement: catalog.Both, Revocation: &newOnly}, want: "both new"},
		"the mesh's that does not fit": {mesh: Config{Revocation: &newOnly}, protocol: "grpc", want: "rbac next-request"},
		"proxy-defaults":               {config: `"intention_enforcement": "both", "revocation": "new"`, defaults: `"intention_enforcement": "both", "revocation": "new"`, want: "both new"},
		"proxy-defaults do not fit":    {config: `"revocation": "new"`, defaults: `"revocation": "new"`, protocol: "http", want: "rbac next-request"},
		"meta over proxy-defaults":     {config: `"intention_enforcement": "both"`, meta: `"intention_enforcement": "ext_authz"`, defaults: `"intention_enforcement": "both"`, want: "ext_authz drain"},
		"config over meta":             {config: `"intention_enforcement": "rbac"`, meta: `"intention_enforcement": "ext_authz"`, defaults: `"intention_enforcement": "both"`, want: "rbac drain"},
		"meta is text":                 {meta: `"server_first": "true", "sallyport_uid": "1000", "owner": "shop"`, want: "rbac drain first 1000"},
		"server first":                 {config: `"server_first": true, "intention_enforcement": "ext_authz"`, want: "both drain first", text: "ext_authz cannot protect a server that speaks first"},
		"server first, http":           {config: `"server_first": true`, protocol: "http", want: "rbac next-request", text: "server_first is for services of protocol tcp"},
		"revocation does not fit":      {config: `"revocation": "next-request"`, want: "rbac drain", text: `revocation "next-request" is not for protocol tcp`},
		"protocol of the config":       {config: `"protocol": "http2"`, want: "rbac next-request http2"},
		"protocol of proxy-defaults":   {config: `"protocol": "HTTP"`, defaults: `"protocol": "HTTP"`, want: "rbac drain", text: "service-defaults/web: they have no Protocol, so the service speaks tcp, though proxy-defaults say http"},
		"protocol beside another one":  {config: `"protocol": "http2"`, defaults: `"protocol": "http"`, protocol: "http", want: "rbac next-request http2"},
		"meta that is none":            {meta: `"revocation": "never"`, want: "rbac drain", text: `service-defaults/web: Meta.revocation "never" is not known`},
		"a timeout of no request":      {config: `"local_request_timeout_ms": 5`, want: "rbac drain", text: "local_request_timeout_ms has no meaning for protocol tcp"},
		"a timeout of all requests":    {config: `"local_request_timeout_ms": 5`, defaults: `"local_request_timeout_ms": 5`, want: "rbac drain"},
		"a timeout of requests":        {config: `"local_request_timeout_ms": 5`, protocol: "http", want: "rbac next-request"},
		"HTTP/1.0 of the mesh":         {config: `"accept_http_10": false`, defaults: `"accept_http_10": false`, want: "rbac drain 1.1"},
		"HTTP/1.0 of a service":        {config: `"accept_http_10": false`, meta: `"accept_http_10": "true"`, defaults: `"accept_http_10": false`, want: "rbac drain"},
		"a protocol nobody knows":      {protocol: "redis", want: "rbac drain"},
	} {
		t.Run(name, func(t *testing.T) {
			s := sidecarOf(t, `, "Config": {`+c.config+`}`)
			d := proxyDefaults{Config: parse[definition.Node](t, `{`+c.defaults+`}`)}
			mesh, problems := d.settings()
			read := &discovery{protocol: c.protocol, meta: parse[definition.Node](t, `{`+c.meta+`}`)}
			p, more := s.finish(read, mesh, c.mesh)
			got := p.Inbound.Enforcement.String() + " " + p.Inbound.Revocation.String()
			if p.Inbound.ServerFirst {
				got += " first"
			}
			if p.RefuseHTTP10 {
				got += " 1.1"
			}
			if p.Bootstrap.UID != -1 {
				got += fmt.Sprint(" ", p.Bootstrap.UID)
			}
			if definition.Protocol(c.protocol) != p.Inbound.Protocol {
				got += " " + p.Inbound.Protocol.String()
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if all := texts(append(problems, more...)); (c.text == "") != (all == "") || !strings.Contains(all, c.text) {
				t.Errorf("problems %q, want %q", all, c.text)
			}
		})
	}
}

// Files and Consul say the same with the same keys.
func TestLikeFiles(t *testing.T) {
	const config = `{
		"protocol": "http", "local_connect_timeout_ms": 1000, "local_request_timeout_ms": "2000", "local_idle_timeout_ms": 0, "max_inbound_connections": 7,
		"balance_inbound_connections": "exact_balance", "bind_address": "0.0.0.0", "bind_port": 21007, "envoy_prometheus_bind_addr": "127.0.0.1:9102",
		"intention_enforcement": "both", "revocation": "drain", "accept_http_10": false, "sallyport_uid": 1234, "sallyport_network": "shop"}`
	const upstreams = `[{
		"destination_name": "api", "local_bind_port": 5000, "config": {
			"connect_timeout_ms": 1500, "balance_outbound_connections": "exact_balance",
			"limits": {"max_connections": 3, "max_pending_requests": 4, "max_concurrent_requests": 0},
			"passive_health_check": {"interval": "10s", "max_failures": 2, "enforcing_consecutive_5xx": 50, "max_ejection_percent": 30, "base_ejection_time": "7s"}}},
		{"destination_name": "db", "local_bind_socket_path": "/run/db.sock", "local_bind_socket_mode": "0700"}]`
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("web.json", `{"services": [{"name": "web", "port": 80}, {"name": "web-sidecar-proxy", "kind": "connect-proxy", "port": 21000,
		"proxy": {"destination_service_name": "web", "destination_service_id": "web", "local_service_port": 80, "config": `+config+`, "upstreams": `+upstreams+`}}]}`)
	write("defaults.json", `{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}`)
	contents, err := files.Load(files.Config{Dir: dir, TrustDomain: spiffeid.RequireTrustDomainFromString("x.example")})
	if err != nil {
		t.Fatal(err)
	}
	// Consul's answers have Go's names for what it knows, and leave config as it was written.
	r := &registration{Kind: kindProxy, ID: "web-sidecar-proxy", Service: "web-sidecar-proxy", Port: 21000, Proxy: &proxyRegistration{
		DestinationServiceName: "web", DestinationServiceID: "web", LocalServicePort: 80, Config: parse[definition.Node](t, config),
	}}
	for _, u := range parse[[]map[string]any](t, upstreams) {
		named := map[string]any{}
		for k, v := range u {
			named[strings.ReplaceAll(k, "_", "")] = v
		}
		b, err := json.Marshal(named)
		if err != nil {
			t.Fatal(err)
		}
		r.Proxy.Upstreams = append(r.Proxy.Upstreams, parse[*upstreamRegistration](t, string(b)))
	}
	s, _ := readSidecar(r, nil, "dc1", "")
	p, problems := s.finish(&discovery{protocol: "http"}, meshDefaults{}, Config{})
	for _, u := range s.upstreams {
		p.Upstreams = append(p.Upstreams, u.Upstream)
	}
	if len(problems)+len(s.problems) > 0 {
		t.Errorf("problems %s %s", texts(s.problems), texts(problems))
	}
	want := *contents.Proxies[0]
	want.Origin, p.Origin, want.Inbound.LocalOrigin = "", "", ""
	for i := range want.Upstreams {
		want.Upstreams[i].Origin, p.Upstreams[i].Origin = "", ""
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("files and Consul differ (-files +Consul):\n%s", diff)
	}
}

func TestMesh(t *testing.T) {
	for name, c := range map[string]struct {
		entry string
		want  catalog.Mesh
		text  string
	}{
		"none":          {`{}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}}, ""},
		"auto":          {`{"TLS": {"Incoming": {"TLSMinVersion": "TLS_AUTO"}}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}}, ""},
		"1.3":           {`{"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_3"}}}`, catalog.Mesh{}, ""},
		"1.2":           {`{"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_2"}, "Outgoing": {"TLSMinVersion": "TLSv1_2"}}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}, Outgoing: catalog.TLS{Allow12: true}}, ""},
		"1.0":           {`{"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_0"}}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}}, "mesh/mesh: TLS.Incoming.TLSMinVersion TLSv1_0 is not secure: TLSv1_2 and TLSv1_3 are taken: TLSv1_2 holds"},
		"no text":       {`{"TLS": {"Incoming": {"TLSMinVersion": 1.3}}}`, catalog.Mesh{}, "mesh/mesh: TLS.Incoming.TLSMinVersion must be a string, not a fraction: it is not taken"},
		"something new": {`{"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_4"}}}`, catalog.Mesh{}, `mesh/mesh: TLS.Incoming.TLSMinVersion "TLSv1_4" is not known: TLS_AUTO, TLSv1_2 and TLSv1_3 are: TLSv1_3 holds`},
		"no 1.3":        {`{"TLS": {"Incoming": {"TLSMaxVersion": "TLSv1_2"}}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}, Outgoing: catalog.TLS{Allow12: true}}, `mesh/mesh: TLS.Incoming.TLSMaxVersion "TLSv1_2": TLS_AUTO and TLSv1_3 are taken, as TLS 1.3 cannot be switched off: TLSv1_3 is taken too`},
		"ciphers":       {`{"TLS": {"Incoming": {"CipherSuites": ["X"]}}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}}, "mesh/mesh: TLS.Incoming.CipherSuites is not supported yet: those with authenticated encryption are taken"},
		"client cert":   {`{"HTTP": {"SanitizeXForwardedClientCert": true}, "TransparentProxy": {"MeshDestinationsOnly": true}}`, catalog.Mesh{Incoming: catalog.TLS{Allow12: true}, DropForwardedClientCert: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var m catalog.Mesh
			e := parse[meshEntry](t, c.entry)
			if got := texts(e.readMesh(&m)); got != c.text {
				t.Errorf("problems %q, want %q", got, c.text)
			}
			if m.Incoming != c.want.Incoming || m.Outgoing != c.want.Outgoing || m.DropForwardedClientCert != c.want.DropForwardedClientCert {
				t.Errorf("%+v, want %+v", m, c.want)
			}
		})
	}
}

// An answer that is no entry does not take the entry away.
func TestNoMesh(t *testing.T) {
	for _, text := range []string{`5`, `[]`, `"TLS"`, `true`} {
		if e, err := decodeJSON[meshEntry]([]byte(text)); err == nil {
			t.Errorf("%s is taken for %+v", text, e)
		}
	}
}

func TestIntentions(t *testing.T) {
	const head = `{"SourceNS": "default", "SourceName": "web", "DestinationNS": "default", "DestinationName": "api", "SourceType": "consul"`
	for name, c := range map[string]struct{ text, want string }{
		"allow":             {head + `, "Action": "allow"}`, "web => api (allow)"},
		"deny":              {head + `, "Action": "deny"}`, "web => api (deny)"},
		"peer":              {head + `, "SourcePeer": "east", "Action": "allow"}`, "web (peer east) => api (allow)"},
		"L7":                {head + `, "Permissions": [{"Action": "allow"}]}`, "web => api (deny) Permissions[0].HTTP is required"},
		"permissions":       {head + `, "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Header": [{"Name": "X", "Contains": "b", "IgnoreCase": true}]}}]}`, "web => api (1 permission)"},
		"bad expression":    {head + `, "Permissions": [{"Action": "deny", "HTTP": {"PathRegex": "/a("}}]}`, "web => api (deny) Permissions[0].HTTP.PathRegex \"/a(\" is no regular expression: error parsing regexp: missing closing ): `/a(`"},
		"an unknown key":    {head + `, "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Query": "x"}}]}`, `web => api (deny) Query "x"`},
		"a null":            {head + `, "Permissions": [null, {"Action": "allow", "HTTP": {"PathExact": "/a"}}]}`, "web => api (deny) Permissions has an element that is null"},
		"a header of null":  {head + `, "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Header": [null]}}]}`, "web => api (deny) Header has an element that is null"},
		"a method of null":  {head + `, "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a", "Methods": [null]}}]}`, "web => api (deny) Methods has an element that is null"},
		"a backslash":       {head + `, "Permissions": [{"Action": "deny", "HTTP": {"Header": [{"Name": "x", "Exact": "CORP\\\\Carol"}]}}]}`, "web => api (1 permission)"},
		"a token":           {head + `, "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a"}, "JWT": {"Providers": [{"Name": "okta"}]}}]}`, "web => api (1 permission)"},
		"of all":            {`{"SourceName": "web", "DestinationName": "*", "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a"}}]}`, "web => * (deny) Permissions of all services"},
		"and an action":     {head + `, "Action": "allow", "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/a"}}]}`, "web => api (deny) Permissions"},
		"JWT":               {head + `, "Action": "allow", "JWT": {"Providers": [{"Name": "okta"}]}}`, "web => api (allow with a token)"},
		"empty JWT":         {head + `, "Action": "allow", "JWT": null, "Permissions": []}`, "web => api (allow)"},
		"sameness group":    {head + `, "Action": "allow", "SourceSamenessGroup": "g"}`, `web => api (deny) SourceSamenessGroup "g"`},
		"another type":      {head[:len(head)-len(`, "SourceType": "consul"`)] + `, "SourceType": "external", "Action": "allow"}`, `web => api (deny) SourceType "external"`},
		"another action":    {head + `, "Action": "log"}`, `web => api (deny) Action "log"`},
		"no action":         {head + `}`, `web => api (deny) Action`},
		"an unknown field":  {head + `, "Action": "allow", "OnlyOnMondays": true}`, "web => api (deny) OnlyOnMondays"},
		"that says nothing": {head + `, "Action": "allow", "OnlyOnMondays": false}`, "web => api (allow)"},
		"another namespace": {`{"SourceNS": "shop", "SourceName": "web", "DestinationName": "api", "Action": "allow"}`, "default/shop/web => api (allow)"},
		"wildcards":         {`{"SourceNS": "*", "SourceName": "*", "DestinationNS": "*", "DestinationName": "*", "Action": "deny"}`, "* => * (deny)"},
		"a SPIFFE ID": {
			`{"SourceName": "bill", "SourcePeer": "b", "DestinationName": "api", "Action": "allow", "Meta": {"team": "x", "sallyport_spiffe_id_bill": "spiffe://td-b.example/ns/prod/sa/x"}}`,
			"spiffe://td-b.example/ns/prod/sa/x => api (allow)",
		},
		"of another source": {`{"SourceName": "web", "SourcePeer": "b", "DestinationName": "api", "Action": "allow", "Meta": {"sallyport_spiffe_id_bill": "spiffe://td-b.example/x"}}`, "web (peer b) => api (allow)"},
		"without a peer": {
			`{"SourceName": "bill", "DestinationName": "api", "Action": "allow", "Meta": {"sallyport_spiffe_id_bill": "spiffe://td-b.example/x"}}`,
			`bill => api (deny) sallyport_spiffe_id_bill of a source without a Peer: give it one, whichever, so that it is no service of this mesh to Consul`,
		},
		"no SPIFFE ID": {
			`{"SourceName": "bill", "SourcePeer": "b", "DestinationName": "api", "Action": "allow", "Meta": {"sallyport_spiffe_id_bill": "spiffe://td-b.example/*"}}`,
			`bill (peer b) => api (deny) sallyport_spiffe_id_bill "spiffe://td-b.example/*": a workload of another trust domain is named exactly, without a wildcard`,
		},
		"for all services": {
			`{"SourceName": "bill", "SourcePeer": "b", "DestinationName": "*", "Action": "allow", "Meta": {"sallyport_spiffe_id_bill": "spiffe://td-b.example/x"}}`,
			"spiffe://td-b.example/x => * (deny) a SPIFFE ID as source of all services",
		},
		"no identity": {`{"SourceName": "a b", "DestinationName": "api", "Action": "deny"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := decodeIntentions("api")([]byte(`{"api": [` + c.text + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, d := range []*catalog.Destination{m.own, m.wildcard} {
				if d != nil {
					got = strings.TrimSpace(d.Intentions[0].String() + " " + d.Intentions[0].Unsupported)
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	for _, bad := range []string{`null`, `{}`, `{"web": []}`, `[]`, `{"api": [1]}`, `{"api": {}}`} {
		if list, err := decodeIntentions("api")([]byte(bad)); err == nil {
			t.Errorf("%s is taken for %v", bad, list)
		}
	}
	if list, err := decodeIntentions("api")([]byte(`{"api": []}`)); err != nil || list != (matched{}) {
		t.Errorf("no intentions: %v, %v", list, err)
	}
	// null is how Go writes a list of none.
	if _, err := decodeIntentions("api")([]byte(`{"api": null}`)); err != nil {
		t.Errorf("null: %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	for name, c := range map[string]struct{ text, want, skipped string }{
		"of the node":        {`{"Node": {"Address": "10.0.0.1"}, "Service": {"ID": "p", "Port": 1}}`, "10.0.0.1:1/1/true", ""},
		"its own":            {`{"Node": {"Address": "10.0.0.1"}, "Service": {"ID": "p", "Port": 1, "Address": "10.0.0.2"}}`, "10.0.0.2:1/1/true", ""},
		"lan alone":          {`{"Node": {"TaggedAddresses": {"lan": "10.0.0.3"}}, "Service": {"ID": "p", "Port": 1}}`, "10.0.0.3:1/1/true", ""},
		"mapped":             {`{"Service": {"ID": "p", "Port": 1, "Address": "::ffff:10.0.0.2"}}`, "10.0.0.2:1/1/true", ""},
		"no port":            {`{"Service": {"ID": "p", "Address": "10.0.0.2"}}`, "", "p"},
		"no address":         {`{"Service": {"ID": "p", "Port": 1}}`, "", "p"},
		"unspecified":        {`{"Service": {"ID": "p", "Port": 1, "Address": "0.0.0.0"}}`, "", "p"},
		"no host name":       {`{"Service": {"ID": "p", "Port": 1, "Address": "a/b"}}`, "", "p"},
		"critical":           {`{"Service": {"ID": "p", "Port": 1, "Address": "h"}, "Checks": [{"Status": "critical"}, {"Status": "passing"}]}`, "h:1/1/false", ""},
		"maintenance":        {`{"Service": {"ID": "p", "Port": 1, "Address": "h"}, "Checks": [{"CheckID": "_service_maintenance:p", "Status": "maintenance"}]}`, "h:1/1/false", ""},
		"a status not known": {`{"Service": {"ID": "p", "Port": 1, "Address": "h"}, "Checks": [{"Status": "dubious"}]}`, "h:1/1/false", ""},
		"weight 0":           {`{"Service": {"ID": "p", "Port": 1, "Address": "h", "Weights": {"Passing": 0, "Warning": 0}}}`, "h:1/1/false", ""},
		"warning":            {`{"Service": {"ID": "p", "Port": 1, "Address": "h", "Weights": {"Passing": 9, "Warning": 4}}, "Checks": [{"Status": "warning"}]}`, "h:1/4/true", ""},
		"heavy":              {`{"Service": {"ID": "p", "Port": 1, "Address": "h", "Weights": {"Passing": 1000, "Warning": 1}}}`, "h:1/128/true", ""},
		"twice": {
			`{"Service": {"ID": "p", "Port": 1, "Address": "h"}, "Checks": [{"Status": "critical"}]}, {"Service": {"ID": "q", "Port": 1, "Address": "h"}}`,
			"h:1/1/true", "",
		},
		"nothing": {`null, {}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			list := readInstances(parse[[]*instance](t, "["+c.text+"]"), false)
			if got := addresses(list.endpoints); got != c.want || strings.Join(list.undialable, " ") != c.skipped {
				t.Errorf("%q, without %q; want %q, %q", got, list.undialable, c.want, c.skipped)
			}
		})
	}
}

// A proxy listens on addresses of the family at which it is dialled.
func TestListenFamily(t *testing.T) {
	for _, c := range []struct{ node, address, config, want string }{
		{"10.0.0.1", "", "", "0.0.0.0"},
		{"fd00::1", "", "", "::"},
		{"fd00::1", "10.0.0.2", "", "10.0.0.2"},
		{"10.0.0.1", "fd00::2", "", "fd00::2"},
		{"fd00::1", "host.example", "", "0.0.0.0"},
		{"fd00::1", "", `"bind_address": "10.0.0.3"`, "10.0.0.3"},
		{"node.example", "", "", "0.0.0.0"},
		{"", "", "", "0.0.0.0"},
	} {
		r := parse[*registration](t, fmt.Sprintf(`{"Kind": "connect-proxy", "ID": "p", "Port": 21000, "Address": %q, "Proxy": {"DestinationServiceName": "web", "LocalServicePort": 80, "Config": {%s}}}`, c.address, c.config))
		if s, ok := readSidecar(r, nil, "dc1", c.node); !ok || s.proxy.Inbound.Address != c.want {
			t.Errorf("%+v: listens on %q", c, s.proxy.Inbound.Address)
		}
	}
}

// A proxy is in the network namespace that it says, or in that of its allocation.
func TestNetworkNamespace(t *testing.T) {
	const nomad = "_nomad-task-5e2c1d34-7b1c-4f1e-9d5a-0f8a9c3d2b17-group-api-count-api-9001-sidecar-proxy"
	for _, c := range []struct{ id, config, want string }{
		{"web-sidecar-proxy", "", ""},
		{"web-sidecar-proxy", `"sallyport_network": "shop"`, "shop"},
		{nomad, "", "Nomad allocation 5e2c1d34-7b1c-4f1e-9d5a-0f8a9c3d2b17"},
		{nomad, `"sallyport_network": "shop"`, "shop"},
		{strings.TrimSuffix(nomad, "-sidecar-proxy"), "", ""},
		{"_nomad-task-1-sidecar-proxy", "", ""},
	} {
		r := parse[*registration](t, fmt.Sprintf(`{"Kind": "connect-proxy", "ID": %q, "Port": 21000, "Proxy": {"DestinationServiceName": "web", "LocalServicePort": 80, "Config": {%s}}}`, c.id, c.config))
		if s, ok := readSidecar(r, nil, "dc1", "10.0.0.1"); !ok || s.proxy.Network != c.want || s.proxy.Host != "" {
			t.Errorf("%+v: in %q on %q", c, s.proxy.Network, s.proxy.Host)
		}
	}
}

func TestAccessLogsOfRegistrations(t *testing.T) {
	s := sidecarOf(t, `, "AccessLogs": {"Enabled": true, "Type": "file", "Path": "/var/log/x"}, "Config": {"access_logs": "failures"}`)
	want := catalog.AccessLogs{Enabled: true, Sink: catalog.LogFile, Path: "/var/log/x"}
	if s.proxy.AccessLogs != want || len(s.problems) > 0 || !s.settings.Logged.Value {
		t.Errorf("%+v, failures alone %t, %s", s.proxy.AccessLogs, s.settings.Logged.Value, texts(s.problems))
	}
	s = sidecarOf(t, `, "AccessLogs": {"Enabled": true, "Type": "file"}`)
	if s.proxy.AccessLogs.Enabled || s.proxy.Refused != "" || texts(s.problems) != "proxy p: service p: AccessLogs: path must be specified when using file type access logs: there are no access logs" {
		t.Errorf("%+v, %s", s.proxy.AccessLogs, texts(s.problems))
	}
}
