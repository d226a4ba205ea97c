package catalog_test

import (
	"testing"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// TestSpellings demands that what is said of a destination holds however the service and the entry
// spell it, and for those who ask by yet another spelling.
func TestSpellings(t *testing.T) {
	m := contents()
	m.Mesh.Default = intention.Allow
	m.Services[0].Name, m.Proxies[0].Service = name("Web"), name("Web")
	m.Intentions = []intention.Intention{
		{Source: intention.Source{Name: name("Api")}, Destination: name("WEB"), Action: intention.Deny},
		{Source: intention.Source{Name: name("db")}, Destination: name("web"), Action: intention.Deny},
		{Source: intention.Source{Name: name("web")}, Destination: name("API"), Action: intention.Deny},
	}
	v := m.View()
	decide := func(source, destination string) bool {
		t.Helper()
		p := v.Policy(name(destination))
		if p == nil {
			t.Fatalf("nothing is known of %s", destination)
		}
		return p.Decide(v.Identity(name(source))).Allowed()
	}
	for _, destination := range []string{"Web", "web", "WEB", "wEB"} {
		for source, want := range map[string]bool{"Api": false, "api": true, "db": false, "DB": true, "Web": true} {
			if got := decide(source, destination); got != want {
				t.Errorf("%s → %s is allowed: %t, want %t", source, destination, got, want)
			}
		}
	}
	for _, destination := range []string{"api", "API", "Api"} {
		if decide("web", destination) || !decide("Web", destination) {
			t.Errorf("%s: sources are compared as they are spelled", destination)
		}
	}
	for w := range v.Of(name("Web")) {
		if w.Policy.Decide(v.Identity(name("Api"))).Allowed() || w.Policy.Destination() != name("Web") {
			t.Errorf("the proxy's policy is %v of %s", w.Policy.Decide(v.Identity(name("Api"))), w.Policy.Destination())
		}
	}
	// Nothing changes by looking again, and a change under one spelling is one of the others.
	if v.Next(m.Contents()) != v {
		t.Error("another View of the same contents")
	}
	before := map[identity.ProxyID]any{}
	for p := range v.Proxies() {
		before[p.ID] = v.Proxy(p.ID)
	}
	m.Intentions[0].Action = intention.Allow
	v = v.Next(m.Contents())
	if !decide("Api", "Web") || !decide("Api", "web") || decide("db", "Web") {
		t.Error("the change does not hold for every spelling")
	}
	for p := range v.Proxies() {
		if changed := before[p.ID] != any(v.Proxy(p.ID)); changed != (p.Service == name("Web")) {
			t.Errorf("%s has changed: %t", p.ID, changed)
		}
	}
}
