package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// TestPanicIsAnAnswer: a question whose answer panics is answered 500, and keeps no change from anybody.
func TestPanicIsAnAnswer(t *testing.T) {
	r := start(t)
	calls := 0
	r.routes.exact["/v1/panics"] = &route{path: "/v1/panics", methods: allowGet, wait: time.Minute, anyDatacenter: true, render: func(st *state, _ *question) (any, error) {
		if calls++; calls > 1 {
			panic("of the test")
		}
		return st.number, nil
	}}
	rt := r.routes.exact["/v1/panics"]
	rt.observed = observed{r.metrics.requests.WithLabelValues(rt.path, "200"), r.metrics.seconds.WithLabelValues(rt.path)}
	first := r.ask(t, "GET", "/v1/panics", "api", "")
	woken := make(chan reply, 1)
	go func() {
		a, _ := r.try(t.Context(), "GET", fmt.Sprintf("/v1/panics?index=%d", first.index(t)), "api", "")
		woken <- a
	}()
	r.await(t, 1)
	r.intend("db", "web", intention.Allow)
	if a := <-woken; a.code != http.StatusInternalServerError || !strings.Contains(a.body, "of the test") {
		t.Errorf("%d %s", a.code, a.body)
	}
	r.intend("db", "web", intention.Deny)
	r.settle(t)
	if a := r.ask(t, "GET", "/v1/connect/intentions/check?source=web&destination=db", "reader", ""); a.body != `{"Allowed":false}` {
		t.Errorf("after a panic: %s", a.body)
	}
}

// TestTopicsAreBounded: what is kept of answers has a bound, however they are asked for, and parameters that say nothing make no other
// question.
func TestTopicsAreBounded(t *testing.T) {
	r := start(t)
	long := strings.Repeat("x", 20<<10)
	for n := range 300 {
		r.ask(t, "GET", fmt.Sprintf("/v1/agent/connect/ca/roots?index=1&%d=%s", n, long), "", "")
	}
	r.topics.mu.Lock()
	if n := len(r.topics.all); n > 2 {
		t.Errorf("%d topics of one question", n)
	}
	r.topics.mu.Unlock()
	for n := range 4000 {
		q := &question{route: r.routes.exact["/v1/connect/ca/roots"], query: url.Values{"filter": {fmt.Sprint(n, long)}}}
		tp := r.topics.get(q, n%2 == 0)
		tp.bring(r.state.Load(), false)
		if n%2 == 0 {
			r.topics.leave(tp, "")
		} else {
			r.topics.weigh(tp)
		}
	}
	r.topics.mu.Lock()
	defer r.topics.mu.Unlock()
	if r.topics.size > maxTopicBytes || r.topics.size < maxTopicBytes/2 || len(r.topics.all) >= 4000 {
		t.Errorf("%d topics of %d bytes are kept", len(r.topics.all), r.topics.size)
	}
}

// TestKeys: different questions have different keys.
func TestKeys(t *testing.T) {
	rt := &route{path: "/x"}
	a := &question{route: rt, query: url.Values{"destination": {"api"}, "source": {"web"}}}
	b := &question{route: rt, query: url.Values{"destination": {"api\x00source=web"}}}
	if a.key() == b.key() {
		t.Error("two questions have one key")
	}
	c := &question{route: rt, query: url.Values{"destination": {"api"}, "source": {"web"}, "index": {"7"}, "other": {"x"}}}
	if a.key() != c.key() {
		t.Error("one question has two keys")
	}
}

// TestBodyOfAWait: a client that goes away while its body was to come leaves no wait behind.
func TestBodyOfAWait(t *testing.T) {
	t.Parallel() // it waits for 10 s
	r := start(t)
	index := r.ask(t, "GET", "/v1/agent/connect/ca/roots", "", "").index(t)
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET /v1/agent/connect/ca/roots?index=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", index); err != nil {
		t.Fatal(err)
	}
	r.await(t, 1)
	_ = c.Close()
	r.await(t, 0)
	if c, err = new(net.Dialer).DialContext(t.Context(), "unix", r.socket); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "GET /v1/agent/connect/ca/roots?index=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", index); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("a body that does not come: %.40q, %v", b, err)
	}
	if n := r.waits.used(); n != 0 {
		t.Errorf("%d questions wait", n)
	}
}

// changing is an Authority whose word can be changed.
type changing struct{ services chan []identity.Name }

func (c changing) Identify(context.Context, string, Peer) (Caller, error) {
	now := <-c.services
	c.services <- now
	return Caller{ID: "x", Services: now, Known: len(now) > 0}, nil
}

func (c changing) Act(ctx context.Context, caller *Caller, service identity.Name, leaf bool) error {
	return names{}.Act(ctx, caller, service, leaf)
}

// TestRightsThatChangeMeanwhile: what a wait ends with is what the caller may have then.
func TestRightsThatChangeMeanwhile(t *testing.T) {
	r := start(t)
	who := changing{make(chan []identity.Name, 1)}
	who.services <- []identity.Name{identity.NewName("api")}
	r.config.Authority = who
	const path = "/v1/connect/intentions/match?by=destination&name=api"
	for _, tt := range []struct {
		name string
		next []identity.Name
		want func(reply) bool
	}{
		{"another service", []identity.Name{identity.NewName("db")}, func(a reply) bool { return !strings.Contains(a.body, "s1") }},
		{"nobody", nil, func(a reply) bool { return a.code == http.StatusForbidden }},
	} {
		<-who.services
		who.services <- []identity.Name{identity.NewName("api")}
		first := r.ask(t, "GET", path, "x", "")
		woken := make(chan reply, 1)
		go func() {
			a, _ := r.try(t.Context(), "GET", fmt.Sprintf("%s&index=%d&wait=1m", path, first.index(t)), "x", "")
			woken <- a
		}()
		r.await(t, 1)
		<-who.services
		who.services <- tt.next
		r.intend("api", "s1-"+tt.name, intention.Allow)
		if a := <-woken; !tt.want(a) {
			t.Errorf("%s: %d %s", tt.name, a.code, a.body)
		}
	}
}

// TestPatterns: a pattern that costs megabytes is refused, and common ones are not.
func TestPatterns(t *testing.T) {
	r := start(t)
	for filter, want := range map[string]int{
		"Service.Service matches `ap.*`":       200,
		"Service.Service matches `(a?){1000}`": 500,
		"not (Service.ID == x or Service.Service not matches `" + strings.Repeat("a?", 200) + "`)": 500,
		"Service.Service == `a{2}`": 200,
	} {
		if a := r.ask(t, "GET", "/v1/health/service/api?filter="+url.QueryEscape(filter), "reader", ""); a.code != want {
			t.Errorf("%s: %d %s", filter, a.code, a.body)
		}
	}
}
