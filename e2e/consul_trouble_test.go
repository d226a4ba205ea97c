//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// middleman stands between a control plane and its agent, and spoils what the agent says.
type middleman struct {
	addr  string
	agent *httputil.ReverseProxy

	mu     sync.Mutex
	spoil  func(w http.ResponseWriter, r *http.Request) // nil: nothing is spoiled
	conns  map[net.Conn]bool
	spoilt int
}

func startMiddleman(t *testing.T, agent string) *middleman {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middleman{addr: l.Addr().String(), agent: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent}), conns: map[net.Conn]bool{}}
	m.agent.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: func(c net.Conn, s http.ConnState) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if s == http.StateClosed {
			delete(m.conns, c)
		} else {
			m.conns[c] = true
		}
	}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		spoil := m.spoil
		if spoil != nil {
			m.spoilt++
		}
		m.mu.Unlock()
		if spoil == nil {
			m.agent.ServeHTTP(w, r)
			return
		}
		spoil(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return m
}

// set begins to spoil, or ends it; what waits for an answer gets none, and asks again.
func (m *middleman) set(spoil func(w http.ResponseWriter, r *http.Request)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spoil = spoil
	for c := range m.conns {
		_ = c.Close()
	}
	m.spoilt = 0
}

// spoiltSome is that it has spoilt something since set.
func (m *middleman) spoiltSome() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.spoilt == 0 {
		return errors.New("the control plane has asked nothing")
	}
	return nil
}

// empty says that there is nothing, in the form that the question asks for; headers are those of an answer that counts.
func empty(w http.ResponseWriter, r *http.Request, header map[string]string) {
	for k, v := range map[string]string{"X-Consul-Index": "4000000", "X-Consul-Knownleader": "true", "X-Consul-Lastcontact": "0"} {
		w.Header().Set(k, v)
	}
	for k, v := range header {
		if v == "" {
			w.Header().Del(k)
		} else {
			w.Header().Set(k, v)
		}
	}
	if r.URL.Query().Get("index") != "" { // as a query that blocks
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/connect/intentions/match"):
		fmt.Fprintf(w, `{%q: []}`, r.URL.Query().Get("name"))
	case strings.HasPrefix(r.URL.Path, "/v1/catalog/node-services"):
		fmt.Fprint(w, `{"Node": {"Node": "node", "Address": "127.0.0.1", "Datacenter": "dc1"}, "Services": []}`)
	case strings.HasPrefix(r.URL.Path, "/v1/config"), strings.HasPrefix(r.URL.Path, "/v1/agent"):
		fmt.Fprint(w, `{}`)
	default:
		fmt.Fprint(w, `[]`)
	}
}

// TestConsulTroubled has a real agent's answers spoilt in every way that has been seen or can be thought of, for a while each, under load. What is known stays, nobody is
// let in or turned away for it, nothing is sent, and when the trouble is over a change is seen.
func TestConsulTroubled(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	between := startMiddleman(t, c.Addr)
	m.SetFlags("--http-addr", between.addr)
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, c, m)
	same := unmodified(t, cars...)
	before := map[string]int64{}
	for _, car := range cars {
		before[car.Name] = elsewhere(car.Stats().Updates())
	}
	load := besideBusy(t, m)
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "spoilt", code) }
	}
	text := func(body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Consul-Index", "4000000")
			fmt.Fprint(w, body)
		}
	}
	for _, trouble := range []struct {
		name  string
		spoil func(http.ResponseWriter, *http.Request)
	}{
		{"500", status(http.StatusInternalServerError)},
		{"403", status(http.StatusForbidden)},
		{"429", status(http.StatusTooManyRequests)},
		{"garbage", text("<html>a captive portal</html>")},
		{"null", text("null")},
		{"another type", text(`"web"`)},
		{"truncated", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `[{"Node": {"Node": "n`)
		}},
		{"empty, filtered by ACLs", func(w http.ResponseWriter, r *http.Request) {
			empty(w, r, map[string]string{"X-Consul-Results-Filtered-By-Acls": "true"})
		}},
		{"empty, without an index", func(w http.ResponseWriter, r *http.Request) { empty(w, r, map[string]string{"X-Consul-Index": ""}) }},
		{"a byte a second", func(w http.ResponseWriter, r *http.Request) {
			for range 60 {
				fmt.Fprint(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					return
				}
			}
		}},
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	} {
		between.set(trouble.spoil)
		time.Sleep(2500 * time.Millisecond)
		if r := m.Run("intention", "check", "web", "api"); r.Exit != 0 {
			t.Errorf("%s: web => api: exit %d, %s%s", trouble.name, r.Exit, r.Stdout, r.Stderr)
		}
		if r := m.Run("intention", "check", "nobody", "api"); r.Exit != 1 {
			t.Errorf("%s: nobody => api: exit %d, %s%s", trouble.name, r.Exit, r.Stdout, r.Stderr)
		}
		meshtest.Await(t, trouble.name+" is told to the control plane, which asks less and less", between.spoiltSome)
		between.set(nil)
		if _, failed := load.Sofar(); failed > 0 {
			t.Errorf("%s: %d requests failed by then", trouble.name, failed)
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	over := time.Now()
	meshtest.Await(t, "the control plane has all it needs again", func() error {
		if s := m.Status(); len(s.NotReady) > 0 {
			return errors.New(strings.Join(s.NotReady, "; "))
		}
		return nil
	})
	time.Sleep(time.Second)
	for _, car := range cars {
		if got := elsewhere(car.Stats().Updates()); got != before[car.Name] {
			t.Errorf("%s's Envoy was sent other than secrets: %d updates, before %d", car.Name, got, before[car.Name])
		}
	}
	unscathed(t, "11 troubles", load.Stop())
	same("11 troubles")
	// An empty answer counts if it is the agent's own.
	m.Intend("api", nil)
	_, err := meshtest.Within(10*time.Second, func() error { return wantDenied(meshtest.GetPlain("http://" + m.Upstream("web", "api"))) })
	if err != nil {
		t.Errorf("a change after the troubles is not seen: %v", err)
	}
	figure(t, "change_seen_after_the_last_trouble_ms=%.0f", millis(time.Since(over)))
}

// TestConsulControlPlaneAway is a control plane that is away for two fifths of the leafs' life. Nobody notices, and the leafs are renewed when it is back.
func TestConsulControlPlaneAway(t *testing.T) {
	t.Parallel()
	const life = 45 * time.Second
	c := meshtest.StartConsul(t, meshtest.Agent{})
	// Shorter than Consul allows a user to have them. It counts from a minute before they are made.
	c.Must("PUT", "/v1/connect/ca/configuration", map[string]any{
		"Provider": "consul", "Config": map[string]any{"LeafCertTTL": (life + time.Minute).String(), "SkipValidate": true},
	}, nil)
	m := consulPair(t, c, "1s")
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, c, m)
	first := map[string]meshtest.Leaf{}
	for _, car := range cars {
		leaf, err := car.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		first[car.Name] = leaf
	}
	same := unmodified(t, cars...)
	load := besideBusy(t, m)
	m.KillServe()
	time.Sleep(life * 2 / 5)
	m.Serve()
	for name, was := range first {
		if left := time.Until(was.Expires); left < 0 || left > life {
			t.Fatalf("%s's first leaf ends in %v: nothing is shown", name, left)
		}
	}
	for _, was := range first {
		time.Sleep(time.Until(was.Expires.Add(3 * time.Second)))
	}
	for _, car := range cars {
		leaf, err := car.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		if !leaf.Expires.After(first[car.Name].Expires) || time.Until(leaf.Expires) < 0 {
			t.Errorf("%s's leaf ends at %v, the first one at %v", car.Name, leaf.Expires, first[car.Name].Expires)
		}
	}
	unscathed(t, "control plane away for two fifths of the leafs' life", load.Stop())
	same("control plane away")
}
