package catalog_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

func TestAdmits(t *testing.T) {
	web, db := identity.NewName("web"), identity.NewName("db")
	for name, test := range map[string]struct {
		of   identity.Proof
		uid  int
		want string // empty: it is admitted
	}{
		"the same":                 {of: identity.Proof{Service: web, UID: 1000}, uid: 1000},
		"the same, without a user": {of: identity.Proof{Service: web, UID: -1}, uid: -1},
		"of a release before":      {of: identity.Proof{ID: "x", Expires: 1}, uid: 1000},
		"Consul's":                 {uid: 1000},
		"another service's":        {of: identity.Proof{Service: db, UID: 1000}, uid: 1000, want: `a proxy of the service "db", and it is one of "web" now (web.hcl:3)`},
		"in another letter case":   {of: identity.Proof{Service: identity.NewName("Web"), UID: 1000}, uid: 1000, want: `"Web"`},
		"another user's":           {of: identity.Proof{Service: web, UID: 1001}, uid: 1000, want: "was 1001, and it is 1000 now"},
		"of no user":               {of: identity.Proof{Service: web, UID: -1}, uid: 1000, want: "was not set, and it is 1000 now"},
		"of a user, now of none":   {of: identity.Proof{Service: web, UID: 0}, uid: -1, want: "was 0, and it is not set now"},
	} {
		p := &catalog.Proxy{ID: "web-sidecar-proxy", Service: web, Origin: "web.hcl:3", Bootstrap: catalog.Bootstrap{UID: test.uid}}
		switch err := p.Admits(test.of); {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
