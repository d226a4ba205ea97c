package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// nativeView is a mesh of web with a sidecar that dials mail, which is native, and of batch, which has nothing.
func nativeView() *catalog.View {
	name := identity.NewName
	return catalogtest.Mesh{
		Mesh:    catalog.Mesh{TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.consul"), Datacenter: "dc1", Datacenters: []string{"dc1"}},
		Proxies: []catalog.Proxy{{ID: "web-sidecar-proxy", Instance: "web", Service: name("web"), Upstreams: []catalog.Upstream{{Destination: name("mail")}}}},
		Intentions: []intention.Intention{{
			Source: intention.Source{Name: name("web")}, Destination: name("mail"), Action: intention.Allow, Origin: "mail.hcl:9",
		}},
		Registrations: []catalog.Registration{
			{ID: "web", Service: name("web"), Port: 80, Origin: "web.hcl:1"},
			{ID: "mail-1", Service: name("mail"), Address: "10.0.0.9", Port: 8443, Native: true, Status: "critical", Origin: "mail.hcl:1"},
			{ID: "batch", Service: name("batch"), Socket: "/run/batch.sock", Origin: "batch.hcl:1"},
		},
	}.View()
}

// TestInstances: applications without a sidecar are listed, and of one all is said.
func TestInstances(t *testing.T) {
	v := nativeView()
	want := []admin.Instance{
		{ID: "batch", Service: "batch", Address: "/run/batch.sock", Origin: "batch.hcl:1"},
		{ID: "mail-1", Service: "mail", Address: "10.0.0.9:8443", Native: true, Status: "critical", Origin: "mail.hcl:1"},
	}
	all := instancesOf(v)
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("instances (-want +got):\n%s", diff)
	}
	for name, n := range map[string]int{"mail": 1, "mail-1": 1, "batch": 1, "web": 0} {
		if got := instancesNamed(all, name); len(got) != n {
			t.Errorf("%s means %v", name, got)
		}
	}
	if got := serviceOf(v, "mail-1"); got != identity.NewName("mail") {
		t.Errorf("serviceOf(mail-1) = %s", got)
	}
	d, err := instanceDetail(v, "mail-1")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s := admin.Status{Instances: all}
	printStatus(&out, advice{}, s, 1, nil, &d)
	const text = `
mail-1: a native application
  service mail, defined at mail.hcl:1
  identity spiffe://mesh.consul/ns/default/dc/dc1/svc/mail
  address 10.0.0.9:8443, checks critical
  dialled by web-sidecar-proxy

Who may connect, if the application asks
  web may connect, by mail.hcl:9
  everybody else may not connect, by the default policy
`
	if !strings.HasSuffix(out.String(), text) {
		t.Errorf("status:\n%s\nwant at its end\n%s", out.String(), text)
	}
	if d, err = instanceDetail(v, "batch"); err != nil || d.DialledBy != nil || len(d.Rules) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, v := range []*catalog.View{nil, v} {
		if _, err := instanceDetail(v, "x"); err == nil {
			t.Error("something is said of x")
		}
	}
	// One that is native and on a socket is said to be dialled by nobody, in the list and alone.
	socket := admin.Instance{ID: "cache", Service: "cache", Address: "/run/cache.sock", Native: true, Status: "passing", Origin: "cache.hcl:1"}
	out.Reset()
	printInstances(&out, painter{}, []admin.Instance{socket})
	printInstance(&out, painter{}, admin.InstanceDetail{Instance: socket})
	for _, want := range []string{"cache, at /run/cache.sock, native (on a socket, where no sidecar dials it), passing (cache.hcl:1)", "dialled by no sidecar, as those dial ports and it is on a socket"} {
		if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, want) {
			t.Errorf("%s\nwant %q in it", got, want)
		}
	}
	if got := instanceAddress(&catalog.Registration{Socket: "/run/x", Address: "10.0.0.1", Port: 80}); got != "10.0.0.1:80" {
		t.Errorf("with a socket and a port it is at %s", got)
	}
	if faults, n := judgeNatives(s); n != 1 || len(faults) != 1 || faults[0].Text != "mail-1, of mail: its checks are critical, so no sidecar dials it" {
		t.Errorf("%d natives: %+v", n, faults)
	}
}
