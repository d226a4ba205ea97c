package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// TestHeld: the answers that wait take so much memory of one caller, and of all; who asks for what waits already takes none, and what is
// waited for no more is given back.
func TestHeld(t *testing.T) {
	r := start(t)
	const size = 100_000
	rt := &route{path: "/v1/large", methods: allowGet, wait: time.Minute, anyDatacenter: true, public: true, on: onRoots, render: func(_ *state, q *question) (any, error) {
		return strings.Repeat(q.query.Get("name"), size), nil
	}}
	rt.observed = observed{r.metrics.requests.WithLabelValues(rt.path, "200"), r.metrics.seconds.WithLabelValues(rt.path)}
	r.routes.exact[rt.path] = rt
	r.topics.held.most, r.topics.held.mostOfCaller = 5*size*5/4, 3*size*5/4 // of a body 5/4 are counted, and something beside

	index := r.ask(t, "GET", "/v1/large?name=a", "", "").index(t)
	var waiting sync.WaitGroup
	n := int64(0)
	wait := func(name, token string) {
		t.Helper()
		waiting.Go(func() {
			_, _ = r.try(t.Context(), "GET", fmt.Sprintf("/v1/large?name=%s&index=%d&wait=1m", name, index), token, "")
		})
		n++
		r.await(t, n)
		weighed := func() bool { // which is after it counts as a wait
			r.topics.mu.Lock()
			defer r.topics.mu.Unlock()
			for _, tp := range r.topics.all {
				if tp.question.query.Get("name") == name && tp.waiters[token] > 0 && tp.size > size {
					return true
				}
			}
			return false
		}
		for end := time.Now().Add(20 * time.Second); !weighed(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s does not wait for %s", token, name)
			}
		}
	}
	refused := func(name, token, text string) {
		t.Helper()
		if a := r.ask(t, "GET", fmt.Sprintf("/v1/large?name=%s&index=%d&wait=1m", name, index), token, ""); a.code != http.StatusTooManyRequests || !strings.Contains(a.body, text) {
			t.Errorf("%s by %s: %d %.100s", name, token, a.code, a.body)
		}
		r.await(t, n)
	}
	wait("a", "web")
	wait("b", "web")
	refused("c", "web", "this caller waits for")
	wait("a", "web") // it waits for that already
	if a := r.ask(t, "GET", "/v1/large?name=c", "web", ""); a.code != http.StatusOK {
		t.Errorf("without a wait: %d", a.code)
	}
	wait("a", "api") // as somebody else does
	wait("c", "api")
	wait("d", "db")
	refused("e", "db", "callers wait for")
	if a := r.ask(t, "GET", "/v1/agent/connect/ca/roots?index=1", "db", ""); a.code != http.StatusOK { // it need not wait
		t.Errorf("roots: %d %s", a.code, a.body)
	}
	wait("b", "db")
	r.topics.mu.Lock()
	if h := &r.topics.held; h.all < 4*size || h.all > h.most || h.of["web"] < 2*size || h.of["web"] > h.mostOfCaller || len(h.of) != 3 {
		t.Errorf("%+v", h)
	}
	r.topics.mu.Unlock()

	rt.on, rt.render = nil, func(st *state, _ *question) (any, error) { return st.number, nil } // which wakes all
	r.intend("api", "new", intention.Allow)
	waiting.Wait()
	r.await(t, 0)
	r.topics.mu.Lock()
	if h := &r.topics.held; h.all != 0 || len(h.of) != 0 {
		t.Errorf("nobody waits: %+v", h)
	}
	r.topics.mu.Unlock()
}

// TestRelayHeld: so do the agent's answers that are watched.
func TestRelayHeld(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		a.change(func() { a.body = strings.Repeat("x", maxHeldOfCaller*2/5) })
		get := func(n int, token, index string) int {
			return ask("GET", fmt.Sprintf("/v1/health/service/s%d%s", n, index), token).Code
		}
		for n := range 2 {
			if code := get(n, "web", ""); code != http.StatusOK {
				t.Fatal(code)
			}
		}
		if code := get(2, "web", ""); code != http.StatusOK {
			t.Errorf("what need not wait: %d", code)
		}
		if code := get(2, "web", "?index=7&wait=1m"); code != http.StatusTooManyRequests {
			t.Errorf("what has to wait: %d", code)
		}
		if code := get(3, "db", "?index=7&wait=1s"); code != http.StatusOK {
			t.Errorf("another caller's wait: %d", code)
		}
		time.Sleep(spareWatch + time.Second)
		if code := get(2, "web", "?index=7&wait=1s"); code != http.StatusOK {
			t.Errorf("what nobody asks for makes no room: %d", code)
		}
		s.relay.mu.Lock()
		if n := len(s.relay.watched); n != 3 {
			t.Errorf("%d are watched", n)
		}
		s.relay.mu.Unlock()
		a.change(func() { a.index, a.body = 8, strings.Repeat("y", maxHeldOfCaller*3/4) })
		synctest.Wait()
		s.relay.mu.Lock()
		defer s.relay.mu.Unlock()
		size := 0
		for _, e := range s.relay.watched {
			if e.question.Token == "web" {
				size += len(e.reply.Body)
			}
		}
		if size > maxHeldOfCaller {
			t.Errorf("what grew takes %d bytes", size)
		}
	})
}
