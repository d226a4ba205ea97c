package catalog_test

import (
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// TestStamps changes one thing after the other, and wants its stamp and the revision of its part to follow, and no other.
func TestStamps(t *testing.T) {
	m := contents()
	v := m.View()
	first := v.Change().Number
	if got := v.StampOf("web-1"); got != (catalog.Stamp{Created: first, Modified: first}) {
		t.Errorf("first stamp of web-1 is %+v", got)
	}
	if got := v.StampOf("nobody"); got != (catalog.Stamp{}) {
		t.Errorf("stamp of nobody is %+v", got)
	}
	step := func(change func(*catalogtest.Mesh)) uint64 {
		change(&m)
		v = v.Next(m.Contents())
		return v.Change().Number
	}
	second := step(func(m *catalogtest.Mesh) { m.Registrations[0].Port++ })
	if got := v.StampOf("web-1"); got != (catalog.Stamp{Created: first, Modified: second}) {
		t.Errorf("web-1 changed: %+v", got)
	}
	if got := v.StampOf("batch-1"); got.Modified != first {
		t.Errorf("batch-1 did not change: %+v", got)
	}
	if got := v.Revision(); got != (catalog.Revision{Mesh: first, Registered: second, Intentions: first, Entries: first}) {
		t.Errorf("a registration changed: %+v", got)
	}
	third := step(func(m *catalogtest.Mesh) {
		m.Intentions[0].Action = intention.Deny
		m.Sidecars = append(m.Sidecars, catalog.Sidecar{Registration: catalog.Registration{ID: "new"}})
	})
	if got := v.StampOfEntry(catalog.IntentionsKind, "api"); got != (catalog.Stamp{Created: first, Modified: third}) {
		t.Errorf("what is in force of the intentions of api changed: %+v", got)
	}
	if got := v.StampOf("new"); got != (catalog.Stamp{Created: third, Modified: third}) {
		t.Errorf("new came: %+v", got)
	}
	if got := v.StampOfEntry("service-defaults", "web"); got.Modified != first {
		t.Errorf("service-defaults of web did not change: %+v", got)
	}
	// What goes and comes again is created anew.
	step(func(m *catalogtest.Mesh) { m.Registrations = m.Registrations[1:] })
	if got := v.StampOf("web-1"); got != (catalog.Stamp{}) {
		t.Errorf("web-1 is gone: %+v", got)
	}
	last := step(func(m *catalogtest.Mesh) {
		m.Registrations = append(contents().Registrations[:1:1], m.Registrations...)
	})
	if got := v.StampOf("web-1"); got != (catalog.Stamp{Created: last, Modified: last}) {
		t.Errorf("web-1 came again: %+v", got)
	}
}

// TestGroups finds what is registered under a name in any letter case, also after a change of it.
func TestGroups(t *testing.T) {
	m := contents()
	m.Registrations = append(m.Registrations, catalog.Registration{ID: "w2", Service: identity.NewName("WEB")})
	v := m.View()
	g := v.Group(name("Web"))
	if len(g.Registrations) != 2 || len(g.Sidecars) != 1 || len(g.Named) != 0 {
		t.Fatalf("Group(Web) = %+v", g)
	}
	if named := v.Group(name("web-sidecar-proxy")); len(named.Named) != 1 {
		t.Errorf("Group(web-sidecar-proxy) = %+v", named)
	}
	if nobody := v.Group(name("nobody")); len(nobody.Registrations)+len(nobody.Named)+len(nobody.Sidecars) > 0 {
		t.Error("nobody is registered")
	}
	api := v.Group(name("api"))
	m.Registrations[0].Port++
	next := v.Next(m.Contents())
	now := next.Group(name("web"))
	if now.Registrations[1] == g.Registrations[1] || now.Registrations[0] != g.Registrations[0] || next.Group(name("api")).Sidecars[0] != api.Sidecars[0] {
		t.Error("a registration of web changed, and neither the other one nor api's sidecar")
	}
	m.Registrations[0].Service = name("other") // under another name
	next = next.Next(m.Contents())
	if other := next.Group(name("Other")); len(other.Registrations) != 1 || len(next.Group(name("web")).Registrations) != 1 {
		t.Errorf("other has %+v", other)
	}
	m.Registrations = nil
	m.Sidecars = m.Sidecars[1:] // that of api
	if next = next.Next(m.Contents()); len(next.Group(name("web")).Sidecars) > 0 || next.Group(name("api")).Sidecars[0] != api.Sidecars[0] {
		t.Error("web is gone, and api is what it was")
	}
}

// TestEntryLookUp finds entries as they are spelled, and without regard to letter case where none is spelled so.
func TestEntryLookUp(t *testing.T) {
	m := contents()
	m.Entries = append(m.Entries, catalog.Entry{Kind: "service-defaults", Name: "Web"})
	v := m.View()
	for asked, want := range map[string]string{"web": "web", "Web": "Web", "WEB": "Web", "api": ""} {
		e := v.Entry("service-defaults", asked)
		if got := e; got == nil != (want == "") || got != nil && got.Name != want {
			t.Errorf("Entry(%s) = %+v, want %q", asked, got, want)
		}
	}
}
