package catalog_test

import (
	"testing"

	"github.com/sallyport/sallyport/catalog"
)

// TestSpelling reads back each value's text, and demands that what is not a value's text is refused and comes to the safe one.
func TestSpelling(t *testing.T) {
	for text, want := range map[string]catalog.Protocol{"": catalog.TCP, "tcp": catalog.TCP, "http": catalog.HTTP, "http2": catalog.HTTP2, "grpc": catalog.GRPC} {
		got, ok := catalog.ParseProtocol(text)
		if !ok || got != want || text != "" && got.String() != text || got.L7() != (got != catalog.TCP) {
			t.Errorf("ParseProtocol(%q) = %s, %t", text, got, ok)
		}
	}
	for text, want := range map[string]catalog.Enforcement{"rbac": catalog.RBAC, "ext_authz": catalog.ExtAuthz, "both": catalog.Both} {
		if got, ok := catalog.ParseEnforcement(text); !ok || got != want || got.String() != text {
			t.Errorf("ParseEnforcement(%q) = %s, %t", text, got, ok)
		}
	}
	for text, want := range map[string]catalog.Revocation{"drain": catalog.Drain, "new": catalog.NewConnections, "next-request": catalog.NextRequest} {
		if got, ok := catalog.ParseRevocation(text); !ok || got != want || got.String() != text {
			t.Errorf("ParseRevocation(%q) = %s, %t", text, got, ok)
		}
	}
	for _, text := range []string{"HTTP", "https", "x", " tcp", "none", "off"} {
		if p, ok := catalog.ParseProtocol(text); ok || p != catalog.TCP {
			t.Errorf("ParseProtocol(%q) = %s, %t", text, p, ok)
		}
		if e, ok := catalog.ParseEnforcement(text); ok || e != catalog.RBAC {
			t.Errorf("ParseEnforcement(%q) = %s, %t", text, e, ok)
		}
		if r, ok := catalog.ParseRevocation(text); ok || r != catalog.Drain {
			t.Errorf("ParseRevocation(%q) = %s, %t", text, r, ok)
		}
	}
	if catalog.DefaultRevocation(catalog.TCP) != catalog.Drain || catalog.DefaultRevocation(catalog.HTTP) != catalog.NextRequest {
		t.Error("DefaultRevocation")
	}
}
