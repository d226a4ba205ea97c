package files_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// TestSpellings demands that names that differ by letter case alone are warned of, and that what
// the intentions of either say holds for both: of two entries, what both allow.
func TestSpellings(t *testing.T) {
	t.Parallel()
	const differ = ` differ by letter case alone, which does not count in a destination: what the intentions of either say holds for both, and where both have some only what both allow. Spell them alike: the next release refuses this`
	entry := func(name, sources string) string {
		return "Kind = \"service-intentions\"\nName = \"" + name + "\"\nSources = [" + sources + "]\n"
	}
	service := "service {\n  name = \"Orders\"\n  port = 8080\n  connect {\n    sidecar_service {}\n  }\n}\n"
	for _, tc := range []struct {
		name     string
		fallback intention.Action
		files    map[string]string
		warnings []string
		allowed  map[string]bool // by source, of every spelling
	}{
		{
			"an entry for a service", intention.Allow,
			map[string]string{"a.hcl": service, "b.hcl": entry("orders", `{ Name = "web", Action = "deny" }`)},
			[]string{`a.hcl:1: "Orders" and "orders" (b.hcl:1)` + differ},
			map[string]bool{"web": false, "Web": true, "job": true},
		},
		{
			"two entries", intention.Deny,
			map[string]string{
				"a.hcl": service,
				"b.hcl": entry("orders", `{ Name = "web", Action = "allow" }, { Name = "job", Action = "allow" }`),
				"c.hcl": entry("Orders", `{ Name = "web", Action = "allow" }, { Name = "api", Action = "allow" }`),
				"d.hcl": entry("*", `{ Name = "api", Action = "allow" }`),
			},
			[]string{`c.hcl:1: "Orders" and "orders" (b.hcl:1)` + differ},
			map[string]bool{"web": true, "job": false, "api": true, "other": false},
		},
		{
			"neither in lower case", intention.Allow,
			map[string]string{"a.hcl": service, "b.hcl": entry("ORDERS", `{ Name = "*", Action = "deny" }`)},
			[]string{`a.hcl:1: "Orders" and "ORDERS" (b.hcl:1)` + differ},
			map[string]bool{"web": false},
		},
		{
			"one spelling", intention.Allow,
			map[string]string{"a.hcl": service, "b.hcl": entry("Orders", `{ Name = "web", Action = "deny" }`)},
			nil,
			map[string]bool{"web": false, "Web": true},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var warnings []string
			c := load(t, files.Config{
				Dir: write(t, tc.files), Default: tc.fallback,
				Warned: func(p files.Problem) { warnings = append(warnings, p.String()) },
			})
			if diff := cmp.Diff(tc.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			v := new(catalog.View).Next(c)
			for _, destination := range []string{"Orders", "orders", "ORDERS"} {
				for source, want := range tc.allowed {
					if got := v.Policy(identity.NewName(destination)).Decide(v.Identity(identity.NewName(source))).Allowed(); got != want {
						t.Errorf("%s → %s is allowed: %t, want %t", source, destination, got, want)
					}
				}
			}
		})
	}
}
