package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// passedHeaders are those of the agent's answer that the asker gets.
var passedHeaders = []string{
	"Content-Type", "X-Consul-Index", "X-Consul-Knownleader", "X-Consul-Lastcontact", "X-Consul-Query-Backend", "X-Consul-Effective-Consistency",
	"X-Consul-Results-Filtered-By-Acls", "X-Consul-Contenthash", "X-Consul-Default-Acl-Policy", "X-Cache", "Age",
}

// recall answers with what is watched, whoever asked for it first; stale is how long the agent has not been heard of.
func (s *Server) recall(w http.ResponseWriter, r *http.Request, q *question, reply RelayReply, stale time.Duration) {
	s.send(w, r, q, reply, func(h http.Header) {
		delete(h, "X-Cache")
		delete(h, "Age")
		if h["X-Consul-Effective-Consistency"] != nil {
			h["X-Consul-Effective-Consistency"] = q.consistency()
		}
		if stale > 0 {
			h["X-Cache"] = []string{"HIT"}
			h["Age"] = []string{strconv.Itoa(int(stale.Seconds()))}
		}
	})
}

// reply answers with what the agent said.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, q *question, reply RelayReply) {
	s.send(w, r, q, reply, func(http.Header) {})
}

// send answers with what the agent said, and the headers as change leaves them.
func (s *Server) send(w http.ResponseWriter, r *http.Request, q *question, reply RelayReply, change func(http.Header)) {
	h := s.common(w)
	if q.route.path == checkPath && reply.Code == http.StatusOK {
		body, err := s.decided(r, q, reply)
		if err != nil {
			refuse(w, err)
			return
		}
		reply.Body = body
	}
	if len(reply.Body) > maxBody {
		done, err := s.enlarge(r)
		if err != nil {
			refuse(w, err)
			return
		}
		defer done()
	}
	for _, name := range passedHeaders {
		if v := reply.Header[name]; len(v) > 0 {
			h[name] = v
		}
	}
	change(h)
	body := reply.Body
	if q.pretty && strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		body = indented(body)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(reply.Code)
	_, _ = w.Write(body)
}
