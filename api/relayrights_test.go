package api

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/connlimit"
)

// TestRelayNarrowedRights: a list that Consul filters more than before has the same index as before, and is the answer within five seconds
// nevertheless. Nobody who waits is woken by that, as with Consul.
func TestRelayNarrowedRights(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, _ *Server) {
		a.change(func() { a.body = `["a","secret"]` })
		ask("GET", services, "web")
		began := time.Now()
		waited := make(chan time.Duration, 1)
		go func() {
			ask("GET", services+"?index=7&wait=60s", "web")
			waited <- time.Since(began)
		}()
		synctest.Wait()
		a.mu.Lock()
		a.body = `["a"]` // without waking anybody: no table has changed
		a.mu.Unlock()
		time.Sleep(verdict + time.Second)
		if w := ask("GET", services, "web"); w.Body.String() != `["a"]` {
			t.Errorf("%s to a token that may see less by now", w.Body)
		}
		if d := <-waited; d < 60*time.Second {
			t.Errorf("who waited was woken after %v", d)
		}
	})
}

// TestRelayOthersTurn: who is told that its own turns are all taken takes nobody along who asks the same.
func TestRelayOthersTurn(t *testing.T) {
	relaying(t, false, func(a *agent, _ func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		askAs := func(peer, path string) int {
			r := &http.Request{Method: "GET", Host: "localhost", Header: http.Header{}}
			r.URL, _ = url.Parse(path)
			end, _ := net.Pipe()
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), connKey{}, &conn{Conn: &connlimit.Conn{Conn: end, Peer: peer}})))
			return w.Code
		}
		for i := range mostOfPeer { // which hold their turns while they wait
			go askAs("uid 1", "/v1/catalog/nodes?consistent&index=7&wait=30s&n="+strconv.Itoa(i))
		}
		synctest.Wait()
		for range 5 {
			go askAs("uid 1", services)
		}
		synctest.Wait()
		if code := askAs("uid 2", services); code != http.StatusOK {
			t.Errorf("status %d to a user with turns of its own", code)
		}
		a.change(func() { a.index++ })
		time.Sleep(10 * time.Second)
	})
}

// TestRelayTogetherGone: of those who wait for the same, one asks for all; if it goes meanwhile, the others ask again.
func TestRelayTogetherGone(t *testing.T) {
	relaying(t, false, func(a *agent, ask func(method, path, token string) *httptest.ResponseRecorder, s *Server) {
		a.slow = queueTime
		q := RelayQuestion{Path: services, Token: "web"}
		gone, leave := context.WithCancel(context.Background()) // that of the test is not the bubble's
		defer leave()
		for range 100 {
			time.Sleep(time.Millisecond)
			go func() {
				_, _, _ = s.relay.together(gone, peerOf(&http.Request{}).share, relayKey(q), func(ctx context.Context) (RelayReply, error) { return a.ask(ctx, q) })
			}()
		}
		got := make(chan *httptest.ResponseRecorder, 1)
		go func() { got <- ask("GET", services, "web") }()
		time.Sleep(queueTime) // the first has its answer, and another asks for the rest
		leave()
		if w := <-got; w.Code != http.StatusOK {
			t.Errorf("who stayed got %d %s", w.Code, w.Body)
		}
	})
}
