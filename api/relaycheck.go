package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

const checkPath = "/v1/connect/intentions/check"

// checked is the agent's word on whether a connection is allowed. Its answer has no index, so nobody can wait for another: it holds as long
// as what is said of the destination is what it was before the agent was asked, and for verdict at most.
type checked struct {
	policy *intention.Policy
	asked  time.Time
	reply  RelayReply
}

// Bounds of what is kept of checks.
const (
	maxChecked  = 1024
	maxCheckKey = 1024 // of token and question, in bytes
)

// policyOf is the policy of the destination that a check is about; nil: none is known.
func (s *Server) policyOf(q *question) *intention.Policy {
	st := s.state.Load()
	if st == nil || st.view == nil {
		return nil
	}
	destination, err := (&ask{question: q}).destination()
	if err != nil {
		return nil
	}
	return st.view.Policy(destination)
}

// check answers by what the agent says of a connection.
func (s *Server) check(w http.ResponseWriter, x *relayedQuestion) error {
	policy := s.policyOf(x.q)
	k, ok := s.relay.checks.Load(x.key)
	if !ok || k.policy != policy || time.Since(k.asked) >= verdict {
		reply, asked, err := x.again()
		if err != nil {
			return err
		}
		k = &checked{policy, asked, reply}
		if policy != nil && reply.Code == http.StatusOK && len(x.key) <= maxCheckKey {
			s.relay.checks.Store(x.key, k, func(k *checked) bool { return time.Since(k.asked) >= verdict })
		}
	}
	s.reply(w, x.r, x.q, k.reply)
	return nil
}

// decided is the body for a check that Consul answered, whose caller may ask it. Where no intention decides Consul's looks at the default of
// its ACLs, and never at default_intention_policy, by which the mesh goes: where the two differ what the mesh does is answered.
func (s *Server) decided(r *http.Request, q *question, reply RelayReply) ([]byte, error) {
	st := s.state.Load()
	if st == nil || st.view == nil {
		_, err := s.current()
		return nil, err
	}
	acls := intention.Deny
	if reply.Header.Get("X-Consul-Default-Acl-Policy") == "allow" {
		acls = intention.Allow
	}
	if st.view.Mesh().Default == acls || s.config.Knowing == nil {
		return reply.Body, nil
	}
	src, dst, err := (&ask{question: q}).pair(false)
	if err != nil {
		return nil, err
	}
	destination := identity.NewName(dst.Service)
	v, err := s.config.Knowing(r.Context(), q.caller.ID, destination)
	if err != nil {
		return nil, err
	}
	return json.Marshal(checkAnswer{v.Decide(v.Identity(identity.NewName(src.Service)), destination).Allowed()})
}
