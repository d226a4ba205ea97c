//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulTrustDomains: beside Consul the Meta of a service-intentions entry says which of its sources is a workload of another trust domain,
// and the config of an upstream which it is; what is not understood denies, and has no listener.
func TestConsulTrustDomains(t *testing.T) {
	t.Parallel()
	const billing, other = "spiffe://td-b.example/ns/prod/sa/billing", "spiffe://td-b.example/ns/prod/sa/other"
	domains := t.TempDir()
	b := meshtest.ForeignAuthority(t, "td-b.example")
	knows(t, domains, "td-b.example", b)
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := besideConsul(t, c, "--trust-domains", domains)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Serve()
	api := m.Sidecar("api")
	trustDomain, ours := m.Status().TrustDomain, m.URI("api")
	write := func(meta string) {
		t.Helper()
		c.Run("config", "write", c.File("api.hcl", fmt.Sprintf(`Kind = "service-intentions"
Name = "api"
Sources = [
  { Name = "web", Action = "allow" },
  { Name = "billing", Peer = "td-b", Action = "allow" },
]
Meta { sallyport_spiffe_id_billing = %q }
`, meta)))
	}
	asks := func(uris ...string) func() meshtest.Answer {
		client := meshtest.Client{Certificate: b.Issue(t, meshtest.LeafSpec{URIs: uris})}
		return func() meshtest.Answer { return client.Get(m.Public("api"), "/") }
	}
	caller := newForeignWorkload(t, b, billing, bundleOf(t, m, trustDomain))
	refused := func(what string) {
		t.Helper()
		meshtest.Await(t, what, func() error { return wantDenied(caller.get(m.Public("api"), ours, false)) })
	}
	refused("nobody is let in before there is an entry")
	same := unmodified(t, api)
	write(billing)
	meshtest.Await(t, "who is named by the Meta is let in", func() error { return wantAllowed(caller.get(m.Public("api"), ours, false)) })
	same("an entry about another trust domain")
	for name, ask := range map[string]func() meshtest.Answer{
		"another workload":       asks(other),
		"a service of this mesh": asks(m.URI("web")),
		"somebody of two names":  asks(other, m.URI("web")),
		"somebody who is both":   asks(billing, m.URI("web")),
	} {
		if a := ask(); !a.Denied() {
			t.Errorf("%s: %v", name, a)
		}
	}
	if out := m.MustRun("intention", "check", billing, "api"); !strings.Contains(out, "Allowed") {
		t.Errorf("intention check: %s", out)
	}
	write("spiffe://td-b.example/ns/prod/*")
	refused("a Meta with a wildcard denies")
	says(t, m, "sallyport_spiffe_id_billing", "without a wildcard")
	write(billing)
	meshtest.Await(t, "the entry is mended", func() error { return wantAllowed(caller.get(m.Public("api"), ours, false)) })

	// The same workload as an upstream, and another one in its place.
	web := m.Port()
	server, rpc := newForeignWorkload(t, b, billing, bundleOf(t, m, trustDomain)).serve(t, m.URI("web"))
	impostor, _ := newForeignWorkload(t, b, other, bundleOf(t, m, trustDomain)).serve(t, m.URI("web"))
	ports := map[string]int{"http": m.Port(), "grpc": m.Port(), "impostor": m.Port()}
	upstream := func(name, peer, protocol string, port int) map[string]any {
		return map[string]any{"DestinationName": name, "DestinationPeer": peer, "LocalBindPort": ports[name], "Config": map[string]any{
			"sallyport_spiffe_id": billing, "sallyport_address": "127.0.0.1", "sallyport_port": port, "protocol": protocol,
		}}
	}
	register := func(peer string) {
		c.Register(map[string]any{"Name": "web", "Port": 1, "Connect": map[string]any{"SidecarService": map[string]any{
			"Address": "127.0.0.1", "Port": web, "Checks": []map[string]any{meshtest.ListeningCheck("127.0.0.1", web, "10s")},
			"Proxy": map[string]any{"Upstreams": []map[string]any{
				upstream("http", "td-b", "http2", server), upstream("grpc", "td-b", "grpc", rpc), upstream("impostor", peer, "http", impostor),
			}},
		}}})
	}
	register("td-b")
	m.Sidecar("web")
	at := func(name string) string { return fmt.Sprintf("127.0.0.1:%d", ports[name]) }
	meshtest.Await(t, "web reaches billing", func() error { return wantAllowed(meshtest.GetPlain("http://" + at("http"))) })
	meshtest.Await(t, "web reaches billing in gRPC", func() error { return (*foreignWorkload)(nil).check(at("grpc"), "") })
	if a := meshtest.GetPlain("http://" + at("impostor")); a.Allowed() {
		t.Errorf("who is not billing is reached in its place: %v", a)
	}
	register("")
	says(t, m, "an upstream with sallyport_spiffe_id needs a destination_peer")
	if a := meshtest.GetPlain("http://" + at("http")); !a.Allowed() {
		t.Errorf("the others of this proxy: %v", a)
	}
}
