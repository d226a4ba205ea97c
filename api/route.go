package api

import (
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// route is one endpoint.
type route struct {
	// path is what it is called; one that ends in a slash is a prefix, and the question's name follows it.
	path string
	// write are the methods that change something: they are passed on to Consul, if at all.
	write []string
	// methods are those that it has, as the Allow header spells them.
	methods string
	// serve answers by itself, with the headers of common; nil: the answer is rendered from the state, and kept. With render it answers POST.
	serve func(s *Server, w http.ResponseWriter, r *http.Request, q *question)
	// render makes the value that is marshalled, or a failure; text makes its own body. on are what it depends on.
	render func(*state, *question) (any, error)
	on     func(*state, *question) depends
	// wait is how long a question waits that does not say it; 0: it never waits. jitter adds up to a sixteenth.
	wait   time.Duration
	jitter bool
	// noIndex: the answer has no index header.
	noIndex bool
	// public: everybody may ask. Others need a token or a process that is known.
	public bool
	// anyNamespace: ns and partition are not looked at. anyDatacenter: dc is not.
	anyNamespace, anyDatacenter bool
	// bare: the answer has no headers of Consul's servers. consistency: it says how consistent it is.
	bare, consistency bool
	// hashed: who asks may wait by hash, and the answer has a hash instead of an index.
	hashed bool
	// files: it is about what is in files, which writes would have to change.
	files bool

	observed observed
}

func (rt *route) depends(st *state, q *question) depends {
	if rt.on == nil {
		return depends{st.view, st.roots}
	}
	return rt.on(st, q)
}

// has reports whether a method is one of its own.
func (rt *route) has(method string) bool {
	for m := range strings.SplitSeq(rt.methods, ",") {
		if m == method {
			return true
		}
	}
	return false
}

// routes are all endpoints, by path.
type routes struct {
	exact    map[string]*route
	prefixes []*route // the longest first
}

// all yields every route.
func (rs *routes) all() iter.Seq[*route] {
	return func(yield func(*route) bool) {
		for _, rt := range rs.exact {
			if !yield(rt) {
				return
			}
		}
		for _, rt := range rs.prefixes {
			if !yield(rt) {
				return
			}
		}
	}
}

const allowGet = "OPTIONS,GET"

// table is every endpoint of the API.
func (s *Server) table() routes {
	all := []*route{
		{path: "/v1/agent/connect/ca/roots", methods: allowGet, render: roots, on: onRoots, wait: maxWait, public: true, anyNamespace: true, anyDatacenter: true},
		{path: "/v1/connect/ca/roots", methods: allowGet, render: roots, on: onRoots, wait: defaultWait, jitter: true, public: true, anyNamespace: true},
		{path: "/v1/agent/connect/ca/leaf/", methods: allowGet, serve: (*Server).leaf, wait: maxWait, anyDatacenter: true},
		{path: "/v1/agent/connect/authorize", methods: "OPTIONS,POST", serve: (*Server).authorize, anyDatacenter: true, bare: true},
		{path: "/v1/sallyport/authorize", methods: "OPTIONS,POST", serve: (*Server).ownAuthorize, anyDatacenter: true, bare: true},
		{path: "/v1/sallyport/leaf/", methods: "OPTIONS,POST", serve: (*Server).sign, anyDatacenter: true, bare: true},
	}
	if s.config.Relay != nil {
		all = append(all, relayRoutes()...)
	} else {
		all = append(all, catalogRoutes()...)
	}
	rs := routes{exact: make(map[string]*route, len(all))}
	for _, rt := range all {
		if strings.HasSuffix(rt.path, "/") {
			rs.prefixes = append(rs.prefixes, rt)
		} else {
			rs.exact[rt.path] = rt
		}
	}
	slices.SortFunc(rs.prefixes, func(a, b *route) int { return len(b.path) - len(a.path) })
	return rs
}

// defaultWait is how long most questions of Consul's servers wait unless they say it.
const defaultWait = 5 * time.Minute

// find returns the route of a path and what follows a prefix; nil: there is none.
func (rs *routes) find(p string) (rt *route, name string) {
	if rt = rs.exact[p]; rt != nil {
		return rt, ""
	}
	for _, rt := range rs.prefixes {
		if name, ok := strings.CutPrefix(p, rt.path); ok {
			return rt, name
		}
	}
	return nil, ""
}

// ServeHTTP answers one request. Thousands wait below it, each with the stack that it takes by then: what needs more is done before, and has
// returned.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	q, done := s.admit(w, r, started)
	if q == nil {
		return
	}
	defer done()
	if !s.config.LogRequests {
		s.metrics.observe(q, s.answered(w, r, q), time.Since(started))
		return
	}
	rec := &coded{ResponseWriter: w}
	code := s.answered(rec, r, q)
	took := time.Since(started)
	s.metrics.observe(q, code, took)
	s.logAnswer(r, q, code, rec.bytes, took)
}

// admit is what a request asks, by the rules that hold for all endpoints, and the end of it; nil if it has been answered by them.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, started time.Time) (q *question, done func()) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.move(heard)
	}
	if r.ContentLength != 0 { // net/http reads it before the answer goes out, whatever that is
		_ = http.NewResponseController(w).SetReadDeadline(started.Add(readTime))
	}
	if tooMany(r) {
		w.Header().Set("Connection", "close")
		http.Error(w, "too many header fields or parameters", http.StatusRequestHeaderFieldsTooLarge)
		return nil, nil
	}
	if !s.hostAllowed(r) {
		http.Error(w, "this address answers for its own host names alone: name it by its IP address, or with --api-hosts", http.StatusMisdirectedRequest)
		return nil, nil
	}
	if fromPage(r) {
		http.Error(w, "pages in browsers are not answered", http.StatusForbidden)
		return nil, nil
	}
	if strings.ContainsFunc(r.URL.Path, func(c rune) bool { return !unicode.IsPrint(c) }) {
		w.WriteHeader(http.StatusBadRequest)
		return nil, nil
	}
	if clean := cleaned(r.URL.Path); clean != r.URL.Path {
		redirect(w, r, clean)
		return nil, nil
	}
	rt, name := s.routes.find(r.URL.Path)
	if rt == nil {
		if s.routes.exact[r.URL.Path+"/"] == nil && slices.ContainsFunc(s.routes.prefixes, func(p *route) bool { return p.path == r.URL.Path+"/" }) {
			redirect(w, r, r.URL.Path+"/")
			return nil, nil
		}
		text := "Invalid URL path: not a recognized HTTP API endpoint"
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			text = "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'"
		}
		http.Error(w, text, http.StatusNotFound)
		return nil, nil
	}
	if r.Method == http.MethodOptions {
		s.common(w).Set("Allow", rt.methods)
		return nil, nil
	}
	if rt.files && isWrite(r.Method) {
		s.common(w).Set("Allow", strings.TrimSuffix(rt.methods, ",PUT"))
		refuse(w, s.unwritten(r, rt, name))
		return nil, nil
	}
	if !rt.has(r.Method) {
		s.common(w).Set("Allow", rt.methods)
		refuse(w, failed(http.StatusMethodNotAllowed, "method %s not allowed", r.Method))
		return nil, nil
	}
	done, err := s.bodyOf(w, r)
	if err != nil {
		s.common(w)
		refuse(w, err)
		return nil, nil
	}
	q = &question{route: rt, name: name}
	if r.URL.RawQuery != "" {
		if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			s.common(w)
			w.WriteHeader(http.StatusInternalServerError)
			done()
			return nil, nil
		}
	}
	return q, done
}

// Bounds of what a request is made of. What it costs is kept as long as it waits.
const maxFields = 100

// tooMany reports whether a request has more fields or parameters than any client sends.
func tooMany(r *http.Request) bool {
	if len(r.Header) > maxFields || strings.Count(r.URL.RawQuery, "&") > maxFields {
		return true
	}
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > maxFields
}

// Bounds of bodies, and of answers that nobody else gets, from largeBody on: they are held in memory for somebody who may be slow.
const (
	largeBody       = 4 << 10
	mostLarge       = 64
	mostLargeOfPeer = 32
)

// enlarge counts something large that is held for the asker of r. done is its end.
func (s *Server) enlarge(r *http.Request) (done func(), err error) {
	peer := peerOf(r).share
	if !s.large.take(peer, mostLargeOfPeer, mostLarge) {
		return nil, failed(http.StatusTooManyRequests, "%d requests with large bodies or answers are on their way, as many as may be: send less at a time", mostLargeOfPeer)
	}
	return func() { s.large.give(peer) }, nil
}

// bodyOf has a body come within readTime. One of a GET means nothing, and is read: until it has come nothing tells that the client is gone.
// done is the end of its use.
func (s *Server) bodyOf(w http.ResponseWriter, r *http.Request) (done func(), err error) {
	done = func() {}
	if r.ContentLength == 0 {
		return done, nil
	}
	if r.ContentLength < 0 || r.ContentLength > largeBody {
		if done, err = s.enlarge(r); err != nil {
			w.Header().Set("Connection", "close") // it is not read
			return nil, err
		}
	}
	if r.Method != http.MethodGet {
		return done, nil // whoever reads it does not wait after that
	}
	defer done() // nothing of it is kept
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		return nil, failed(http.StatusBadRequest, "Request decode failed: %s", err.Error())
	}
	return func() {}, http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// common sets the headers that all answers of endpoints have. Questions that wait do so without them: they are 400 bytes.
func (s *Server) common(w http.ResponseWriter) http.Header {
	h := w.Header()
	h["Vary"] = vary
	h["X-Consul-Default-Acl-Policy"] = s.defaultPolicy()
	return h
}

// answered answers q and returns the status code.
func (s *Server) answered(w http.ResponseWriter, r *http.Request, q *question) int {
	if err := q.parse(r); err != nil {
		s.common(w)
		return refuse(w, err)
	}
	if q.route.serve != nil && (q.route.render == nil || r.Method == http.MethodPost) {
		rec := coded{ResponseWriter: w, code: http.StatusOK}
		q.route.serve(s, &rec, r, q)
		return rec.code
	}
	a, err := s.known(r, q)
	s.common(w)
	if err != nil {
		return refuse(w, err)
	}
	code := s.write(w, r, q, a)
	s.noteFetched(q.caller.ID, a.roots)
	return code
}

// known is the answer to q from the state, if need be after a wait.
func (s *Server) known(r *http.Request, q *question) (*answer, error) {
	if err := s.mayAsk(r, q); err != nil {
		return nil, err
	}
	a, err := s.ask(r, q)
	if err == nil && (q.index > 0 || q.has("hash")) && !q.route.public {
		a, err = s.stillMine(r, q, a)
	}
	return a, err
}

// mayAsk is why q is not answered from the state; nil: it is.
func (s *Server) mayAsk(r *http.Request, q *question) error {
	st, err := s.current()
	if err != nil {
		return err
	}
	if !q.route.anyDatacenter {
		if err := q.datacenter(st.view.Mesh().Datacenter); err != nil {
			return err
		}
	}
	return s.permit(r, q)
}

// stillMine is the answer after a wait, in which the token may have been revoked, or may have come to be worth less.
func (s *Server) stillMine(r *http.Request, q *question, a *answer) (*answer, error) {
	before := q.caller.scope()
	if err := s.permit(r, q); err != nil {
		return nil, err
	}
	if q.caller.scope() == before {
		return a, nil
	}
	q.index = 0
	delete(q.query, "hash")
	return s.ask(r, q)
}

// coded notes the status code of an answer, and how long its body is.
type coded struct {
	http.ResponseWriter
	code  int
	bytes int64
}

// Write notes the length.
func (c *coded) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// WriteHeader notes the code.
func (c *coded) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (c *coded) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// cleaned is a path without // and dots, as Go's own multiplexer has it.
func cleaned(p string) string {
	if p == "" || !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return p
	}
	c := path.Clean(p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

func redirect(w http.ResponseWriter, r *http.Request, to string) {
	u := url.URL{Path: to, RawQuery: r.URL.RawQuery}
	http.Redirect(w, r, u.String(), http.StatusTemporaryRedirect)
}

// defaultPolicy is what the header of that name says: what holds between services that no intention is about.
func (s *Server) defaultPolicy() []string {
	if st := s.state.Load(); st != nil && st.view != nil {
		return defaultPolicies[st.view.Mesh().Default]
	}
	return defaultPolicies[0]
}

// serviceNamed is the service that a path or parameter names.
func serviceNamed(name string) identity.Name { return identity.NewName(name) }

// noteFetched is not inlined: a Caller on the stack of whoever waits would double that stack.
//
//go:noinline
func (s *Server) noteFetched(caller string, roots *sds.Roots) {
	s.config.Acceptance.Fetched(identity.Caller{Application: caller}, roots)
}
