package api

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// relayedQuestion is a question that is answered by what is watched. What it needs is here and not on the stack, as thousands may wait.
type relayedQuestion struct {
	server *Server
	r      *http.Request
	q      *question
	ask    RelayQuestion
	key    string // of those who are answered alike

	e       *watched
	reply   RelayReply
	stale   time.Duration
	changed <-chan struct{}
}

// relayed answers by what the agent says.
func (s *Server) relayed(w http.ResponseWriter, r *http.Request, q *question) {
	x, err := s.relayedTo(w, r, q)
	if err == nil {
		x.key = relayKey(x.ask)
		err = x.find(w)
	}
	if err == nil && x.e != nil {
		defer s.relay.release(x.e)
		var wait bool
		if wait, err = x.bring(); wait {
			err = x.wait()
		}
		if err == nil {
			s.recall(w, r, q, x.reply, x.stale)
		}
	}
	if err != nil {
		s.common(w)
		refuse(w, unreachable(err))
	}
}

// relayedTo is q for the agent, or why it is not passed on.
func (s *Server) relayedTo(w http.ResponseWriter, r *http.Request, q *question) (*relayedQuestion, error) {
	x := &relayedQuestion{server: s, r: r, q: q}
	x.ask.Token = tokenOf(r, q.query)
	var err error
	if q.caller, err = s.config.Authority.Identify(r.Context(), x.ask.Token, peerOf(r)); err != nil {
		return nil, err
	}
	x.ask.Method, x.ask.Path, x.ask.Query, x.ask.Header = r.Method, r.URL.EscapedPath(), q.query, enterpriseHeader(r)
	if slices.Contains(q.route.write, r.Method) && !s.relay.Writes {
		return nil, failed(http.StatusMethodNotAllowed, "method %s not allowed: sallyport passes writes on to Consul if it was started with --api-writes; Consul's own agent takes them", r.Method)
	}
	if r.Method != http.MethodGet {
		if x.ask.Body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
			return nil, failed(http.StatusBadRequest, "Request decode failed: %s", err.Error())
		}
	}
	return x, nil
}

// find finds what is watched, or begins to watch it. If that is nothing and there is no error, x has been answered.
func (x *relayedQuestion) find(w http.ResponseWriter) error {
	s, rl := x.server, &x.server.relay
	switch {
	case x.r.Method != http.MethodGet, x.q.has("consistent"), x.q.has("pem"), x.hashed():
		return s.pass(w, x)
	case x.q.route.path == checkPath:
		return s.check(w, x)
	}
	if x.e = rl.enter(x.key); x.e != nil {
		return nil
	}
	full := errBusy
	first, _, err := rl.together(x.r.Context(), peerOf(x.r).share, x.key, func(ctx context.Context) (first RelayReply, err error) {
		x.e, first, full, err = rl.begin(ctx, x.key, peerOf(x.r).share, x.ask)
		return first, err
	})
	if err == nil && x.e == nil {
		x.e = rl.enter(x.key) // for another who asked
	}
	switch {
	case err != nil || x.e != nil:
		return err
	case first.watchable() && x.q.index >= first.Index:
		return full
	}
	s.reply(w, x.r, x.q, first)
	return nil
}

// again asks the agent beside the watch.
func (x *relayedQuestion) again() (reply RelayReply, asked time.Time, err error) {
	rl := &x.server.relay
	return rl.together(x.r.Context(), peerOf(x.r).share, x.key, func(ctx context.Context) (RelayReply, error) { return rl.ask(ctx, peerOf(x.r).share, x.ask) })
}

// bring brings x to what is watched, by a word of the agent that is not too old, and reports whether the asker waits for another answer.
func (x *relayedQuestion) bring() (wait bool, err error) {
	var fresh bool
	x.reply, x.changed, fresh, x.stale = x.e.now()
	if !fresh { // the caller's rights may have changed, of which a wait says nothing
		next, asked, err := x.again()
		switch {
		case err != nil: // if the agent is away, the watch finds that out
			if x.reply, x.changed, fresh, x.stale = x.e.now(); !fresh {
				return false, err
			}
		case next.Code == http.StatusOK || next.Code == http.StatusNotFound:
			x.reply, x.changed = x.e.verify(next, asked)
		default:
			x.reply, x.stale = next, 0
			return false, nil
		}
	}
	return x.q.index > 0 && x.q.index >= x.reply.Index && !x.e.over(), nil
}

// wait waits for another answer.
func (x *relayedQuestion) wait() error {
	leave, err := x.server.waits.enter(x.q.caller.ID)
	if err != nil {
		return err
	}
	defer leave()
	timer := time.NewTimer(cmp.Or(x.q.wait, watchWait))
	defer timer.Stop()
	select {
	case <-x.changed:
		x.reply, _, _, x.stale = x.e.now()
		return nil
	case <-timer.C:
		return x.ended()
	case <-x.r.Context().Done():
		return x.r.Context().Err()
	}
}

// ended brings x to what is watched at the end of a wait.
func (x *relayedQuestion) ended() (err error) {
	var fresh bool
	if x.reply, _, fresh, x.stale = x.e.now(); !fresh {
		x.stale = 0
		x.reply, _, err = x.again()
	}
	return err
}

// hashed reports whether the asker waits for another answer than that of a hash.
func (x *relayedQuestion) hashed() bool {
	return x.r.Method == http.MethodGet && x.q.route.path == "/v1/agent/service/" && x.q.query.Get("hash") != ""
}

// pass passes a question on, and the answer back.
func (s *Server) pass(w http.ResponseWriter, x *relayedQuestion) error {
	if x.r.Method == http.MethodGet && x.q.index > 0 || x.hashed() {
		x.ask.Index, x.ask.Wait = x.q.index, cmp.Or(x.q.wait, watchWait)
		leave, err := s.relay.wait(peerOf(x.r).share)
		if err != nil {
			return err
		}
		defer leave()
	}
	reply, err := s.relay.ask(x.r.Context(), peerOf(x.r).share, x.ask)
	if err == nil {
		s.reply(w, x.r, x.q, reply)
	}
	return err
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
	names := make([]string, 0, len(q.Query))
	for name := range q.Query {
		switch name {
		case "token", "index", "wait", "pretty", "stale", "cached", "max_stale":
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(q.Token)
	b.WriteByte(0)
	b.WriteString(q.Path)
	for _, name := range names {
		for _, value := range q.Query[name] {
			b.WriteByte(0)
			b.WriteString(url.QueryEscape(name))
			b.WriteByte('=')
			b.WriteString(url.QueryEscape(value))
		}
	}
	if len(q.Header) > 0 {
		b.WriteString("\x00\x00")
		b.WriteString(url.Values(q.Header).Encode())
	}
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
