package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// TestDefaultsOfCheck: Consul's check goes by the default of its ACLs. Where the mesh's is another one, what the mesh does is answered, to those
// whom Consul answers, and nothing is made up while that is not known.
func TestDefaultsOfCheck(t *testing.T) {
	t.Parallel()
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		const check = checkPath + "?source=web&destination=db"
		var unknown error
		s.config.Knowing = func(_ context.Context, _ string, destination identity.Name) (*catalog.View, error) {
			if destination != identity.NewName("db") {
				t.Errorf("what is said of %v is looked for", destination)
			}
			return catalogtest.Mesh{}.View(), unknown
		}
		a.change(func() { a.body = `{"Allowed":true}` })
		want := func(when, token string, code int, body string) {
			t.Helper()
			if w := ask(http.MethodGet, check, token); w.Code != code || w.Body.String() != body {
				t.Errorf("%s: %d %s, want %d %s", when, w.Code, w.Body, code, body)
			}
		}
		want("one default, Consul decides", "t", http.StatusOK, `{"Allowed":true}`)
		a.change(func() { a.defaults = "allow" })
		want("two defaults, the mesh decides", "u", http.StatusOK, `{"Allowed":false}`)
		unknown = errors.New("not known")
		want("nothing is known", "u", http.StatusInternalServerError, "not known")
		a.change(func() { a.refused["v"] = true })
		want("refused by Consul", "v", http.StatusForbidden, "Permission denied")
	})
}
