package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// instances is a View of services with sidecars, by instance.
func instances(of map[string]string) *catalog.View {
	c := catalog.Contents{Mesh: catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.consul"), Datacenter: "dc1", Datacenters: []string{"dc1"}}}
	for instance, service := range of {
		name := identity.NewName(service)
		if !slices.ContainsFunc(c.Services, func(s *catalog.Service) bool { return s.Name == name }) {
			c.Services = append(c.Services, &catalog.Service{Name: name})
		}
		c.Proxies = append(c.Proxies, &catalog.Proxy{ID: identity.ProxyID(instance + "-sidecar-proxy"), Instance: instance, Service: name})
	}
	slices.SortFunc(c.Services, func(a, b *catalog.Service) int { return strings.Compare(a.Name.Service, b.Name.Service) })
	slices.SortFunc(c.Proxies, func(a, b *catalog.Proxy) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return (&catalog.View{}).Next(c)
}

// TestNames: a name means a proxy, an instance or a service; several candidates are listed.
func TestNames(t *testing.T) {
	t.Parallel()
	v := instances(map[string]string{"web-1": "web", "web-2": "web", "api": "api"})
	for name, want := range map[string]string{
		"web-1": "web-1-sidecar-proxy", "web-1-sidecar-proxy": "web-1-sidecar-proxy", "api": "api-sidecar-proxy",
		"web":   `"web" has 2 proxies: choose one with --proxy-id: web-1-sidecar-proxy (instance web-1), web-2-sidecar-proxy (instance web-2)`,
		"wbe-1": `did you mean "web-1"?`,
		"queue": "`sallyport status` lists the proxies",
	} {
		pr, err := proxyOf(v, admin.TokenRequest{SidecarFor: name})
		var got string
		if err != nil {
			got = err.Error()
		} else {
			got = string(pr.ID)
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{"web-2": "web", "api-sidecar-proxy": "api", "web": "web", "queue": "queue"} {
		if got := serviceOf(v, name); got != identity.NewName(want) {
			t.Errorf("serviceOf(%s) = %s, want %s", name, got, want)
		}
	}
}

// TestMistyped: --help does not make a command of a word that is none.
func TestMistyped(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"nosuch --help": `unknown command "nosuch" for "sallyport": see`, "help nosuch": "unknown command", "intention chek --help": "did you mean `sallyport intention check`?",
		"status --help": "", "help status": "", "--help": "", "intention": "", "completion bash": "", "completion tcsh": "there is bash, fish, powershell, zsh", "completion bahs": "did you mean `sallyport completion bash`?", "help completion tcsh": "there is bash",
		"envoy -sidecar-for web": "unknown flag -sidecar-for: did you mean --sidecar-for?", "status -runtime-dir=x": "did you mean --runtime-dir?", "bootstrap -output x": "did you mean --output?",
		"status -help": "did you mean --help?", "-version": "did you mean --version?", "envoy --sidecar-for web -- -log-level info": "", "bootstrap -o x": "", "intention check -json a b": "did you mean --json?",
		"__complete status x": "", "": "", "--runtime-dir x status": "",
	} {
		err := mistyped(newRootCommand(), strings.Fields(args))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("sallyport %s: %v, want %q", args, err, want)
		}
	}
}

// TestJSONEverywhere: whatever prints an answer prints it as JSON too.
func TestJSONEverywhere(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"status", "check", "change", "intention check", "intention list", "leaf rotate", "validate", "bootstrap", "version"} {
		c, _, err := newRootCommand().Find(strings.Fields(args))
		if err != nil || c.Flags().Lookup("json") == nil {
			t.Errorf("sallyport %s has no --json: %v", args, err)
		}
	}
}
