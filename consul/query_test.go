package consul

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/catalogtest"
)

// reader is a query of a test and what it has heard.
type reader struct {
	mu   sync.Mutex
	got  []string // "value@time", with a mark if not authoritative
	errs []string
	done chan struct{}
}

func (r *reader) values() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.got, " ")
}

func (r *reader) errors() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.errs...)
}

// read keeps a query for /q going until the test ends.
func read(t *testing.T, a *Agent, change ...func(*query[[]string])) *reader {
	t.Helper()
	r := &reader{done: make(chan struct{})}
	q := query[[]string]{
		client: a.client, metrics: a.metrics, path: "/q",
		got: func(v []string, m meta) {
			r.mu.Lock()
			defer r.mu.Unlock()
			mark := ""
			if !m.authoritative() {
				mark = "?"
			}
			r.got = append(r.got, fmt.Sprintf("%s%s@%s", strings.Join(v, "+"), mark, time.Since(start).Round(time.Second)))
		},
		failed: func(err error) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.errs = append(r.errs, err.Error())
			return false
		},
	}
	for _, f := range change {
		f(&q)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(r.done); _ = q.run(ctx) }()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// indexes are those of the requests for /q.
func indexes(f *fake) string {
	var out []string
	for _, a := range f.of("/q") {
		out = append(out, fmt.Sprintf("%d@%s", a.index, a.at.Round(time.Second)))
	}
	return strings.Join(out, " ")
}

// step is one scripted answer to /q: after some time, with an index, of a value.
type step struct {
	after  time.Duration
	index  string // empty: no header
	body   string // empty: ["v<n>"]
	status int    // 0: 200
	header map[string]string
}

// play answers /q with the steps, one for each request; after the last nothing more happens.
func play(f *fake, steps ...step) {
	var mu sync.Mutex
	n := 0
	f.hook("/q", func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		i := n
		n++
		mu.Unlock()
		if i >= len(steps) {
			<-r.Context().Done()
			return true
		}
		s := steps[i]
		select {
		case <-time.After(s.after):
		case <-r.Context().Done():
			return true
		}
		if s.index != "" {
			w.Header().Set("X-Consul-Index", s.index)
		}
		for k, v := range s.header {
			w.Header().Set(k, v)
		}
		if s.status != 0 {
			w.WriteHeader(s.status)
		}
		body := s.body
		if body == "" {
			body = `["v` + strconv.Itoa(i) + `"]`
		}
		_, _ = w.Write([]byte(body))
		return true
	})
}

func TestQuery(t *testing.T) {
	for name, c := range map[string]struct {
		steps   []step
		values  string
		indexes string
		err     string // part of the one error
	}{
		"follows the index": {
			steps:   []step{{index: "5"}, {after: 20 * time.Second, index: "7"}, {after: 20 * time.Second, index: "9"}},
			values:  "v0@0s v1@20s v2@40s",
			indexes: "0@0s 5@0s 7@20s 9@40s",
		},
		"an index that goes backwards is forgotten": {
			steps:   []step{{index: "50"}, {after: 20 * time.Second, index: "3"}, {index: "3"}, {after: 20 * time.Second, index: "4"}},
			values:  "v0@0s v1@20s v2@20s v3@40s",
			indexes: "0@0s 50@0s 0@20s 3@20s 4@40s",
		},
		"the same after the time to wait": {
			steps:   []step{{index: "5"}, {after: 4 * time.Minute, index: "5"}},
			values:  "v0@0s v1@4m0s",
			indexes: "0@0s 5@0s 5@4m0s",
		},
		"one that has fields that nobody knows": {
			steps:   []step{{index: "5", header: map[string]string{"X-Consul-Knownleader": "false", "Age": "nonsense"}}},
			values:  "v0@0s",
			indexes: "0@0s 5@0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				play(f, c.steps...)
				r := read(t, a)
				after(30 * time.Minute)
				// What the last request has to say comes when its time is over; only what was scripted is compared.
				if got := r.values(); got != c.values {
					t.Errorf("values %q, want %q", got, c.values)
				}
				if got := indexes(f); !strings.HasPrefix(got, c.indexes) {
					t.Errorf("indexes %q, want %q", got, c.indexes)
				}
			})
		})
	}
}

// What does not block is asked again slowly, and takes nothing away.
func TestQueryWithoutIndex(t *testing.T) {
	for name, index := range map[string]string{"absent": "", "zero": "0", "no number": "x"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				steps := make([]step, 100)
				for i := range steps {
					steps[i].index = index
				}
				play(f, steps...)
				r := read(t, a)
				after(time.Minute)
				if got := r.values(); !strings.HasPrefix(got, "v0?@0s v1?@") {
					t.Errorf("values %q", got)
				}
				for _, q := range f.of("/q") {
					if q.index != 0 {
						t.Errorf("asked with index %d", q.index)
					}
				}
				if n := len(f.of("/q")); n < 11 || n > 15 {
					t.Errorf("%d requests in a minute, want one every 5 s", n)
				}
			})
		})
	}
}

// An answer that comes at once and says nothing new is not asked for again at once.
func TestQueryThatDoesNotBlock(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		steps := make([]step, 1000)
		for i := range steps {
			steps[i].index = "8"
		}
		play(f, steps...)
		read(t, a)
		after(time.Minute)
		if n := len(f.of("/q")); n < 11 || n > 16+2*(unblocked-1) {
			t.Errorf("%d requests in a minute, want one every 5 s, after a few at first", n)
		}
	})
}

// A storm of changes is read once a second; a change after a quiet time at once.
func TestQueryPace(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		var steps []step
		for i := range 1000 {
			steps = append(steps, step{index: strconv.Itoa(i + 1)})
		}
		play(f, steps...)
		read(t, a)
		after(100 * time.Second)
		if n := len(f.of("/q")); n < 95 || n > 105 {
			t.Errorf("%d requests within 100 s of a storm", n)
		}
	})
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.set("/q", []string{"a"})
		r := read(t, a)
		for i := range 5 {
			after(time.Minute)
			before := time.Now()
			f.set("/q", []string{strconv.Itoa(i)})
			after(time.Millisecond)
			if got := r.values(); !strings.Contains(got, fmt.Sprintf("%d@%s", i, time.Since(start).Round(time.Second))) || time.Since(before) > time.Second {
				t.Errorf("the change is not there: %q", got)
			}
		}
	})
}

func TestQueryErrors(t *testing.T) {
	garbage := "it has more than"
	for name, c := range map[string]struct {
		step step
		hook func(http.ResponseWriter, *http.Request)
		err  string
		max  time.Duration // until the next try has succeeded
	}{
		"403":            {step: step{status: 403, body: "Permission denied: token with AccessorID 'x' lacks permission"}, err: "answered 403 (Permission denied", max: 2 * time.Second},
		"404":            {step: step{status: 404}, err: "answered 404", max: 2 * time.Second},
		"429":            {step: step{status: 429}, err: "raise limits.http_max_conns_per_client", max: 2 * time.Second},
		"500":            {step: step{status: 500, body: "No cluster leader"}, err: "answered 500 (No cluster leader)", max: 2 * time.Second},
		"a redirection":  {step: step{status: 302, header: map[string]string{"Location": "http://elsewhere/"}}, err: "redirection", max: 2 * time.Second},
		"garbage":        {step: step{index: "3", body: "<html>"}, err: "makes no sense", max: 2 * time.Second},
		"truncated JSON": {step: step{index: "3", body: `["v0`}, err: "makes no sense", max: 2 * time.Second},
		"another type":   {step: step{index: "3", body: `{"a":1}`}, err: "makes no sense", max: 2 * time.Second},
		"nothing":        {step: step{index: "3", body: " "}, err: "makes no sense", max: 2 * time.Second},
		"too much":       {step: step{index: "3", body: `["` + strings.Repeat("x", 11<<20) + `"]`}, err: garbage, max: 2 * time.Second},
		"a body that breaks": {hook: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`["v`))
		}, err: "breaks off after 3 bytes", max: 2 * time.Second},
		"a slow drip": {hook: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
				}
			}
		}, err: "it took too long", max: 33 * time.Second},
		"silence": {hook: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, err: "it took too long", max: 18 * time.Second},
		"a cut connection": {hook: func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = c.Close()
			}
		}, err: "does not answer", max: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c *Config) { c.MaxBody = 10 << 20 }, func(t *testing.T, f *fake, a *Agent) {
				if c.hook == nil {
					play(f, c.step, step{index: "9", body: `["good"]`})
				} else {
					var once sync.Once
					f.hook("/q", func(w http.ResponseWriter, r *http.Request) bool {
						first := false
						once.Do(func() { first = true })
						if first {
							c.hook(w, r)
						}
						return first
					})
					f.set("/q", []string{"good"})
				}
				r := read(t, a)
				after(c.max)
				if got := r.values(); !strings.HasPrefix(got, "good@") {
					t.Errorf("values %q", got)
				}
				if errs := r.errors(); len(errs) != 1 || !strings.Contains(errs[0], c.err) || !strings.HasPrefix(errs[0], "/q: ") || len(errs[0]) > 600 {
					t.Errorf("errors %q, want one with %q", errs, c.err)
				}
				for _, q := range f.of("/q")[:2] {
					if q.index != 0 {
						t.Errorf("after an error index %d is asked for, and the answer could take minutes", q.index)
					}
				}
			})
		})
	}
}

// A body of 10 MB is read.
func TestQueryLargeBody(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.set("/q", []string{strings.Repeat("x", 10_000_000)})
		r := read(t, a)
		after(time.Second)
		if got := len(r.values()); got < 10_000_000 {
			t.Errorf("%d bytes were read; errors %q", got, r.errors())
		}
	})
}

// An answer that drips is not waited for as long as a change would be.
func TestQuerySlowDripWhileBlocking(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.set("/q", []string{"a"})
		r := read(t, a)
		after(time.Second)
		f.hook("/q", func(w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil && r.URL.Query().Get("index") != "" {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
				}
			}
			return false
		})
		f.set("/q", []string{"b"}) // ends the query that waits; the next one drips
		after(34 * time.Second)
		if got, errs := r.values(), r.errors(); len(errs) != 1 || !strings.Contains(errs[0], "it took too long") || strings.Count(got, "b@") != 2 {
			t.Errorf("values %q, errors %q", got, errs)
		}
	})
}

// Tries become fewer: 1 s, 2 s, 4 s … up to a minute, with servers that fail up to 8 s; and the value stays.
func TestQueryBackoff(t *testing.T) {
	for code, most := range map[int]int{403: 20, 500: 120} {
		bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
			f.set("/q", []string{"a"})
			r := read(t, a)
			after(time.Second)
			f.refuse("/q", code)
			after(10 * time.Minute)
			if n := len(f.of("/q")); n < 10 || n > most+20 {
				t.Errorf("%d: %d requests in 10 min", code, n)
			}
			f.set("/q", []string{"b"})
			after(61 * time.Second)
			if got := r.values(); !strings.HasPrefix(got, "a@0s b@") {
				t.Errorf("%d: values %q", code, got)
			}
		})
	}
}

// When an agent comes back all ask at once, however long they would have waited.
func TestAgentReturns(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p, _ := running(t, a)
		after(10 * time.Second)
		before := p.must(t)
		f.kill()
		after(10 * time.Minute)
		if s := a.Status(); s.Connected || s.StaleSince.IsZero() || time.Since(s.StaleSince) < 9*time.Minute {
			t.Errorf("Status() = %+v", s)
		}
		if got := p.must(t); ids(got) != ids(before) || endpointsOf(got, "api") != endpointsOf(before, "api") || len(catalogtest.Intentions(got)) != len(catalogtest.Intentions(before)) {
			t.Errorf("while the agent is away: %+v", got)
		}
		f.set("/v1/catalog/node-services/n1", map[string]any{"Node": map[string]any{"Node": "n1"}, "Services": []any{}})
		f.revive()
		after(3 * time.Second)
		if got := ids(p.must(t)); got != "" {
			t.Errorf("3 s after the agent came back: %q", got)
		}
		if s := a.Status(); !s.Connected || !s.StaleSince.IsZero() || len(s.Problems) != 0 {
			t.Errorf("Status() = %+v", s)
		}
	})
}

// An answer that is what the last one was is not handed on again; one that lacks something now, or does not any more, is.
func TestQuerySame(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		lacks := map[string]string{"X-Consul-Results-Filtered-By-Acls": "true"}
		play(f, step{index: "5", body: `["a"]`}, step{after: 20 * time.Second, index: "6", body: `["a"]`}, step{after: 20 * time.Second, index: "7", body: `["a"]`, header: lacks},
			step{after: 20 * time.Second, index: "8", body: `["a"]`}, step{after: 20 * time.Second, status: 500}, step{index: "9", body: `["a"]`}, step{after: 20 * time.Second, index: "10", body: `["b"]`})
		var mu sync.Mutex
		same := 0
		r := read(t, a, func(q *query[[]string]) {
			q.same = func(meta) {
				mu.Lock()
				defer mu.Unlock()
				same++
			}
		})
		after(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if got := r.values(); !strings.HasPrefix(got, "a@0s a?@40s a@1m0s b@1m4") || same != 2 || len(r.errors()) != 1 {
			t.Errorf("values %q, %d the same, errors %q", got, same, r.errors())
		}
	})
}
