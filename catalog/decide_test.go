package catalog_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// TestDecide: of a name that nobody has registered the intentions about all destinations decide, and the default, unless there may be others
// that were not read; what no service can be called is denied.
func TestDecide(t *testing.T) {
	m := contents()
	m.Services = append(m.Services, catalog.Service{Name: name("dialled")})
	whole := first(m)
	m.Partial = true
	partial := first(m)
	m.Mesh.Default = intention.Deny
	closed := first(m)
	for _, tc := range []struct {
		view                *catalog.View
		source, destination string
		allowed             bool
		reason              intention.Reason
	}{
		{whole, "batch", "unknown", false, intention.ByIntention},
		{whole, "web", "unknown", true, intention.ByDefault},
		{whole, "web", "dialled", true, intention.ByDefault},
		{whole, "web", "api", true, intention.ByIntention},
		{whole, "web", "*", false, intention.NoPolicy},
		{whole, "web", "", false, intention.NoPolicy},
		{whole, "web", "default/api", false, intention.NoPolicy},
		{whole, "*", "api", false, intention.ForeignNamespace},
		{partial, "web", "unknown", false, intention.NoPolicy},
		{partial, "web", "dialled", false, intention.NoPolicy},
		{partial, "web", "api", true, intention.ByIntention},
		{closed, "web", "unknown", false, intention.NoPolicy},
	} {
		if d := tc.view.Decide(tc.view.Identity(name(tc.source)), name(tc.destination)); d.Allowed() != tc.allowed || d.Reason != tc.reason {
			t.Errorf("%s => %s: %v by %s, want %v by %s", tc.source, tc.destination, d.Allowed(), d.Reason, tc.allowed, tc.reason)
		}
	}
	if d := (&catalog.View{}).Decide(identity.Service{}, name("api")); d != (intention.Decision{}) {
		t.Errorf("the zero View decides %+v", d)
	}
}

// TestReadIsNoChange: what is read of a destination that has no proxy and no registration is no change of intentions where there may be
// others that were not read, nor that it is read no more; what changes meanwhile is.
func TestReadIsNoChange(t *testing.T) {
	own := catalog.Registration{ID: "own", Service: name("own")}
	m := catalogtest.Mesh{Mesh: contents().Mesh, Registrations: []catalog.Registration{own}, Partial: true}
	about := func(action intention.Action) intention.Intention {
		return intention.Intention{Source: intention.Source{Name: name("web")}, Destination: name("far"), Action: action}
	}
	changes := func(old, next *catalog.View) (out []string) {
		for c := range next.PolicyChanges(old) {
			out = append(out, c.Destination.String())
		}
		return out
	}
	none := first(m)
	m.Intentions = []intention.Intention{about(intention.Allow)}
	read := none.Next(m.Contents())
	m.Intentions = []intention.Intention{about(intention.Deny)}
	changed := read.Next(m.Contents())
	m.Intentions = nil
	over := changed.Next(m.Contents())
	m.Registrations = []catalog.Registration{own, {ID: "far", Service: name("far")}}
	m.Intentions = []intention.Intention{about(intention.Allow)}
	registered := over.Next(m.Contents())
	for what, got := range map[string]struct {
		changes []string
		want    string
	}{
		"it is read":         {changes(none, read), "[]"},
		"it changes":         {changes(read, changed), "[far]"},
		"it is read no more": {changes(changed, over), "[]"},
		"it is registered":   {changes(over, registered), "[far]"},
	} {
		if s := fmt.Sprint(got.changes); s != got.want {
			t.Errorf("%s: %s, want %s", what, s, got.want)
		}
	}
}
