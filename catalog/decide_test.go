package catalog_test

import (
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
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
