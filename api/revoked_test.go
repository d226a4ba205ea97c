package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/intention"
)

// TestAuthorizeNamesRevocation: authorize, Consul's and ours, refuses who is revoked, and says by which revocation.
func TestAuthorizeNamesRevocation(t *testing.T) {
	r := start(t)
	web := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/web"
	digest := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		revoked    intention.Revocation
		ours, both bool // who is refused: of ours, which is told the digest, or of both
		want       string
	}{
		"identity":           {intention.Revocation{ID: web, Reason: "stolen", Origin: "revoked.yaml:2"}, true, true, web + " is revoked (stolen), revoked.yaml:2"},
		"serial number":      {intention.Revocation{Serial: "102ab", Origin: "revoked.yaml:3"}, true, true, "certificate 102ab is revoked, revoked.yaml:3"},
		"digest":             {intention.Revocation{SHA256: digest, ID: web}, true, false, "certificate of SHA-256 " + digest},
		"another's":          {intention.Revocation{Serial: "102ac"}, false, false, ""},
		"number of another":  {intention.Revocation{Serial: "102ab", SHA256: strings.Repeat("cd", 32)}, false, true, "certificate 102ab is revoked"},
		"another's identity": {intention.Revocation{ID: web + "2"}, false, false, ""},
	} {
		contents := r.mesh.Contents()
		contents.Revoked = intention.Revoke([]intention.Revocation{c.revoked})
		r.view = r.view.Next(contents)
		r.views.Set(r.view)
		r.settle(t)
		for path, denied := range map[string]bool{"/v1/sallyport/authorize": c.ours, "/v1/agent/connect/authorize": c.both} {
			body := fmt.Sprintf(`{"Target":"api","ClientCertURI":%q,"ClientCertSerial":"01:02:AB"`, web)
			if strings.Contains(path, "sallyport") {
				body += fmt.Sprintf(`,"ClientCertSHA256":%q`, digest)
			}
			a := r.ask(t, "POST", path, "api", body+"}")
			if a.code != http.StatusOK || strings.Contains(a.body, `"Authorized":false`) != denied || denied && !strings.Contains(a.body, c.want) {
				t.Errorf("%s: %s: %d %s, want denied=%t, %q", name, path, a.code, a.body, denied, c.want)
			}
		}
	}
}
