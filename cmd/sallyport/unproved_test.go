package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The status warns of intentions whose trust domain has no bundle, or one that is stale.
func TestUnproved(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString
	mesh := catalogtest.Mesh{Mesh: catalog.Mesh{
		TrustDomain: exampleDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}, Federated: []spiffeid.TrustDomain{td("fresh.example"), td("stale.example")},
	}}
	for _, i := range []struct{ id, destination, origin string }{
		{"spiffe://fresh.example/x", "api", "api.hcl:1"},
		{"spiffe://stale.example/x", "api", "api.hcl:2"},
		{"spiffe://away.example/x", "api", "api.hcl:3"},
		{"spiffe://gone.example/1", "a", "a.hcl:1"},
		{"spiffe://gone.example/2", "b", "b.hcl:1"},
		{"spiffe://gone.example/3", "c", "c.hcl:1"},
		{"spiffe://gone.example/4", "d", "d.hcl:1"},
		{"spiffe://gone.example/5", "e", "e.hcl:1"},
	} {
		mesh.Intentions = append(mesh.Intentions, intention.Intention{
			Source: intention.Source{ID: identity.ID(i.id)}, Destination: identity.NewName(i.destination), Action: intention.Allow, Origin: i.origin,
		})
	}
	mesh.Intentions = append(mesh.Intentions, intention.Intention{Source: intention.Source{ID: "spiffe://denied.example/x"}, Destination: identity.NewName("api"), Action: intention.Deny})
	got := unproved(mesh.View(), []admin.TrustDomain{{Name: "fresh.example"}, {Name: "stale.example", Stale: true}, {Name: "away.example", File: "/etc/td/away.yaml", Stale: true}})
	want := []string{
		"the intentions of api (api.hcl:3) name workloads of away.example, of which there is no bundle yet, so none of them is let in: see /etc/td/away.yaml",
		"the intentions of a (a.hcl:1), b (b.hcl:1), c (c.hcl:1) and 2 more name workloads of gone.example, of which no bundle is known, so none of them is let in: write a file for it into --trust-domains",
		"the intentions of api (api.hcl:2) name workloads of stale.example, whose bundle is stale: who has a leaf of a new root there is refused",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The status warns of trust domains that one key can speak for, the mesh's own among them; `validate` of those that are defined.
func TestSharedRoots(t *testing.T) {
	root := otherRoot(t)
	own := sds.NewRoots(exampleDomain, "", []sds.Root{{ID: "1", Certificate: root}})
	dir := t.TempDir()
	pem := (&testca.Pair{Cert: root}).PEM()
	for name, text := range map[string]string{"b.pem": pem, "b.yaml": "trust_domain: td-b.example\nbundle: b.pem\n", "c.yaml": "trust_domain: td-c.example\nbundle: b.pem\n"} {
		writeText(t, filepath.Join(dir, name), text)
	}
	store, err := bundle.Open(bundle.Config{Dir: dir, Data: t.TempDir(), Own: func() (spiffeid.TrustDomain, bool) { return exampleDomain, true }})
	if err != nil {
		t.Fatal(err)
	}
	others, _ := store.Sets().Load()
	got := sharedKeys(own, others)
	if len(got) != 3 || !strings.Contains(got[0], "example.consul and td-b.example have a root of the same key") || !strings.Contains(got[2], "td-b.example and td-c.example") {
		t.Errorf("warnings: %q", got)
	}
	if got := sharedKeys(nil, others); len(got) != 1 {
		t.Errorf("without roots of the mesh's own: %q", got)
	}
	another := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "own"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).Cert
	if got := sharedKeys(sds.NewRoots(exampleDomain, "", []sds.Root{{ID: "1", Certificate: another}}), nil); got != nil {
		t.Errorf("keys of their own: %q", got)
	}
	empty := t.TempDir()
	writeText(t, filepath.Join(empty, "api.hcl"), "service {\n  name = \"api\"\n  port = 1\n}\n")
	if out, err := command(t, "validate", empty, "--trust-domains", dir); err != nil || !strings.Contains(out, "td-b.example and td-c.example have a root of the same key") {
		t.Errorf("validate: %s, %v", out, err)
	}
}

// validate names the intentions and upstreams whose trust domain is not defined, and what is wrong in --trust-domains.
func TestValidateTrustDomains(t *testing.T) {
	dir, domains := t.TempDir(), otherTrustDomain(t)
	writeText(t, filepath.Join(dir, "a.hcl"), `services {
  name = "api"
  port = 1
  connect { sidecar_service { proxy { upstreams {
    spiffe_id       = "spiffe://td-c.example/up"
    address         = "192.0.2.1"
    port            = 1
    local_bind_port = 9001
  } } } }
}
`)
	writeText(t, filepath.Join(dir, "b.hcl"), `Kind = "service-intentions"
Name = "api"
Sources = [
  { spiffe_id = "spiffe://td-b.example/x", Action = "allow" },
  { spiffe_id = "spiffe://td-c.example/x", Action = "allow" },
  { spiffe_id = "spiffe://td-c.example/y", Action = "deny" },
]
`)
	lines := func(out string) (found []string) {
		for line := range strings.Lines(out) {
			if strings.Contains(line, "td-b.example") || strings.Contains(line, "td-c.example") || strings.Contains(line, "td-d.example") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		slices.Sort(found)
		return found
	}
	out, err := command(t, "validate", dir)
	const asked = "is known is not looked at: give --trust-domains"
	if got := lines(out); err != nil || len(got) != 2 || !strings.Contains(got[0], "b.hcl:4: ") || !strings.HasSuffix(got[0], "the bundle of td-b.example "+asked) || !strings.Contains(got[1], "b.hcl:5: ") {
		t.Errorf("without --trust-domains: %s, %v", out, err)
	}
	out, err = command(t, "validate", dir, "--trust-domains", domains)
	want := " no file of " + domains + " that can be used defines td-c.example, so nothing proves who is of it"
	if got := lines(out); err != nil || len(got) != 3 || !strings.Contains(got[0], "a.hcl:4: ") && !strings.Contains(got[0], "a.hcl:5: ") ||
		!strings.Contains(got[1], "b.hcl:5: ") || !strings.Contains(got[2], "b.hcl:6: ") || !strings.HasSuffix(got[0], want) || !strings.HasSuffix(got[1], want) {
		t.Errorf("with it: %s, %v", out, err)
	}
	writeText(t, filepath.Join(domains, "d.yaml"), "trust_domain: td-d.example\nendpoint: {url: 'http://x/', profile: https_web}\n")
	t.Setenv("SALLYPORT_TRUST_DOMAINS", domains)
	out, err = command(t, "validate", dir)
	if _, exit := errors.AsType[exitError](err); !exit || !strings.Contains(out, filepath.Join(domains, "d.yaml")+":2: url: ") {
		t.Errorf("with a mistake: %s, %v", out, err)
	}
	if err := os.RemoveAll(domains); err != nil {
		t.Fatal(err)
	}
	if out, err = command(t, "validate", dir); err == nil || !strings.Contains(out, "no such file") {
		t.Errorf("a directory that is not there: %s, %v", out, err)
	}
}
