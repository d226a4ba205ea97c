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

// reply answers with what the agent said; stale is how long the agent has not been heard of.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, q *question, reply RelayReply, stale time.Duration) {
	if len(reply.Body) > maxBody {
		done, err := s.enlarge(r)
		if err != nil {
			refuse(w, err)
			return
		}
		defer done()
	}
	h := w.Header()
	for _, name := range passedHeaders {
		if v := reply.Header[name]; len(v) > 0 {
			h[name] = v
		}
	}
	if stale > 0 {
		h["X-Cache"] = []string{"HIT"}
		h["Age"] = []string{strconv.Itoa(int(stale.Seconds()))}
	}
	body := reply.Body
	if q.pretty && strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		body = indented(body)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(reply.Code)
	_, _ = w.Write(body)
}
