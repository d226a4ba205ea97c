package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// discoveryChain answers how a service is reached.
var discoveryChain = answering{
	value: func(v *catalog.View, a *ask) (any, error) { return chainOf(v, a.question, chain.Overrides{}) },
	depends: func(v *catalog.View, a *ask) []any {
		return []any{v.Mesh(), v.Service(identity.NewName(a.name)), v.Entry("service-defaults", a.name), v.Entry("proxy-defaults", "global"), v.ChainEntries()}
	},
}

type chainAnswer struct{ Chain *chain.Chain }

func chainOf(v *catalog.View, q *question, o chain.Overrides) (any, error) {
	if q.name == "" {
		return nil, failed(http.StatusBadRequest, "Missing chain name")
	}
	c, err := v.CompileChain(identity.NewName(q.name), q.query.Get("compile-dc"), o)
	if err != nil {
		return nil, broken("%s", err)
	}
	return chainAnswer{c}, nil
}

// overriddenChain answers with the chain as an upstream has it that overrides something.
func (s *Server) overriddenChain(w http.ResponseWriter, r *http.Request, q *question) {
	a, err := s.compiledChain(w, r, q)
	s.common(w)
	if err != nil {
		refuse(w, err)
		return
	}
	s.write(w, r, q, a)
}

func (s *Server) compiledChain(w http.ResponseWriter, r *http.Request, q *question) (*answer, error) {
	o, err := overridesIn(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, failed(http.StatusBadRequest, "%s", err)
	}
	if err := s.mayAsk(r, q); err != nil {
		return nil, err
	}
	st, err := s.current()
	if err != nil {
		return nil, err
	}
	v, err := chainOf(st.view, q, o)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, broken("%s", err)
	}
	a := jsonAnswer(b)
	a.index = max(st.view.Revision().Mesh, 1)
	return a, nil
}

// overridesIn reads the body of a question. As Consul does it takes keys in both spellings, and passes over those that it does not know.
func overridesIn(body io.Reader) (o chain.Overrides, err error) {
	var in map[string]any
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return o, fmt.Errorf("Request decoding failed: %w", err)
	}
	for key, value := range in {
		switch strings.ToLower(strings.ReplaceAll(key, "_", "")) {
		case "overrideprotocol":
			if value != nil {
				o.Protocol = fmt.Sprint(value)
			}
		case "overrideconnecttimeout":
			if o.ConnectTimeout, err = durationOf(value); err != nil {
				return o, fmt.Errorf("Request decoding failed: error decoding 'OverrideConnectTimeout': %w", err)
			}
		case "overridemeshgateway":
			m, _ := value.(map[string]any)
			for key, value := range m {
				if !strings.EqualFold(key, "Mode") {
					continue
				}
				switch o.GatewayMode, _ = value.(string); o.GatewayMode {
				case "", "none", "local", "remote":
				default:
					return o, errors.New("Invalid OverrideMeshGateway.Mode parameter")
				}
			}
		}
	}
	return o, nil
}

// durationOf is a time as text, or as a number of nanoseconds.
func durationOf(value any) (time.Duration, error) {
	switch v := value.(type) {
	case nil:
		return 0, nil
	case string:
		if v == "" {
			return 0, nil
		}
		return time.ParseDuration(v)
	case float64:
		return time.Duration(v), nil
	}
	return 0, errors.New("neither a text nor a number")
}
