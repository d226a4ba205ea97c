package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/catalogtest"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
)

// agent stands for Consul's: one value with an index, for those whose token it takes.
type agent struct {
	mu    sync.Mutex
	index uint64
	body  string
	// defaults is the default of its ACLs; empty: it does not say.
	defaults string
	refused  map[string]bool
	away     bool
	linger   time.Duration // how long a question that waits stays after its asker
	asked    int           // questions that do not wait
	slow     time.Duration // how long it takes to answer
	waiting  int
	changed  chan struct{}
}

func newAgent() *agent {
	return &agent{index: 7, body: `["a"]`, refused: map[string]bool{}, changed: make(chan struct{})}
}

// counts are how many questions came that do not wait, and how many wait.
func (a *agent) counts() (asked, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked, a.waiting
}

func (a *agent) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) ask(ctx context.Context, q RelayQuestion) (RelayReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q.Index == 0 {
		a.asked++
	}
	if a.slow > 0 {
		a.mu.Unlock()
		time.Sleep(a.slow)
		a.mu.Lock()
	}
	refused := a.refused[q.Token] // a token is judged when the question comes, however long it waits
	timeout := time.After(q.Wait)
	for q.Index > 0 && q.Index >= a.index && !a.away {
		changed := a.changed
		a.waiting++
		a.mu.Unlock()
		var done bool
		select {
		case <-changed:
		case <-timeout:
			done = true
		case <-ctx.Done():
			done = true
			time.Sleep(a.linger)
		}
		a.mu.Lock()
		a.waiting--
		if done {
			break
		}
	}
	if ctx.Err() != nil {
		return RelayReply{}, errors.New("it took too long") // as consul.Agent.Relay has it
	}
	if a.away {
		return RelayReply{}, errors.New("the agent does not answer")
	}
	if refused {
		return RelayReply{Code: http.StatusForbidden, Body: []byte("Permission denied"), Index: 1}, nil // Consul's have an index, some of them
	}
	if q.Header.Get("X-Consul-Namespace") != "" {
		return RelayReply{Code: http.StatusBadRequest, Body: []byte("Namespaces are a Consul Enterprise feature")}, nil
	}
	h := http.Header{"Content-Type": {"application/json"}, "X-Consul-Index": {strconv.FormatUint(a.index, 10)}, "X-Consul-Effective-Consistency": {"leader"}}
	if a.defaults != "" {
		h.Set("X-Consul-Default-Acl-Policy", a.defaults)
	}
	if q.Query.Has("stale") {
		h.Set("X-Consul-Effective-Consistency", "stale")
	}
	if q.Query.Has("cached") {
		h.Set("X-Cache", "MISS")
	}
	return RelayReply{Code: http.StatusOK, Header: h, Body: []byte(a.body), Index: a.index}, nil
}

// relaying runs f beside a server that passes questions on to an agent.
func relaying(t *testing.T, writes bool, f func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAgent()
		credentials, err := sds.New(sds.Config{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{
			Views: &latest.Value[*catalog.View]{}, Credentials: credentials, Authority: names{}, Number: func() uint64 { return 1 },
			Relay: &Relay{Ask: a.ask, Writes: writes},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.config.Views.Set(catalogtest.Mesh{}.View())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		f(a, func(method, path, token string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
			r.Host = "localhost"
			r.Header.Set("X-Consul-Token", token)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w
		}, s)
		cancel()
		<-done
	})
}

const services = "/v1/catalog/services"

// TestRelay: what was asked once is watched, and answered from memory to the same token; the agent's word on rights is 5 s old at most.
func TestRelay(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		for range 100 {
			if w := ask("GET", services+"?stale", "web"); w.Code != 200 || w.Body.String() != `["a"]` || w.Header().Get("X-Consul-Index") != "7" {
				t.Fatalf("%d %s %v", w.Code, w.Body, w.Header())
			}
		}
		synctest.Wait()
		if asked, waiting := a.counts(); asked != 1 || waiting != 1 {
			t.Errorf("the agent was asked %d times, and %d questions wait", asked, waiting)
		}
		a.change(func() { a.index, a.body = 8, `["b"]` })
		synctest.Wait()
		w := ask("GET", services, "web")
		if asked, _ := a.counts(); w.Body.String() != `["b"]` || asked != 1 {
			t.Errorf("%s after a change, asked %d times", w.Body, asked)
		}
		ask("GET", services, "db")
		if asked, _ := a.counts(); asked != 2 {
			t.Error("another token got what was asked for by the first")
		}
		// Rights that are gone do not wake a wait, so the agent is asked again.
		a.mu.Lock()
		a.refused["web"] = true
		a.mu.Unlock()
		time.Sleep(verdict + time.Second)
		if w := ask("GET", services, "web"); w.Code != http.StatusForbidden {
			t.Errorf("%d %s to a token without rights", w.Code, w.Body)
		}
		if w := ask("GET", services, "bogus"); w.Code != http.StatusForbidden {
			t.Errorf("%d %s to a bad token", w.Code, w.Body)
		}
	})
}

// TestRelayRevokedWait: a token that is worth nothing any more gets no change that it waits for, though the agent would give it.
func TestRelayRevokedWait(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		got := make(chan *httptest.ResponseRecorder)
		go func() { got <- ask("GET", services+"?index=7&wait=5m", "web") }()
		time.Sleep(verdict + time.Second)
		a.mu.Lock()
		a.refused["web"] = true
		a.mu.Unlock()
		a.change(func() { a.index, a.body = 8, `["b"]` })
		if w := <-got; w.Code != http.StatusForbidden {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		synctest.Wait()
		if _, waiting := a.counts(); waiting != 0 || len(s.relay.slots) != 0 {
			t.Errorf("%d questions wait at the agent with a token that is worth nothing, and %d slots are taken", waiting, len(s.relay.slots))
		}
	})
}

// TestRelayHeaders: whoever asked first, an answer says how consistent it is as the asker wanted it; what is said of namespaces is passed on.
func TestRelayHeaders(t *testing.T) {
	relaying(t, false, func(_ *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		for _, q := range []struct{ query, want string }{{"?stale&cached", "stale"}, {"", "leader"}, {"?max_stale=5s", "stale"}} {
			w := ask("GET", services+q.query, "web")
			if got := w.Header().Get("X-Consul-Effective-Consistency"); got != q.want || w.Header().Get("X-Cache") != "" {
				t.Errorf("%q: %q, want %q; X-Cache %q", q.query, got, q.want, w.Header().Get("X-Cache"))
			}
		}
		r := &http.Request{Method: "GET", URL: &url.URL{Path: services}, Host: "localhost", Header: http.Header{"X-Consul-Token": {"web"}, "X-Consul-Namespace": {"default"}}}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("a namespace: %d %s", w.Code, w.Body)
		}
	})
}

// TestRelayRestored: servers that were restored have lower indexes, for which the watch would wait; the next question beside it tells. An
// answer that was on its way while the watch had a newer one does not.
func TestRelayRestored(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		ask("GET", services, "web")
		synctest.Wait()
		time.Sleep(verdict + time.Second)
		a.change(func() { a.index, a.body = 3, `["restored"]` })
		if w := ask("GET", services, "web"); w.Body.String() != `["restored"]` || w.Header().Get("X-Consul-Index") != "3" {
			t.Errorf("%s, index %s", w.Body, w.Header().Get("X-Consul-Index"))
		}
		time.Sleep(time.Millisecond)
		e := &watched{reply: RelayReply{Index: 8}, came: time.Now(), changed: make(chan struct{})}
		if r, _ := e.verify(RelayReply{Index: 7}, e.came.Add(-time.Millisecond)); r.Index != 8 {
			t.Errorf("a late answer with index %d replaced a newer one", r.Index)
		}
	})
}

// TestRelayWaits: equal waits share one question; they end with a change, and with their time.
func TestRelayWaits(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		var all sync.WaitGroup
		got := make(chan string, 500)
		for range 500 {
			all.Go(func() { got <- ask("GET", services+"?index=7&wait=5m", "web").Body.String() })
		}
		synctest.Wait()
		if _, waiting := a.counts(); waiting != 1 {
			t.Errorf("%d questions wait at the agent", waiting)
		}
		a.change(func() { a.index, a.body = 8, `["b"]` })
		all.Wait()
		for range 500 {
			if b := <-got; b != `["b"]` {
				t.Fatal(b)
			}
		}
		began := time.Now()
		if w := ask("GET", services+"?index=8&wait=90s", "web"); w.Body.String() != `["b"]` || time.Since(began) != 90*time.Second {
			t.Errorf("%s after %v", w.Body, time.Since(began))
		}
		// Nobody asks: it is not watched any more.
		time.Sleep(2 * idleWatch)
		synctest.Wait()
		if _, waiting := a.counts(); waiting != 0 {
			t.Errorf("%d questions wait at the agent for nobody", waiting)
		}
	})
}

// TestRelayTogether: thousands who ask the same at once, whom the agent did not know of, or of whom its word is old, are few questions to it,
// and nobody is sent away. One of them that goes takes no other's answer with it.
func TestRelayTogether(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		a.slow = queueTime
		q := RelayQuestion{Path: services, Token: "web"}
		for _, first := range []bool{true, false} {
			before, _ := a.counts()
			codes := make(chan int, 2000)
			gone, leave := context.WithCancel(context.WithoutCancel(t.Context()))
			go func() {
				_, _, err := s.relay.together(gone, peerOf(&http.Request{}).share, relayKey(q), func(ctx context.Context) (RelayReply, error) { return a.ask(ctx, q) })
				if !errors.Is(err, context.Canceled) {
					t.Errorf("who went got %v", err)
				}
			}()
			time.Sleep(queueTime / 2)
			for range cap(codes) {
				go func() { codes <- ask("GET", services, "web").Code }()
			}
			synctest.Wait()
			leave()
			for range cap(codes) {
				if code := <-codes; code != http.StatusOK {
					t.Errorf("first %v: status %d", first, code)
				}
			}
			if asked, _ := a.counts(); asked-before > 3 {
				t.Errorf("first %v: the agent was asked %d times", first, asked-before)
			}
			time.Sleep(verdict + time.Second)
		}
	})
}

// TestRelayBounds: the agent is asked so many questions at a time, whoever asks.
func TestRelayBounds(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		codes := make(chan int, 100)
		for n := range 50 {
			go func() {
				codes <- ask("GET", "/v1/health/service/s"+strconv.Itoa(n)+"?index=7&wait=1m", "web").Code
			}()
		}
		time.Sleep(2 * queueTime)
		synctest.Wait()
		if _, waiting := a.counts(); waiting > mostWatched {
			t.Errorf("%d questions wait at the agent", waiting)
		}
		if w := ask("GET", services, "web"); w.Code != 200 {
			t.Errorf("%d %s to a question that need not wait", w.Code, w.Body)
		}
		if w := ask("GET", services+"?index=1", "web"); w.Code != 200 {
			t.Errorf("%d %s to a question that knows less than there is", w.Code, w.Body)
		}
		busy := 0
		time.Sleep(2 * time.Minute)
		for range 50 {
			if code := <-codes; code == http.StatusTooManyRequests {
				busy++
			} else if code != http.StatusOK {
				t.Errorf("status %d", code)
			}
		}
		if busy != 50-mostOfToken {
			t.Errorf("%d of 50 were told that there is no room, want %d", busy, 50-mostOfToken)
		}
		if n := len(s.relay.slots); n > mostWatched {
			t.Errorf("%d slots are taken", n)
		}
	})
}

// TestRelayPassesWaits: waits that are passed on as they are leave places for watches, and both for questions that do not wait.
func TestRelayPassesWaits(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		codes := make(chan int, 80)
		for n := range 40 {
			go func() { codes <- ask("GET", services+"?consistent&index=7&wait=1m", "t"+strconv.Itoa(n)).Code }()
			go func() {
				codes <- ask("GET", "/v1/health/service/s"+strconv.Itoa(n)+"?index=7&wait=1m", "t"+strconv.Itoa(n)).Code
			}()
		}
		time.Sleep(3 * queueTime)
		synctest.Wait()
		if _, waiting := a.counts(); waiting > mostWatched || waiting < mostOfNobody {
			t.Errorf("%d questions wait at the agent", waiting)
		}
		if w := ask("GET", services+"?consistent", "web"); w.Code != http.StatusOK {
			t.Errorf("%d %s to a question that need not wait", w.Code, w.Body)
		}
		time.Sleep(2 * time.Minute)
		for range 80 {
			if code := <-codes; code != http.StatusOK && code != http.StatusTooManyRequests {
				t.Errorf("status %d", code)
			}
		}
	})
}

// TestRelayGivesWay: what nobody waits for any more gives its place, though it takes the agent a while to let go.
func TestRelayGivesWay(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		a.linger = queueTime / 5
		for n := range mostWatched {
			ask("GET", "/v1/health/service/s"+strconv.Itoa(n), "t"+strconv.Itoa(n%2))
		}
		time.Sleep(2 * spareWatch)
		codes := make(chan int, mostWatched)
		for n := range mostOfToken {
			go func() { codes <- ask("GET", "/v1/health/service/n"+strconv.Itoa(n)+"?index=7&wait=1m", "web").Code }()
		}
		for range mostOfToken {
			if code := <-codes; code != http.StatusOK {
				t.Errorf("status %d", code)
			}
		}
	})
}

// TestRelayAway: an agent that is away leaves what was known, with its age; what was not known is an error.
func TestRelayAway(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		ask("GET", services, "web")
		a.change(func() { a.away = true })
		time.Sleep(time.Minute)
		w := ask("GET", services, "web")
		if age, err := strconv.Atoi(w.Header().Get("Age")); w.Code != 200 || err != nil || age < 50 {
			t.Errorf("%d %s, age %q", w.Code, w.Body, w.Header().Get("Age"))
		}
		if w := ask("GET", "/v1/catalog/nodes", "web"); w.Code != http.StatusInternalServerError {
			t.Errorf("%d %s for what was never known", w.Code, w.Body)
		}
		a.change(func() { a.away, a.index, a.body = false, 3, `["c"]` })
		time.Sleep(time.Minute)
		if w := ask("GET", services, "web"); w.Body.String() != `["c"]` || w.Header().Get("Age") != "" {
			t.Errorf("%s, age %q after it came back", w.Body, w.Header().Get("Age"))
		}
	})
}

// TestRelayWrites: writes are passed on where the operator says so; what is on no list never is.
func TestRelayWrites(t *testing.T) {
	for _, writes := range []bool{false, true} {
		relaying(t, writes, func(_ *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
			want := map[bool]int{false: http.StatusMethodNotAllowed, true: http.StatusOK}[writes]
			for path, method := range map[string]string{"/v1/config": "PUT", "/v1/config/service-defaults/x": "DELETE", "/v1/connect/intentions/exact": "PUT", "/v1/agent/service/register": "PUT"} {
				if w := ask(method, path, "web"); w.Code != want {
					t.Errorf("%s %s = %d %s, want %d", method, path, w.Code, w.Body, want)
				}
			}
			for _, path := range []string{"/v1/snapshot", "/v1/agent/monitor", "/v1/kv/a", "/v1/acl/tokens", "/v1/agent/token/default"} {
				if w := ask("GET", path, "web"); w.Code != http.StatusNotFound {
					t.Errorf("%s = %d", path, w.Code)
				}
			}
		})
	}
}
