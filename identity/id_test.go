package identity_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/identity"
)

func TestParseID(t *testing.T) {
	long := "spiffe://" + strings.Repeat("a", 255) + "/x"
	for uri, want := range map[string]bool{
		"spiffe://td-b.example/ns/prod/sa/web":            true,
		"spiffe://td-b.example/x":                         true,
		"spiffe://td-b.example/ns/default/dc/dc1/svc/web": true,
		"spiffe://td-b.example/agent/client/dc/dc1/id/n":  true,
		long:                                true,
		strings.Replace(long, "a", "aa", 1): false,
		"spiffe://td-b.example/" + strings.Repeat("a", 2100): false,
		"":                                     false,
		"web":                                  false,
		"spiffe://td-b.example":                false,
		"spiffe://td-b.example/":               false,
		"spiffe:///x":                          false,
		"spiffe://TD-B.example/x":              false,
		"SPIFFE://td-b.example/x":              false,
		"spiffe://td-b.example/ns/*":           false,
		"spiffe://td-b.example/*":              false,
		"spiffe://*/x":                         false,
		"spiffe://td-b.example/x/":             false,
		"spiffe://td-b.example//x":             false,
		"spiffe://td-b.example/../x":           false,
		"spiffe://td-b.example/%78":            false,
		"spiffe://td-b.example:443/x":          false,
		"spiffe://user@td-b.example/x":         false,
		"spiffe://td-b.example/x?y":            false,
		"spiffe://td-b.example/x#y":            false,
		"spiffe://td-b.example/x,spiffe://a/b": false,
		"https://td-b.example/x":               false,
		"spiffe://td-b.example/x\x00":          false,
	} {
		id, err := identity.ParseID(uri)
		if (err == nil) != want {
			t.Errorf("ParseID(%.60q) = %q, %v; want one: %t", uri, id, err, want)
		}
		if err == nil && (string(id) != uri || "spiffe://"+id.TrustDomain().Name()+id.Path() != uri) {
			t.Errorf("ParseID(%.60q) = %q of %s", uri, id, id.TrustDomain())
		}
	}
}

// FuzzParseID: what is taken is one SPIFFE ID of one trust domain with a path, and holds nothing that
// Envoy puts between two.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"spiffe://td-b.example/ns/prod/sa/web", "spiffe://td/x,spiffe://td/y", "spiffe://td/%2c", "spiffe://TD/x", "spiffe://td", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := identity.ParseID(uri)
		if err != nil {
			if id != "" {
				t.Fatalf("ParseID(%q) = %q and %v", uri, id, err)
			}
			return
		}
		if len(uri) > 2048 || strings.ContainsAny(uri, "*,%? #\x00") || id.TrustDomain().IsZero() || "spiffe://"+id.TrustDomain().Name()+id.Path() != uri {
			t.Fatalf("ParseID took %q: %q and %q", uri, id.TrustDomain(), id.Path())
		}
		if s, ok := id.Service(); ok && s.String() != uri {
			t.Fatalf("the service of %q is %q", uri, s)
		}
	})
}
