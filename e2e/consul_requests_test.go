//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// recorder passes requests on to an agent and notes what it was asked.
type recorder struct {
	mu    sync.Mutex
	asked []*http.Request
}

func (r *recorder) serve(t *testing.T, agent string) (address string) {
	t.Helper()
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent})
	to.FlushInterval, to.ErrorLog = -1, log.New(io.Discard, "", 0)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, q)
		r.mu.Unlock()
		to.ServeHTTP(w, q)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return strings.TrimPrefix(s.URL, "http://")
}

func (r *recorder) all() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

// TestConsulOddRequests: whatever a caller's requests look like, the agent is asked what is on the list, one question for one request, with
// the caller's token or as the anonymous one, and never with the control plane's own.
func TestConsulOddRequests(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	var rec recorder
	beside := *c
	beside.Addr = rec.serve(t, c.Addr)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: &beside})
	address, socket := fmt.Sprintf("127.0.0.1:%d", m.Port()), filepath.Join(m.Runtime, "http.sock")
	c.Register(map[string]any{"Name": "web", "Port": 80})
	c.Register(map[string]any{"Name": "waited", "Port": 81})
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	_, caller := c.ServiceToken("web")
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "serve"), own), "--api-address", address, "--api-writes")
	m.Serve()

	// Who waits by hash waits as long as it says, or until there is another answer.
	var waits sync.WaitGroup
	hashed := func(query string) (int, string, string) {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
		a, err := client.Get("http://localhost/v1/agent/service/waited?token=" + caller + query)
		if err != nil {
			t.Error(err)
			return 0, "", ""
		}
		defer a.Body.Close()
		b, _ := io.ReadAll(a.Body)
		return a.StatusCode, string(b), a.Header.Get("X-Consul-Contenthash")
	}
	_, first, hash := hashed("")
	waits.Go(func() {
		began := time.Now()
		if code, b, again := hashed("&wait=16s&hash=" + hash); code != http.StatusOK || b != first || again != hash || time.Since(began) < 16*time.Second {
			t.Errorf("a wait by hash, after %v: %d %.300s", time.Since(began), code, b)
		}
		woken := make(chan string, 1)
		go func() {
			_, b, _ := hashed("&wait=15s&hash=" + hash)
			woken <- b
		}()
		time.Sleep(200 * time.Millisecond) // if it comes later it is answered too
		c.Register(map[string]any{"Name": "waited", "Port": 82})
		if b := <-woken; !strings.Contains(b, `"Port":82`) {
			t.Errorf("woken with %.300s", b)
		}
	})
	// Of what comes to the agent from here on, what has the caller's token, or is anonymous, is relayed.
	for network, address := range map[string]string{"unix": socket, "tcp": address} {
		sayAll(t, network, address, oddRequests("PUT", "/v1/agent/service/register", caller, `{"Name":"web","Port":81}`, 200, 400))
	}
	names := []string{"kv/smuggled", "snapshot", "agent/monitor", "agent/metrics/stream", "acl/tokens", "acl/token/self", "agent/token/default", "internal/ui/nodes", "internal/acl/authorize", "txn", "event/list", "operator/raft/configuration", "session/list", "agent/leave", "agent/force-leave/x", "debug/pprof/heap", "agent/maintenance"}
	tricks := []string{
		"/v1/%s", "//v1/%s", "/v1//%s", "/v1/./%s", "/V1/%s", "/v1/%s/", "/v1/%s;", "/v1;/%s", "/v1/%s%%20", "/%%76%%31/%s", "/v1%%2f%s", "/v1/catalog/service/../../%s", "/v1/catalog/service/%%2e%%2e/%%2e%%2e/%s", "/v1/catalog/service/..%%2f..%%2f%s",
		"/v1/catalog/service/%%252e%%252e/%%252e%%252e/%s", "/v1/catalog/service/..%%5c..%%5c%s", `/v1/catalog/service/..\..\%s`, "/v1/catalog/service/..;/..;/%s", "/v1/catalog/service/x;/../../../%s", "/v1/catalog/service/.%%00./%s", "/v1/catalog/service/%%c0%%ae%%c0%%ae/%s",
		"/v1/catalog/services/../../%s", "/v1/agent/service/../../%s", "/v1/config/../%s", "/v1/query/..%%2F%s", "/v1/discovery-chain/..//%s", "/v1/catalog/service/x%%20HTTP/1.1%%0d%%0aHost:x%%0d%%0a%%0d%%0aGET%%20/v1/%s", "/v1/catalog/service/x\u2028/v1/%s",
		"/v1/catalog/service/x?/../../%s", "/v1/catalog/service/x?x#/../../%s", "/v1/catalog/service/x%%3f/../../../%s", "/v1/catalog/service/x%%23/../../../%s", "http://localhost/v1/%s", "http://" + c.Addr + "/v1/%s", "/v1/catalog/service/http://" + c.Addr + "/v1/%s", "/%s", "%s", "/v1/\u212ag/%s",
	}
	var all sync.WaitGroup
	n := 0
	for _, name := range names {
		for _, trick := range tricks {
			target := fmt.Sprintf(trick, name)
			for _, method := range []string{"GET", "PUT"} {
				n++
				all.Go(func() {
					codes, came := say(t, "unix", socket, method+" "+target+" HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: "+caller+"\r\n\r\n", 1)
					// A path below a name that is on the list is the name of a service.
					if len(codes) != 1 || codes[0] == http.StatusOK && !strings.Contains(target, "/catalog/service/") {
						t.Errorf("%s %s: %v %.200q", method, target, codes, came)
					}
				})
			}
		}
		all.Wait()
	}
	// Tokens that would be something else to whoever asks with them.
	for _, token := range []string{"", "anonymous", " ", "x y", "x\ty", "é", "\u00a0", strings.Repeat("x", 9000), "x, " + own[:8]} {
		codes, _ := say(t, "unix", socket, "GET /v1/catalog/services?ns= HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: "+token+"\r\n\r\n", 1)
		if len(codes) != 1 || codes[0] != http.StatusForbidden && codes[0] != http.StatusOK {
			t.Errorf("the token %.20q: %v", token, codes)
		}
	}
	for _, field := range []string{"X-Consul-Namespace: x", "Connection: X-Consul-Token", "X-Forwarded-For: 1.2.3.4", "X-HTTP-Method-Override: DELETE", "Proxy: x", "Expect: 100-continue", "Te: trailers", "X-Consul-Token: " + caller + "\r\nX-Consul-Token: other"} {
		if codes, came := say(t, "unix", socket, "GET /v1/catalog/services?near=_agent&token= HTTP/1.1\r\nHost: localhost\r\n"+field+"\r\n\r\n", 1); len(codes) == 0 {
			t.Errorf("%s: %q", field, came)
		}
	}

	waits.Wait()

	relayed, registered := 0, 0
	for _, q := range rec.all() {
		token := q.Header.Get("X-Consul-Token")
		if strings.Contains(q.RequestURI, "kv/smuggled") && !strings.HasPrefix(q.URL.Path, "/v1/catalog/service/") && !strings.Contains(q.URL.RawQuery, "kv/smuggled") {
			t.Errorf("the agent was asked %s %s", q.Method, q.RequestURI)
		}
		if token == own {
			if q.Method != http.MethodGet && q.URL.Path != "/v1/internal/acl/authorize" {
				t.Errorf("the control plane's own token: %s %s", q.Method, q.RequestURI)
			}
			continue
		}
		relayed++
		if q.URL.Path == "/v1/agent/service/register" {
			registered++
		}
		if clean := path.Clean(q.URL.Path); clean != strings.TrimSuffix(q.URL.Path, "/") || !mayBeAsked(q) {
			t.Errorf("the agent was asked %s %s", q.Method, q.RequestURI)
		}
		for _, name := range []string{"X-Http-Method-Override", "Proxy", "Te", "Upgrade", "X-Forwarded-Host"} {
			if q.Header.Get(name) != "" {
				t.Errorf("the agent was asked %s with %s: %s", q.RequestURI, name, q.Header.Get(name))
			}
		}
	}
	// Each that was answered 200 above, and no other; HTTP/1.0 has no chunks, so there they are what is said, of the length that is said.
	want := 0
	for _, r := range oddRequests("", "", "", "", 200, 400) {
		if r.want[0] == 200 || r.name == "TE in HTTP/1.0" {
			want += 2
		}
	}
	if registered != want {
		t.Errorf("the agent was asked %d times to register, want %d", registered, want)
	}
	nothingInSight(t, m, own, caller)
	figure(t, "paths=%d relayed=%d", n, relayed)
}

// TestConsulAPIFloods: whoever floods the API with questions for the agent, under as many invented tokens, keeps neither authorizations from
// being answered, nor others' questions for the agent, nor the control plane from hearing of changes.
func TestConsulAPIFloods(t *testing.T) {
	needRoot(t)
	lasting := 3 * time.Second
	if os.Getenv(longVariable) != "" {
		lasting = time.Minute
	}
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Prober: true})
	c.Register(map[string]any{"Name": "web", "Port": 80})
	c.Register(map[string]any{"Name": "api", "Port": 81, "Connect": map[string]any{"Native": true}})
	m.SetFlags("--log-level", "info")
	m.Serve()
	socket, program, serve := filepath.Join(m.Runtime, "http.sock"), copyTestBinary(t), m.ServeProcess()
	ask := bystander{socket: socket, question: fmt.Sprintf(`{"Target":"api","ClientCertURI":%q}`, m.URI("web"))}
	meshtest.Await(t, "authorize is answered", func() error {
		if a := ask.during(t, time.Millisecond); a.failed > 0 {
			return errors.New(a.why)
		}
		return nil
	})
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	n := 0
	get := func(query string) (string, http.Header, error) {
		r, err := client.Get("http://localhost/v1/catalog/service/web?" + query)
		if err != nil {
			return "", nil, err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("%d %s", r.StatusCode, b)
		}
		return string(b), r.Header, err
	}
	for _, kind := range []string{"relayed", "relayed waits"} {
		t.Run(strings.ReplaceAll(kind, " ", "_"), func(t *testing.T) {
			peak := watchMemory(serve.PID())
			ended := startAPIFlood(t, program, flood{Kind: kind, Network: "unix", Addr: socket, Time: lasting}, 65534)
			time.Sleep(lasting / 3)
			a := ask.during(t, lasting/6)
			var took []time.Duration
			refused := 0
			for end := time.Now().Add(lasting / 6); time.Now().Before(end) || len(took) < 5; n++ {
				began := time.Now()
				if _, _, err := get(fmt.Sprintf("consistent&filter=ServiceID!=y%d", n)); err != nil {
					refused++
					t.Errorf("another's question for the agent: %v", err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			// Another may still wait for a change, and a change still arrives.
			_, h, err := get("")
			woken := make(chan string, 1)
			go func() {
				b, _, err := get("wait=15s&index=" + h.Get("X-Consul-Index"))
				woken <- fmt.Sprint(b, err)
			}()
			if err != nil {
				t.Errorf("another's question for the agent: %v", err)
			}
			action := map[bool]string{true: "deny", false: "allow"}[kind == "relayed"]
			c.Intend("api", meshtest.Intentions{"web": action})
			arrived := meshtest.Await(t, "the intention in authorize", func() error {
				if d := ask.verdict(t); d != (action == "allow") {
					return fmt.Errorf("authorized: %t", d)
				}
				return nil
			})
			c.Register(map[string]any{"Name": "web", "Port": 80, "Tags": []string{kind}})
			if b := <-woken; !strings.Contains(b, kind) {
				t.Errorf("another's wait for a change: %.200s", b)
			}
			got := <-ended
			bytes := peak()
			figure(t, "flood=%q got=%v %s relayed=%d refused=%d relayed_p50_ms=%.1f relayed_most_ms=%.1f change_s=%.2f peak_MiB=%d", kind, got, a, len(took), refused, took[len(took)/2].Seconds()*1000, took[len(took)-1].Seconds()*1000, arrived.Seconds(), bytes>>20)
			if a.failed > 0 {
				t.Errorf("%d of %d authorizations failed: %s", a.failed, a.n, a.why)
			}
			if arrived > 5*time.Second {
				t.Errorf("a change arrived after %v", arrived)
			}
			if bytes > 256<<20 {
				t.Errorf("the control plane took %d MiB", bytes>>20)
			}
		})
	}
}

// TestConsulInventedTokens: whoever brings token after token that Consul has to be asked about keeps neither authorizations of others from being
// answered nor the control plane from hearing of changes.
func TestConsulInventedTokens(t *testing.T) {
	needRoot(t)
	const lasting = 7500 * time.Millisecond
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c, Prober: true})
	c.Register(map[string]any{"Name": "web", "Port": 80})
	c.Register(map[string]any{"Name": "api", "Port": 81, "Connect": map[string]any{"Native": true}})
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "node").Stdout)
	_, own := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	_, token := c.ServiceToken("api")
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "serve"), own), "--log-level", "info")
	m.Serve()
	socket, program, serve := filepath.Join(m.Runtime, "http.sock"), copyTestBinary(t), m.ServeProcess()
	ask := bystander{socket: socket, token: token, question: fmt.Sprintf(`{"Target":"api","ClientCertURI":%q}`, m.URI("web"))}
	meshtest.Await(t, "authorize is answered", func() error {
		if a := ask.during(t, time.Millisecond); a.failed > 0 {
			return errors.New(a.why)
		}
		return nil
	})
	peak := watchMemory(serve.PID())
	logged := len(serve.Log())
	ended := startAPIFlood(t, program, flood{Kind: "invented", Network: "unix", Addr: socket, Time: lasting, Proxy: m.URI("web")}, 65534)
	time.Sleep(time.Second)
	a := ask.during(t, 6*time.Second) // longer than a verdict lasts
	c.Intend("api", meshtest.Intentions{"web": "allow"})
	arrived := meshtest.Await(t, "the intention in authorize", func() error {
		if !ask.verdict(t) {
			return errors.New("denied")
		}
		return nil
	})
	got := <-ended
	bytes := peak()
	figure(t, "got=%v %s change_s=%.2f peak_MiB=%d logged_KiB=%d", got, a, arrived.Seconds(), bytes>>20, (len(serve.Log())-logged)>>10)
	if a.failed > 0 {
		t.Errorf("%d of %d authorizations failed: %s", a.failed, a.n, a.why)
	}
	if bound := max(20*a.control, time.Second); a.p99 > bound || arrived > 5*time.Second {
		t.Errorf("authorizations have a p99 of %v, want %v; a change arrived after %v", a.p99, bound, arrived)
	}
	if n := len(serve.Log()) - logged; n > 64<<10 || bytes > 256<<20 {
		t.Errorf("%d KiB were logged, %d MiB taken", n>>10, bytes>>20)
	}
	nothingInSight(t, m, own, token)
}

// mayBeAsked are the few questions of this test that are on the list.
func mayBeAsked(q *http.Request) bool {
	for _, prefix := range []string{"/v1/catalog/service/", "/v1/agent/service/register", "/v1/catalog/services", "/v1/internal/acl/authorize", "/v1/agent/self", "/v1/agent/service/", "/v1/query/", "/v1/config/", "/v1/discovery-chain/"} {
		if strings.HasPrefix(q.URL.Path, prefix) {
			return true
		}
	}
	return false
}
