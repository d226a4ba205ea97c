package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/xds"
)

// TestHadCA: what only a control plane with a CA leaves says that there was one; Consul's leaves no
// such trace.
func TestHadCA(t *testing.T) {
	for _, tt := range []struct {
		files []string
		want  string // what the error names; empty: there is none
	}{
		{nil, ""},
		{[]string{"change"}, ""},
		{[]string{"token.key"}, "token.key"},
		{[]string{"token.key", "last-known-good.json"}, "token.key"},
		{[]string{"revoked-tokens.json"}, "revoked-tokens.json"},
		{[]string{"sidecar-ports.json"}, "sidecar-ports.json"},
		{[]string{"generations-2.json", "change"}, "generations-2.json"},
		{[]string{"generations.json"}, "generations.json"},
		{[]string{"generations-2.json", "last-known-good.json"}, ""},
		{[]string{"generations-2.json", "last-known-good.json.bad"}, ""},
	} {
		dir := t.TempDir()
		for _, name := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := hadCA(dir)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), filepath.Join(dir, tt.want)) || !strings.Contains(err.Error(), "empty --data")) {
			t.Errorf("%v: %v, want %q named", tt.files, err, tt.want)
		}
	}
}

// TestRotated: a rotation is told by proxy, with the serials of before and after.
func TestRotated(t *testing.T) {
	t.Parallel()
	end := time.Now().Add(time.Hour)
	proxy := func(id string, serials ...string) xds.ProxyStatus {
		p := xds.ProxyStatus{ID: identity.ProxyID(id), Service: "web"}
		for _, s := range serials {
			p.Streams = append(p.Streams, xds.StreamStatus{Leafs: []xds.LeafStatus{{ID: "spiffe://x/web", Serial: s, NotAfter: end}}})
		}
		return p
	}
	got := rotated([]xds.ProxyStatus{proxy("web-1", "a", "a"), proxy("web-2", "b")}, []xds.ProxyStatus{proxy("web-1", "c", "c"), proxy("web-2", "d"), proxy("web-3", "e")})
	want := []admin.RotatedLeaf{
		{Proxy: "web-1", ID: "spiffe://x/web", OldSerial: "a", Serial: "c", NotAfter: end},
		{Proxy: "web-2", ID: "spiffe://x/web", OldSerial: "b", Serial: "d", NotAfter: end},
		{Proxy: "web-3", ID: "spiffe://x/web", Serial: "e", NotAfter: end},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("leafs (-want +got):\n%s", diff)
	}
}

// TestPrintRotated: with a sidecar there are serials, and with applications alone where they are found.
func TestPrintRotated(t *testing.T) {
	for want, leafs := range map[string][]admin.RotatedLeaf{
		"orders has a new leaf\n  its applications are given theirs when they ask next, and those that wait at once: `sallyport leaf list orders` has the serials\n": nil,
		"orders has a new leaf\n  o: serial 02, until " + at(time.Unix(9, 0)) + ", in place of 01\n":                                                                 {{Proxy: "o", Serial: "02", OldSerial: "01", NotAfter: time.Unix(9, 0)}},
	} {
		var out strings.Builder
		if printRotated(&out, "orders", admin.RotateResponse{Leafs: leafs}); out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}
