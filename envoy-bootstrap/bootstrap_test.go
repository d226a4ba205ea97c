package bootstrap_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/golden"
	"github.com/sallyport/sallyport/snapshot"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

const trustDomain = "11111111-2222-3333-4444-555555555555.consul"

// web is the bootstrap of an ordinary sidecar.
func web() bootstrap.Params {
	return bootstrap.Params{
		ProxyID: "web-sidecar-proxy",
		Identity: identity.Service{
			TrustDomain: spiffeid.RequireTrustDomainFromString(trustDomain), Datacenter: "dc1", Name: identity.NewName("web"),
		},
		XDSSocket:   "/run/sallyport/xds.sock",
		TokenFile:   "/run/sallyport/web-sidecar-proxy/token.json",
		AdminSocket: "/run/sallyport/web-sidecar-proxy/admin.sock",
	}
}

// remote is the bootstrap of a sidecar on another machine than the control plane, whose certificate
// ca signed.
func remote(ca string) bootstrap.Params {
	p := web()
	p.XDSSocket = ""
	p.XDSAddress = "cp.example.com:8502"
	p.XDSCA = ca
	p.XDSURI = "spiffe://" + trustDomain + "/sallyport/xds"
	return p
}

func with(p bootstrap.Params, change func(*bootstrap.Params)) bootstrap.Params {
	change(&p)
	return p
}

// cases are the parameters of the golden files, by name.
func cases(t *testing.T) map[string]bootstrap.Params {
	t.Helper()
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]bootstrap.Params{
		"socket":    web(),
		"remote":    remote(string(ca)),
		"remote-ip": with(remote(string(ca)), func(p *bootstrap.Params) { p.XDSAddress = "[2001:db8::1]:8502" }),
		"admin-bind": with(web(), func(p *bootstrap.Params) {
			p.AdminSocket, p.AdminBind = "", "localhost:19000"
		}),
		"admin-bind-allow-paths": with(web(), func(p *bootstrap.Params) {
			p.AdminSocket, p.AdminBind = "", "127.0.0.1:19000"
			p.EnvoyVersion = bootstrap.Version{Major: 1, Minor: 37}
			p.PrometheusBindAddr = "0.0.0.0:9102"
		}),
		"metrics-and-limits": with(web(), func(p *bootstrap.Params) {
			p.PrometheusBindAddr = "[::]:9102"
			p.StatsTags = []string{"nomad.job=shop", "consul.source.service=forged", "nomad.job=twice"}
			p.MaxConnections, p.RegexSize, p.DrainTime = 1000, 3000, 5*time.Second
			p.EnvoyVersion = bootstrap.Version{Major: 1, Minor: 40}
		}),
	}
}

func build(t *testing.T, p bootstrap.Params) *bootstrapv3.Bootstrap {
	t.Helper()
	b, err := bootstrap.Build(p)
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	return b
}

func marshal(t *testing.T, b *bootstrapv3.Bootstrap) []byte {
	t.Helper()
	text, err := bootstrap.JSON(b)
	if err != nil {
		t.Fatalf("JSON: %v", err)
	}
	return text
}

func TestGoldens(t *testing.T) {
	goldens := golden.New(t, "testdata", ".json")
	for name, p := range cases(t) {
		t.Run(name, func(t *testing.T) {
			b := build(t, p)
			got := marshal(t, b)
			checkDeprecated(t, b)
			goldens.Equal(t, name+".json", got)
			if again := marshal(t, build(t, p)); !bytes.Equal(again, got) {
				t.Error("a second Build of the same parameters gives other bytes")
			}
			read := &bootstrapv3.Bootstrap{}
			if err := protojson.Unmarshal(got, read); err != nil {
				t.Fatalf("read back: %v", err)
			}
			if diff := cmp.Diff(b, read, protocmp.Transform()); diff != "" {
				t.Errorf("read back (-written +read):\n%s", diff)
			}
		})
	}
	t.Run("token", func(t *testing.T) {
		got, err := bootstrap.TokenFile("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ3ZWIifQ.c2ln")
		if err != nil {
			t.Fatal(err)
		}
		goldens.Equal(t, "token.json", got)
	})
}

// TestNodeMetadata holds the metadata against the reader of it.
func TestNodeMetadata(t *testing.T) {
	p := web()
	p.RegexSize, p.DrainTime, p.PrometheusBindAddr = 2345, 7*time.Second, "127.0.0.1:9102"
	f := snapshot.FeaturesOf(build(t, p).GetNode())
	if f.RegexSize != 2345 || f.DrainTime != 7*time.Second || f.Metrics != (snapshot.Metrics{Known: true, Address: "127.0.0.1:9102"}) {
		t.Errorf("FeaturesOf = %+v, want RegexSize 2345, DrainTime 7s and metrics", f)
	}
	f = snapshot.FeaturesOf(build(t, web()).GetNode())
	if f.RegexSize != 10000 || f.DrainTime != bootstrap.DefaultDrainTime || f.Metrics != (snapshot.Metrics{Known: true}) {
		t.Errorf("FeaturesOf = %+v, want the defaults", f)
	}
}

func TestBuildRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*bootstrap.Params)
		want   []string // parts of the error
	}{
		{"nothing", func(p *bootstrap.Params) { *p = bootstrap.Params{} }, []string{"proxy ID: is empty", "service:", "neither a socket nor an address of the control plane", "neither a socket nor an address for Envoy's administration", "token file: is empty"}},
		{"proxy ID with a line break", func(p *bootstrap.Params) { p.ProxyID = "web\n" }, []string{`proxy ID "web\n": holds a control character`}},
		{"proxy ID not UTF-8", func(p *bootstrap.Params) { p.ProxyID = "web\xff" }, []string{"not UTF-8"}},
		{"proxy ID too long", func(p *bootstrap.Params) { p.ProxyID = strings.Repeat("w", 513) }, []string{"longer than 512 bytes"}},
		{"service", func(p *bootstrap.Params) { p.Identity.Service = "we/b" }, []string{"service:", "SPIFFE"}},
		{"datacenter", func(p *bootstrap.Params) { p.Identity.Datacenter = "d c" }, []string{`datacenter "d c"`}},
		{"trust domain", func(p *bootstrap.Params) { p.Identity.TrustDomain = spiffeid.TrustDomain{} }, []string{"no trust domain"}},
		{"two ways to the control plane", func(p *bootstrap.Params) { p.XDSAddress = "a:1" }, []string{"both a socket and an address of the control plane"}},
		{"relative socket", func(p *bootstrap.Params) { p.XDSSocket = "xds.sock" }, []string{`xDS socket "xds.sock": expected a full path`}},
		{"socket with ..", func(p *bootstrap.Params) { p.XDSSocket = "/run/../xds.sock" }, []string{"expected a full path"}},
		{"long socket", func(p *bootstrap.Params) { p.AdminSocket = "/" + strings.Repeat("a", 107) }, []string{"108 bytes are too long for a socket", "/aaaa"}},
		{"socket with NUL", func(p *bootstrap.Params) { p.AdminSocket = "/a\x00b" }, []string{"control character"}},
		{"relative token file", func(p *bootstrap.Params) { p.TokenFile = "token.json" }, []string{"expected a full path"}},
		{"token file of another kind", func(p *bootstrap.Params) { p.TokenFile = "/token.yaml" }, []string{"must end in .json"}},
		{"two administrations", func(p *bootstrap.Params) { p.AdminBind = "127.0.0.1:1" }, []string{"both a socket and an address for Envoy's administration"}},
		{"administration for all", func(p *bootstrap.Params) { p.AdminSocket, p.AdminBind = "", "0.0.0.0:19000" }, []string{"not a loopback address"}},
		{"administration on a name", func(p *bootstrap.Params) { p.AdminSocket, p.AdminBind = "", "web:19000" }, []string{"expected an IP address and a port"}},
		{"administration without port", func(p *bootstrap.Params) { p.AdminSocket, p.AdminBind = "", "127.0.0.1:0" }, []string{"expected an IP address and a port"}},
		{"metrics", func(p *bootstrap.Params) { p.PrometheusBindAddr = "9102" }, []string{`envoy_prometheus_bind_addr "9102"`}},
		{"metrics on a zone", func(p *bootstrap.Params) { p.PrometheusBindAddr = "[fe80::1%eth0]:9102" }, []string{"expected an IP address and a port"}},
		{"old Envoy", func(p *bootstrap.Params) { p.EnvoyVersion = bootstrap.Version{Major: 1, Minor: 35, Patch: 9} }, []string{"envoy 1.35.9 is too old: 1.36.0"}},
		{"connections", func(p *bootstrap.Params) { p.MaxConnections = -1 }, []string{"-1 connections"}},
		{"expressions", func(p *bootstrap.Params) { p.RegexSize = 99 }, []string{"size 99"}},
		{"drain time", func(p *bootstrap.Params) { p.DrainTime = 1500 * time.Millisecond }, []string{"drain time 1.5s"}},
		{"negative drain time", func(p *bootstrap.Params) { p.DrainTime = -time.Second }, []string{"drain time -1s"}},
		{"remote without port", func(p *bootstrap.Params) { p.XDSSocket, p.XDSAddress = "", "cp" }, []string{`xDS address "cp": expected host:port`}},
		{"remote with a strange name", func(p *bootstrap.Params) { p.XDSSocket, p.XDSAddress = "", "c p:1" }, []string{"expected host:port"}},
		{"remote without CA", func(p *bootstrap.Params) { p.XDSSocket, p.XDSAddress, p.XDSURI = "", "cp:1", "spiffe://a/b" }, []string{"xDS address cp:1: CA: expected one or more certificates"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := bootstrap.Build(with(web(), tt.change))
			if err == nil {
				t.Fatal("Build accepts it")
			}
			if b != nil {
				t.Error("Build returns a bootstrap beside the error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestRemoteRefuses(t *testing.T) {
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*bootstrap.Params){
		"a key beside the CA": func(p *bootstrap.Params) {
			p.XDSCA += "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
		},
		"text behind the CA": func(p *bootstrap.Params) { p.XDSCA += "and more" },
		"no certificate":     func(p *bootstrap.Params) { p.XDSCA = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" },
		"no URI":             func(p *bootstrap.Params) { p.XDSURI = "" },
		"a URI of DNS":       func(p *bootstrap.Params) { p.XDSURI = "https://cp" },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := bootstrap.Build(with(remote(string(ca)), change)); err == nil {
				t.Error("Build accepts it")
			}
		})
	}
}

func TestAdminRemote(t *testing.T) {
	p := web()
	p.AdminSocket, p.AdminBind, p.AdminRemote = "", "0.0.0.0:19000", true
	if got := build(t, p).GetAdmin().GetAddress().GetSocketAddress().GetAddress(); got != "0.0.0.0" {
		t.Errorf("admin address %q, want 0.0.0.0", got)
	}
}

func TestTokenFileRefuses(t *testing.T) {
	for _, token := range []string{"", "a b", "a\r\nx-evil: 1", "a\x00", "ä", "a\x7f", strings.Repeat("a", 8193)} {
		_, err := bootstrap.TokenFile(token)
		if err == nil || !strings.Contains(err.Error(), "not a token") {
			t.Errorf("TokenFile(%.20q): error %v, want that it is not a token", token, err)
		}
		if err != nil && len(token) > 2 && strings.Contains(err.Error(), token) {
			t.Errorf("TokenFile(%.20q): the error holds the token", token)
		}
	}
}

func TestArgs(t *testing.T) {
	want := []string{"--config-path", "/b.json", "--drain-time-s", "30", "--drain-strategy", "immediate", "--disable-hot-restart"}
	if diff := cmp.Diff(want, bootstrap.Args(web(), "/b.json")); diff != "" {
		t.Error(diff)
	}
	p := web()
	p.DrainTime = 5 * time.Second
	if got := bootstrap.Args(p, "/b.json")[3]; got != "5" {
		t.Errorf("--drain-time-s %s, want 5", got)
	}
}

// FuzzParams: whatever the parameters are, they are refused or come out as the values that they
// are, and nothing else.
func FuzzParams(f *testing.F) {
	f.Add("web-sidecar-proxy", "web", "dc1", "mesh.example", "/run/sallyport/xds.sock", "/run/t/token.json", "127.0.0.1:19000", "", "token")
	f.Add(`x"}],"admin":{"address":{}}`, "web", "dc1", "mesh.example", `/run/"},"x":{"/xds.sock`, "/run/t/token.json", "/run/admin.sock", "0.0.0.0:9102", `t"}`)
	f.Add("a\\u0022", "web.v1", "dc-1", "0123.consul", "/%7B%22", "/{{.}}/token.json", "[::1]:1", "[::]:1", "Bearer x")
	f.Add("\u2028", "w", "d", "t", "/a", "/b.json", "/c", "1.2.3.4:5", "a'b")
	f.Fuzz(func(t *testing.T, id, service, dc, domain, xds, token, admin, metrics, secret string) {
		p := web()
		p.ProxyID, p.Identity.Name, p.Identity.Datacenter = id, identity.NewName(service), dc
		p.Identity.TrustDomain, _ = spiffeid.TrustDomainFromString(domain)
		p.XDSSocket, p.TokenFile, p.PrometheusBindAddr = xds, token, metrics
		if strings.HasPrefix(admin, "/") {
			p.AdminSocket = admin
		} else {
			p.AdminSocket, p.AdminBind = "", admin
		}
		if content, err := bootstrap.TokenFile(secret); err == nil {
			var out struct {
				Resources []struct {
					GenericSecret struct {
						Secret struct {
							InlineString string `json:"inline_string"`
						} `json:"secret"`
					} `json:"generic_secret"`
				} `json:"resources"`
			}
			if err := json.Unmarshal(content, &out); err != nil {
				t.Fatalf("token file: %v", err)
			}
			if len(out.Resources) != 1 || out.Resources[0].GenericSecret.Secret.InlineString != "Bearer "+secret {
				t.Fatalf("token file of %q: %s", secret, content)
			}
		}
		b, err := bootstrap.Build(p)
		if err != nil {
			return
		}
		text, err := bootstrap.JSON(b)
		if err != nil {
			t.Fatalf("JSON: %v", err)
		}
		read := &bootstrapv3.Bootstrap{}
		if err := protojson.Unmarshal(text, read); err != nil {
			t.Fatalf("read back: %v\n%s", err, text)
		}
		if diff := cmp.Diff(b, read, protocmp.Transform()); diff != "" {
			t.Fatalf("read back (-written +read):\n%s", diff)
		}
		// The parameters change leaves, never the shape.
		plain := with(web(), func(q *bootstrap.Params) {
			if p.AdminBind != "" {
				q.AdminSocket, q.AdminBind = "", "127.0.0.1:1"
			}
			if p.PrometheusBindAddr != "" {
				q.PrometheusBindAddr = "127.0.0.1:2"
			}
		})
		if got, want := shape(t, text), shape(t, marshal(t, build(t, plain))); got != want {
			t.Fatalf("the shape differs:\n%s\n%s", got, want)
		}
		if got := read.GetNode().GetId(); got != id {
			t.Fatalf("node.id %q, want %q", got, id)
		}
	})
}

// shape is a JSON text without its values.
func shape(t *testing.T, text []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(keysOf(v))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func keysOf(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = keysOf(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = keysOf(e)
		}
		return out
	}
	return nil
}
