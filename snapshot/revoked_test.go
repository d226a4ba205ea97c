package snapshot_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// TestRevocationsDoNotTouchListeners: the first one and the last drain nothing, and reach what judges, where
// ext_authz does not judge alone.
func TestRevocationsDoNotTouchListeners(t *testing.T) {
	const api = "spiffe://" + trustDomain + "/ns/default/dc/dc1/svc/api"
	digest := strings.Repeat("a", 64)
	none := compile("web", intention.Deny, from("api", intention.Allow))
	for what, r := range map[string]intention.Revocation{
		"identity":                {ID: api},
		"certificate":             {ID: api, SHA256: digest},
		"certificate of nobody":   {SHA256: digest},
		"of one who is denied":    {ID: strings.Replace(api, "svc/api", "svc/db", 1)},
		"by serial number":        {Serial: "1"},
		"of one who is elsewhere": {ID: strings.Replace(api, "/dc1/", "/dc9/", 1)},
	} {
		for _, protocol := range []catalog.Protocol{catalog.TCP, catalog.HTTP} {
			for _, enforcement := range []catalog.Enforcement{catalog.RBAC, catalog.ExtAuthz, catalog.Both} {
				var want []string
				tells := what == "identity" && enforcement != catalog.ExtAuthz || strings.HasPrefix(what, "certificate") && enforcement == catalog.RBAC
				switch {
				case !tells:
				case protocol.L7():
					want = []string{"RouteConfiguration inbound/web"}
				case what == "identity":
					want = []string{"Secret peers/web", "TypedExtensionConfig intentions/web"}
				default:
					want = []string{"TypedExtensionConfig authz/web"}
				}
				in := input(none, catalog.Inbound{Protocol: protocol, Enforcement: enforcement}, target("api", catalog.TCP))
				last := build(t, in)
				revoked := own(in)
				revoked.Policy = none.Revoking(intention.Revoke([]intention.Revocation{r}))
				now := build(t, revoked)
				if d := cmp.Diff(want, changed(last, now)); d != "" {
					t.Errorf("%s, %s: the revocation of an %s changed (-want +got):\n%s", protocol, enforcement, what, d)
				}
				undone := own(in)
				undone.Policy = revoked.Policy.Revoking(nil)
				if d := changed(last, build(t, undone)); len(d) > 0 {
					t.Errorf("%s, %s: the revocation of an %s leaves %v", protocol, enforcement, what, d)
				}
				if judge, ok := now.Judges["authz/web"]; ok && enforcement == catalog.RBAC && judge.Lifted == strings.HasPrefix(what, "certificate") {
					t.Errorf("%s: the filter that refuses certificates is lifted: %t", what, judge.Lifted)
				}
			}
		}
	}
}
