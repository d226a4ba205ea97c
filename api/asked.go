package api

import (
	"net/http"

	"github.com/sallyport/sallyport/catalog"
)

// answering is how an endpoint is answered from a View alone. Both functions are pure. The View is one of which the mesh is known.
type answering struct {
	// value is what is answered: it is marshalled to JSON.
	value func(v *catalog.View, a *ask) (any, error)
	// depends are the pointers and values of the View on which the answer depends. It costs little.
	depends func(v *catalog.View, a *ask) []any
}

// ask is a question, and the node that it is asked of.
type ask struct {
	*question
	node *node
}

func (e answering) render(st *state, q *question) (any, error) {
	return e.value(st.view, &ask{q, st.node})
}

func (e answering) on(st *state, q *question) depends {
	return e.depends(st.view, &ask{q, st.node})
}

// broken is a failure that Consul answers 500.
func broken(format string, args ...any) error {
	return failed(http.StatusInternalServerError, format, args...)
}
