package snapshot_test

import (
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/rbactest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// In HTTP/2 any text may be a method: none meets what nothing meets, nor misses what everything meets.
func TestMethodsOfAnyText(t *testing.T) {
	list, err := intention.NewPermissions([]intention.Permission{{Action: intention.Allow, PathExact: "/pub?x=1"}, {Action: intention.Allow, PathPrefix: "/pub?x"}, {Action: intention.Deny}})
	if err != nil {
		t.Fatal(err)
	}
	name, td := identity.NewName("web"), spiffeid.RequireTrustDomainFromString(trustDomain)
	all := []intention.Intention{{Source: intention.Source{Name: identity.NewName("batch")}, Destination: name, Permissions: list}}
	in := input(intention.Share(name, all, intention.Scope{TrustDomain: td, Datacenters: []string{"dc1"}, Default: intention.Allow}).Policy(name, all), catalog.Inbound{Protocol: catalog.HTTP})
	m := rules(t, in, build(t, in))
	batch := "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/batch"
	for _, method := range []string{"GET", "-", "x y", ""} {
		if allowed, by, err := rbactest.Decided(m, []string{batch}, &rbactest.Request{Method: method, Path: "/admin"}); allowed || by != "batch => web #3" || err != nil {
			t.Errorf("%q: allowed %t by %q, %v", method, allowed, by, err)
		}
	}
}
