package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// relayed answers by what the agent says.
func (s *Server) relayed(w http.ResponseWriter, r *http.Request, q *question) {
	rl := &s.relay
	token := tokenOf(r, q.query)
	var err error
	if q.caller, err = s.config.Authority.Identify(r.Context(), token, peerOf(r)); err != nil {
		refuse(w, err)
		return
	}
	out := RelayQuestion{Method: r.Method, Path: r.URL.EscapedPath(), Query: q.query, Header: enterpriseHeader(r), Token: token}
	if slices.Contains(q.route.write, r.Method) && !rl.Writes {
		refuse(w, failed(http.StatusMethodNotAllowed, "method %s not allowed: sallyport passes writes on to Consul if it was started with --api-writes; Consul's own agent takes them", r.Method))
		return
	}
	if r.Method != http.MethodGet {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			refuse(w, failed(http.StatusBadRequest, "Request decode failed: %s", err.Error()))
			return
		}
		out.Body = body
		s.pass(w, r, q, out)
		return
	}
	if q.has("consistent") || q.has("pem") {
		s.pass(w, r, q, out)
		return
	}
	key := relayKey(out)
	if q.route.path == checkPath {
		s.check(w, r, q, key, out)
		return
	}
	e := rl.enter(key)
	if e == nil {
		var first RelayReply
		full := errBusy
		first, _, err = rl.together(r.Context(), peerOf(r).Name, key, func(ctx context.Context) (first RelayReply, err error) {
			e, first, full, err = rl.begin(ctx, key, peerOf(r).Name, out)
			return first, err
		})
		if err == nil && e == nil {
			e = rl.enter(key) // for another who asked
		}
		switch {
		case err != nil:
			refuse(w, unreachable(err))
			return
		case e == nil && first.watchable() && q.index >= first.Index:
			refuse(w, full)
			return
		case e == nil:
			s.reply(w, r, q, first)
			return
		}
	}
	defer rl.release(e)
	reply, stale, err := s.await(r, q, e, out)
	if err != nil {
		refuse(w, unreachable(err))
		return
	}
	s.recall(w, r, q, reply, stale)
}

// await is e's reply, by a word of the agent that is not too old, if need be after a wait for another one.
func (s *Server) await(r *http.Request, q *question, e *watched, ask RelayQuestion) (RelayReply, time.Duration, error) {
	again := func(ctx context.Context) (RelayReply, error) { return s.relay.ask(ctx, peerOf(r).Name, ask) }
	reply, changed, fresh, stale := e.now()
	if !fresh { // the caller's rights may have changed, of which a wait says nothing
		next, asked, err := s.relay.together(r.Context(), peerOf(r).Name, e.key, again)
		switch {
		case err != nil: // if the agent is away, the watch finds that out
			if reply, changed, fresh, stale = e.now(); !fresh {
				return RelayReply{}, 0, err
			}
		case next.Code == http.StatusOK || next.Code == http.StatusNotFound:
			reply, changed = e.verify(next, asked)
		default:
			return next, 0, nil
		}
	}
	if q.index == 0 || q.index < reply.Index || e.over() {
		return reply, stale, nil
	}
	leave, err := s.waits.enter(q.caller.ID)
	if err != nil {
		return RelayReply{}, 0, err
	}
	defer leave()
	d := q.wait
	if d == 0 {
		d = watchWait
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
		reply, _, _, stale = e.now()
		return reply, stale, nil
	case <-timer.C:
		reply, _, fresh, stale = e.now()
		if !fresh {
			next, _, err := s.relay.together(r.Context(), peerOf(r).Name, e.key, again)
			return next, 0, err
		}
		return reply, stale, nil
	case <-r.Context().Done():
		return RelayReply{}, 0, r.Context().Err()
	}
}

// pass passes a question on, and the answer back.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, q *question, out RelayQuestion) {
	out.Index, out.Wait = q.index, q.wait
	reply, err := s.relay.ask(r.Context(), peerOf(r).Name, out)
	if err != nil {
		refuse(w, unreachable(err))
		return
	}
	s.reply(w, r, q, reply)
}

// unreachable is the error for whom the agent does not answer.
func unreachable(err error) error {
	if codeOf(err) != http.StatusInternalServerError {
		return err
	}
	return failed(http.StatusInternalServerError, "%s", err.Error())
}

// relayKey tells questions apart that may be answered differently.
func relayKey(q RelayQuestion) string {
	var b strings.Builder
	b.WriteString(q.Token)
	b.WriteByte(0)
	b.WriteString(q.Path)
	query := url.Values{}
	for name, values := range q.Query {
		switch name {
		case "token", "index", "wait", "pretty", "stale", "cached", "max_stale":
		default:
			query[name] = values
		}
	}
	b.WriteByte(0)
	b.WriteString(query.Encode())
	b.WriteByte(0)
	b.WriteString(url.Values(q.Header).Encode())
	return b.String()
}

// enterpriseHeader is what a question says of namespaces and partitions in its header. Consul judges it.
func enterpriseHeader(r *http.Request) http.Header {
	var out http.Header
	for _, name := range []string{"X-Consul-Namespace", "X-Consul-Partition"} {
		if v := r.Header[name]; len(v) > 0 {
			if out == nil {
				out = http.Header{}
			}
			out[name] = v
		}
	}
	return out
}
