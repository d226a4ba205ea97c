package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// TestRelayCheck: the agent's word on a connection is given again to the same token as long as nothing else is said of the destination, and for
// some seconds; of a destination of which nothing is known here it is asked each time.
func TestRelayCheck(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		mesh := catalogtest.Mesh{
			Mesh:          catalog.Mesh{TrustDomain: trustDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}},
			Registrations: []catalog.Registration{{ID: "db", Service: identity.NewName("db"), Native: true}, {ID: "api", Service: identity.NewName("api"), Native: true}},
			Partial:       true,
		}
		view := mesh.View()
		publish := func() {
			view = view.Next(mesh.Contents())
			s.config.Views.Set(view)
			s.follow()
		}
		publish()
		if view.Policy(identity.NewName("db")) == nil {
			t.Fatal("no policy of db")
		}
		a.change(func() { a.index, a.body = 0, `{"Allowed":false}` })
		total := 0
		const toDB = "/v1/connect/intentions/check?source=web&destination=db"
		expect := func(what, path, token string, code int, body string, more int) {
			t.Helper()
			w := ask("GET", path, token)
			total += more
			if asked, _ := a.counts(); w.Code != code || w.Body.String() != body || asked != total {
				t.Errorf("%s: %d %s, asked %d times; want %d %s, %d", what, w.Code, w.Body, asked, code, body, total)
			}
		}
		expect("the first", toDB, "web", 200, `{"Allowed":false}`, 1)
		expect("the second", toDB, "web", 200, `{"Allowed":false}`, 0)
		expect("another token", toDB, "other", 200, `{"Allowed":false}`, 1)
		expect("another source", "/v1/connect/intentions/check?source=x&destination=db", "web", 200, `{"Allowed":false}`, 1)
		mesh.Intentions = append(mesh.Intentions, intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Destination: identity.NewName("api"), Action: intention.Allow, Origin: "test"})
		publish()
		expect("another destination changed", toDB, "web", 200, `{"Allowed":false}`, 0)
		mesh.Intentions = append(mesh.Intentions, intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Destination: identity.NewName("db"), Action: intention.Allow, Origin: "test"})
		publish()
		a.change(func() { a.body = `{"Allowed":true}` })
		expect("it changed", toDB, "web", 200, `{"Allowed":true}`, 1)
		mesh.Intentions = append(mesh.Intentions, intention.Intention{Source: intention.Source{Name: identity.NewName("*")}, Destination: identity.NewName("*"), Action: intention.Deny, Origin: "test"})
		publish()
		expect("what holds for all changed", toDB, "web", 200, `{"Allowed":true}`, 1)
		a.change(func() { a.refused["web"] = true })
		expect("rights are gone, of which nobody tells", toDB, "web", 200, `{"Allowed":true}`, 0)
		time.Sleep(verdict)
		expect("and some seconds later", toDB, "web", http.StatusForbidden, "Permission denied", 1)
		for range 2 {
			expect("a destination that is not known here", "/v1/connect/intentions/check?source=web&destination=far", "other", 200, `{"Allowed":true}`, 1)
			expect("with the leader's own word", toDB+"&consistent", "other", 200, `{"Allowed":true}`, 1)
		}
	})
}
