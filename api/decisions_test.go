package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
)

// TestAuthorizeTable holds both questions that applications ask to the table of decisions. They are asked about one URI: who has several
// is nobody, in whichever form an application hands them on.
func TestAuthorizeTable(t *testing.T) {
	cases, err := decisiontable.Load("../intention/testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t)
	asked, several := 0, 0
	for _, c := range cases {
		if c.Destination != identity.NewName(c.Destination.Service) {
			continue // an application names a service of its own tenancy alone
		}
		r.mesh.Mesh = catalog.Mesh{TrustDomain: c.Scope.TrustDomain, Federated: c.Scope.Federated, Datacenter: decisiontable.Datacenter, Datacenters: c.Scope.Datacenters, Default: c.Scope.Default}
		r.mesh.Registrations = []catalog.Registration{{ID: "1", Service: c.Destination, Native: true}}
		r.mesh.Services = []catalog.Service{{Name: c.Destination}}
		r.mesh.Intentions = c.Intentions
		r.publish()
		r.settle(t)
		for _, p := range c.Peers {
			if !p.Proved() || len(p.URIs) == 0 {
				continue // the application's own handshake ends it
			}
			uris := p.URIs
			if len(uris) > 1 {
				uris = []string{strings.Join(uris, ","), strings.Join(uris, " "), strings.Join(uris, "\n")}
				several++
			}
			for _, uri := range uris {
				for _, path := range []string{"/v1/agent/connect/authorize", "/v1/sallyport/authorize"} {
					question := map[string]any{"Target": c.Destination.Service, "ClientCertURI": uri, "ClientCertSerial": "01:02"}
					wanted := p.WantTCP
					if p.Request != nil && strings.Contains(path, "sallyport") {
						wanted = p.Want
						headers := map[string][]string{}
						for _, h := range p.Request.Headers {
							headers[h[0]] = append(headers[h[0]], h[1])
						}
						question["Method"], question["Path"], question["Headers"] = p.Request.Method, p.Request.Path, headers
					}
					body, err := json.Marshal(question)
					if err != nil {
						t.Fatal(err)
					}
					a := r.ask(t, http.MethodPost, path, "app-"+c.Destination.Service, string(body))
					var got struct{ Authorized bool }
					if a.code == http.StatusOK {
						if err := json.Unmarshal([]byte(a.body), &got); err != nil {
							t.Fatal(err)
						}
					} else if a.code != http.StatusBadRequest {
						t.Errorf("%q: %s of %q: %d %s", c.Name, path, uri, a.code, a.body)
					}
					if want := wanted == intention.Allow; got.Authorized != want {
						t.Errorf("%q: %s of %q, %v → %s: %d %s, want %s", c.Name, path, uri, p.Request, c.Destination, a.code, a.body, wanted)
					}
					asked++
				}
			}
		}
	}
	if asked < 200 || several < 5 {
		t.Errorf("%d questions, %d certificates with several names; some are lost", asked, several)
	}
}
