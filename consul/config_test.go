package consul

import (
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/hcl"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// environment clears Consul's variables, whatever the machine of the test has.
func environment(t *testing.T, pairs ...string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "CONSUL_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		t.Setenv(pairs[i], pairs[i+1])
	}
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("of-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env    []string
		config Config
		url    string
		token  string
		err    string
	}{
		"default":              {url: "http://localhost:8500"},
		"environment":          {env: []string{"CONSUL_HTTP_ADDR", "10.0.0.1:9500", "CONSUL_HTTP_TOKEN", "of-env"}, url: "http://10.0.0.1:9500", token: "of-env"},
		"URL":                  {env: []string{"CONSUL_HTTP_ADDR", "https://consul.example:8501/behind"}, url: "https://consul.example:8501/behind"},
		"TLS":                  {env: []string{"CONSUL_HTTP_SSL", "true"}, url: "https://localhost:8500"},
		"explicit":             {env: []string{"CONSUL_HTTP_ADDR", "10.0.0.1:9500", "CONSUL_HTTP_TOKEN", "of-env"}, config: Config{Address: "h:1", Token: "own"}, url: "http://h:1", token: "own"},
		"file":                 {config: Config{TokenFile: file, Token: "own"}, url: "http://localhost:8500", token: "of-file"},
		"file of environment":  {env: []string{"CONSUL_HTTP_TOKEN_FILE", file, "CONSUL_HTTP_TOKEN", "of-env"}, url: "http://localhost:8500", token: "of-file"},
		"token over its file":  {env: []string{"CONSUL_HTTP_TOKEN_FILE", file}, config: Config{Token: "own"}, url: "http://localhost:8500", token: "own"},
		"socket":               {env: []string{"CONSUL_HTTP_ADDR", "unix:///run/consul.sock"}, url: "http://localhost"},
		"no such token file":   {config: Config{TokenFile: filepath.Join(dir, "none")}, err: "consul token file: "},
		"no such CA":           {config: Config{CACert: filepath.Join(dir, "none")}, err: "consul agent localhost:8500: "},
		"another scheme":       {config: Config{Address: "ftp://x"}, err: "consul agent ftp://x: "},
		"another namespace":    {env: []string{"CONSUL_NAMESPACE", "shop"}, err: `consul: namespace "shop": only the default one is supported`},
		"half a client's pair": {config: Config{ClientCert: file}, err: "consul agent localhost:8500: "},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, c.env...)
			a, err := New(c.config)
			if err != nil {
				if c.err == "" || !strings.HasPrefix(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if c.err != "" {
				t.Fatalf("no error, want %q", c.err)
			}
			r, err := a.client.request(t.Context(), request{path: "/v1/x"}, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := r.URL.String(); got != c.url+"/v1/x" {
				t.Errorf("URL %s, want %s/v1/x", got, c.url)
			}
			if token, err := a.client.tokens.current(); token != c.token || err != nil {
				t.Errorf("token %q, %v; want %q", token, err, c.token)
			}
		})
	}
}

// A rotated token file is used with the next query; while it cannot be read, nothing is asked.
func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	bubble(t, func(c *Config) { c.Token, c.TokenFile = "", file }, func(t *testing.T, f *fake, a *Agent) {
		f.set("/q", []string{"a"})
		r := read(t, a)
		after(time.Second)
		write("second\n")
		f.set("/q", []string{"b"})
		after(time.Second)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		n := len(f.of("/q"))
		f.set("/q", []string{"c"})
		after(20 * time.Second)
		var tokens []string
		for _, q := range f.of("/q") {
			tokens = append(tokens, q.token)
		}
		if got := strings.Join(tokens, " "); got != "first first second" || len(tokens) != n {
			t.Errorf("tokens %q", got)
		}
		if got := r.values(); !strings.HasPrefix(got, "a@0s b@1s c@2s") {
			t.Errorf("values %q", got)
		}
	})
}

// The agent's Unix socket, over a real one.
func TestUnixSocket(t *testing.T) {
	environment(t)
	dir, err := os.MkdirTemp("", "consul") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		_, _ = w.Write([]byte(`"` + r.Host + " " + r.URL.Path + " " + r.URL.RawQuery + `"`))
	}), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	a, err := New(Config{Address: "unix://" + filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.client.do(t.Context(), request{path: "/v1/health/connect/a%2Fb", index: 3, wait: time.Second})
	if err != nil || string(got.body) != `"localhost /v1/health/connect/a/b index=3&wait=1000ms"` || got.index != 7 {
		t.Errorf("%s, %v", got.body, err)
	}
	a.client.http.CloseIdleConnections()
}

func TestPolicy(t *testing.T) {
	for node, want := range map[string]string{"": `agent_prefix ""`, "n1": `agent "n1"`} {
		p := Policy(node, "")
		if !strings.Contains(p, want+" {") {
			t.Errorf("Policy(%q) lacks %s:\n%s", node, want, p)
		}
		var tree map[string]any
		if err := hcl.Decode(&tree, p); err != nil {
			t.Errorf("Policy(%q): %v", node, err)
		}
		if len(tree) != 5 || strings.Contains(strings.Join(strings.Fields(p), ""), `policy="write"`) {
			t.Errorf("Policy(%q) = %v", node, tree)
		}
		for _, key := range []string{"", "mesh/a"} {
			if p, want := Policy(node, key), `key "`+cmp.Or(key, DefaultRevokedKey)+`" {`; !strings.Contains(p, want) {
				t.Errorf("Policy(%q, %q) lacks %s", node, key, want)
			}
		}
	}
}

// What is read is called as in Consul's own client.
func TestFieldNames(t *testing.T) {
	// Fields that Consul's answers have and the types of its client lack.
	lacking := map[string]bool{
		"proxyRegistration.MutualTLSMode": true, "chainTarget.Partition": true, "chainTarget.Peer": true, "chainResolver.RequestTimeout": true,
	}
	check := func(ours, theirs reflect.Type) {
		if ours.Kind() == reflect.Slice {
			ours, theirs = ours.Elem(), theirs.Elem().Elem()
		}
		for f := range ours.Fields() {
			if _, ok := theirs.FieldByName(f.Name); !ok != lacking[ours.Name()+"."+f.Name] {
				t.Errorf("%s.%s: found in %s: %v", ours.Name(), f.Name, theirs, ok)
			}
		}
	}
	for _, pair := range [][2]any{
		{nodeServices{}, api.CatalogNodeServiceList{}},
		{node{}, api.Node{}},
		{registration{}, api.AgentService{}},
		{proxyRegistration{}, api.AgentServiceConnectProxyConfig{}},
		{upstreamRegistration{}, api.Upstream{}},
		{instance{}, api.ServiceEntry{}},
		{instance{}.Checks, api.HealthChecks{}},
		{chainAnswer{}, api.DiscoveryChainResponse{}},
		{chainHead{}, api.CompiledDiscoveryChain{}},
		{proxyDefaults{}, api.ProxyConfigEntry{}},
	} {
		check(reflect.TypeOf(pair[0]), reflect.TypeOf(pair[1]))
	}
}

// The keys that are read of trees are called as in Consul's own client, too: what it writes is understood, all of it.
func TestKeyNames(t *testing.T) {
	write := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	at := time.Unix(1, 0)
	i, err := decodeIntention([]byte(write(api.Intention{
		ID: "x", Description: "d", SourceName: "web", SourceNS: "default", SourcePartition: "default", SourcePeer: "east", SourceType: "consul",
		DestinationName: "api", DestinationNS: "default", DestinationPartition: "default", Action: "allow", Meta: map[string]string{"a": "b"},
		Precedence: 9, CreatedAt: at, UpdatedAt: at, Hash: []byte("h"), CreateIndex: 1, ModifyIndex: 1,
	})))
	if err != nil || i == nil || i.String()+i.Unsupported != "web (peer east) => api (allow)" {
		t.Errorf("%v, %v", i, err)
	}
	for want, v := range map[string]api.Intention{
		"Permissions[0].HTTP is required": {SourceName: "web", DestinationName: "api", Permissions: []*api.IntentionPermission{{Action: "allow"}}},
		`SourceSamenessGroup "g"`:         {SourceName: "web", DestinationName: "api", Action: "allow", SourceSamenessGroup: "g"},
		`SourceType "external"`:           {SourceName: "web", DestinationName: "api", Action: "allow", SourceType: "external"},
	} {
		if i, err := decodeIntention([]byte(write(v))); err != nil || i == nil || i.Unsupported != want {
			t.Errorf("%+v, of which %q is not supported; %v", i, want, err)
		}
	}
	if i, err = decodeIntention([]byte(write(api.Intention{SourceName: "web", DestinationName: "api", Permissions: []*api.IntentionPermission{{
		Action: "allow", HTTP: &api.IntentionHTTPPermission{PathRegex: "/v.", Methods: []string{"GET"}, Header: []api.IntentionHTTPHeaderPermission{
			{Name: "X-A", Exact: "a", Invert: true}, {Name: "x", Prefix: "b"}, {Name: "x", Suffix: "c"}, {Name: "x", Regex: "d"}, {Name: "x", Present: true},
		}},
	}, {Action: "deny", HTTP: &api.IntentionHTTPPermission{PathExact: "/a"}}}}))); err != nil || i == nil || i.String()+i.Unsupported != "web => api (2 permissions)" {
		t.Errorf("%v, %v", i, err)
	} else if want := (intention.Permission{Action: intention.Allow, PathRegex: "/v.", Methods: []string{"GET"}, Headers: []intention.HeaderMatch{
		{Name: "X-A", Exact: "a", Invert: true}, {Name: "x", Prefix: "b"}, {Name: "x", Suffix: "c"}, {Name: "x", Regex: "d"}, {Name: "x", Present: true},
	}}); !reflect.DeepEqual(want, i.Permissions.List()[0]) {
		t.Errorf("%+v, want %+v", i.Permissions.List()[0], want)
	}
	mesh := parse[meshEntry](t, write(api.MeshConfigEntry{
		TLS: &api.MeshTLSConfig{
			Incoming: &api.MeshDirectionalTLSConfig{TLSMinVersion: "TLSv1_3", TLSMaxVersion: "TLSv1_2", CipherSuites: []string{"X"}},
			Outgoing: &api.MeshDirectionalTLSConfig{TLSMinVersion: "TLSv1_0"},
		},
		HTTP: &api.MeshHTTPConfig{SanitizeXForwardedClientCert: true},
	}))
	var m catalog.Mesh
	if problems := mesh.readMesh(&m); len(problems) != 3 || m.Incoming.Allow12 || !m.Outgoing.Allow12 || !m.DropForwardedClientCert {
		t.Errorf("%+v, %s", m, texts(problems))
	}
	s := sidecarOf(t, `, "Expose": `+write(api.ExposeConfig{Checks: true, Paths: []api.ExposePath{
		{Path: "/a", ListenerPort: 9000, LocalPathPort: 80, Protocol: "http2"}, {Path: "/b", ListenerPort: 9001, LocalPathPort: 80, ParsedFromCheck: true},
	}}))
	want := catalog.ExposedPath{Path: "/a", ListenerPort: 9000, LocalPort: 80, Protocol: catalog.HTTP2, Origin: "service p"}
	if !s.checks || !slices.Equal(s.proxy.Exposed, []catalog.ExposedPath{want}) {
		t.Errorf("checks %v, paths %+v, %s", s.checks, s.proxy.Exposed, texts(s.problems))
	}
}
