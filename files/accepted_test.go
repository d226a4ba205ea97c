package files_test

import (
	"os"
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// TestHosts holds that proxies of several machines may use the same ports, and that a comment is enough for an empty mesh.
func TestHosts(t *testing.T) {
	t.Parallel()
	two := ""
	var twoSb343 strings.Builder
	for _, name := range []string{"web", "api"} {
		twoSb343.WriteString("services {\nname = \"" + name + "\"\nport = 8080\naddress = \"" + name + ".internal\"\nconnect { sidecar_service {\nport = 20000\nproxy {\n" +
			"config { envoy_prometheus_bind_addr = \"0.0.0.0:9102\" }\nupstreams { destination_name = \"db\" local_bind_port = 9191 }\n}}}}\n")
	}
	two += twoSb343.String()
	c := load(t, files.Config{Dir: write(t, map[string]string{"a.hcl": two})})
	if len(c.Proxies) != 2 {
		t.Errorf("%d proxies, want 2", len(c.Proxies))
	}
	if c := load(t, files.Config{Dir: write(t, map[string]string{"a.hcl": "# nothing yet\n"})}); len(c.Services)+len(c.Proxies)+len(catalogtest.Intentions(c)) != 0 {
		t.Errorf("a comment became %+v", c)
	}
}

// TestOwnPort holds that a sidecar may have its application's port at another address, and that Consul's kinds of check are taken.
func TestOwnPort(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		inService("port = 8080\naddress = \"10.0.0.1\"\nconnect { sidecar_service {\nport = 8080\n} }"),
		inProxy("local_service_address = \"app.internal\"\nlocal_service_port = 20000\nconfig {\nbind_port = 20000\n}"),
		inService("port = 1\nchecks = [{ http = \"http://x\" interval = \"10s\" }, { ttl = \"30s\" }, { alias_service = \"api\" }, { status = \"warning\" }, { args = [\"a\"] interval = \"1m\" }]"),
		inService("port = 1\ntags = []"),
	} {
		if _, err := files.Load(files.Config{Dir: write(t, map[string]string{"a.hcl": text}), TrustDomain: trustDomain}); err != nil {
			t.Errorf("Load of %s: %v", text, err)
		}
	}
}

// TestMeshDefaults holds that what the control plane's configuration says is used where it fits, and only where no file says more.
func TestMeshDefaults(t *testing.T) {
	t.Parallel()
	newConnections := catalog.NewConnections
	dir := write(t, map[string]string{
		"a.hcl": "services {\nname = \"t\"\nport = 1\nconnect { sidecar_service {} }\n}\nservices {\nname = \"h\"\nport = 2\nconnect { sidecar_service {} }\n}\n" +
			"services {\nname = \"r\"\nport = 3\nconnect { sidecar_service { proxy { config { intention_enforcement = \"rbac\" revocation = \"drain\" } } } }\n}\n",
		"b.hcl": entry("service-defaults", "h", "Protocol = \"http\""),
	})
	c := load(t, files.Config{Dir: dir, Datacenter: "dc9", Enforcement: catalog.Both, Revocation: &newConnections, Default: 1})
	got := map[string]string{}
	for _, p := range c.Proxies {
		got[p.Service.Service] = p.Inbound.Enforcement.String() + " " + p.Inbound.Revocation.String()
	}
	want := map[string]string{"t": "both new", "h": "both next-request", "r": "rbac drain"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if c.Mesh.Datacenter != "dc9" || c.Mesh.Default.String() != "allow" || c.Mesh.TrustDomain != trustDomain {
		t.Errorf("mesh %+v", c.Mesh)
	}
}

// TestUser holds that the user who may have a proxy's token can be given by name.
func TestUser(t *testing.T) {
	t.Parallel()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	c := load(t, files.Config{Dir: write(t, map[string]string{"a.hcl": inProxy("config {\n  sallyport_uid = \"" + u.Username + "\"\n}")})})
	if got := c.Proxies[0].Bootstrap.UID; got != os.Getuid() {
		t.Errorf("sallyport_uid of %s = %d, want %d", u.Username, got, os.Getuid())
	}
}
