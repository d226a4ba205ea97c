package api

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// writing are the endpoints by which Consul is written to. Beside files they say what to edit.
var writing = []*route{
	{path: "/v1/config", methods: "OPTIONS,PUT"},
	{path: "/v1/agent/service/register", methods: "OPTIONS,PUT"},
	{path: "/v1/agent/service/deregister/", methods: "OPTIONS,PUT"},
	{path: "/v1/catalog/register", methods: "OPTIONS,PUT"},
	{path: "/v1/catalog/deregister", methods: "OPTIONS,PUT"},
}

// unwritten is why a write is refused: of what is in a file, to those who may know of it, which one.
func (s *Server) unwritten(r *http.Request, rt *route, name string) error {
	text := "method " + r.Method + " not allowed: sallyport reads it from files: edit "
	q := &question{route: rt, name: name, query: r.URL.Query()}
	if st, err := s.current(); err == nil && !rt.public && s.permit(r, q) == nil {
		if origin := q.origin(st.view); origin != "" {
			return failed(http.StatusMethodNotAllowed, text+"%s", origin)
		}
	}
	return failed(http.StatusMethodNotAllowed, text+"the definitions in its catalog's directory")
}

// origin is where that is written which q names; empty: it is not known.
func (q *question) origin(v *catalog.View) string {
	a := &ask{question: q}
	switch q.route.path {
	case "/v1/connect/intentions/exact":
		if dst, err := a.destination(); err == nil && q.caller.sees(dst) {
			return originOf(v, catalog.IntentionsKind, dst.Service)
		}
	case "/v1/config/":
		kind, name, _ := strings.Cut(q.name, "/")
		if kind != catalog.IntentionsKind || q.caller.sees(identity.NewName(name)) {
			return originOf(v, kind, name)
		}
	case "/v1/agent/service/deregister/":
		if r := v.Registration(q.name); r != nil {
			return r.Origin
		}
		if s := v.Sidecar(q.name); s != nil {
			return s.Origin
		}
	}
	return ""
}

func originOf(v *catalog.View, kind, name string) string {
	if e := v.Entry(kind, name); e != nil {
		return e.Origin
	}
	return ""
}

// isWrite reports whether a method is one by which something would be written.
func isWrite(method string) bool {
	return method == http.MethodPut || method == http.MethodPost || method == http.MethodDelete
}
