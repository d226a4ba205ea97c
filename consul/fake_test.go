package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a scripted Consul agent, reached over pipes, so that it lives inside a synctest bubble.
type fake struct {
	t      testing.TB
	server *http.Server
	conns  chan net.Conn

	mu       sync.Mutex
	down     bool
	index    uint64
	answers  map[string]*scripted // by path and, for intentions, the name, or the datacenter if one is asked for
	hooks    map[string]func(http.ResponseWriter, *http.Request) bool
	open     map[net.Conn]bool
	requests []asked
	changed  chan struct{}
	waiting  int
	most     int
	dials    int
}

type scripted struct {
	body   []byte
	index  uint64
	header map[string]string
	status int
}

// asked is a request that the fake got.
type asked struct {
	at          time.Duration
	path, token string
	index       uint64
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{
		t: t, conns: make(chan net.Conn), index: 10, answers: map[string]*scripted{}, open: map[net.Conn]bool{},
		hooks: map[string]func(http.ResponseWriter, *http.Request) bool{}, changed: make(chan struct{}),
	}
	f.server = &http.Server{Handler: f, ConnState: func(c net.Conn, s http.ConnState) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if s == http.StateClosed {
			delete(f.open, c)
		} else {
			f.open[c] = true
		}
	}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() { _ = f.server.Serve(f) }()
	t.Cleanup(func() { _ = f.server.Close() })
	return f
}

// Accept, Close and Addr make the fake its own listener.
func (f *fake) Accept() (net.Conn, error) {
	c, ok := <-f.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.down {
		f.down = true
	}
	close(f.conns)
	return nil
}

func (f *fake) Addr() net.Addr { return &net.UnixAddr{Name: "fake"} }

func (f *fake) transport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		f.mu.Lock()
		down := f.down
		f.dials++
		f.mu.Unlock()
		if down {
			return nil, errors.New("connection refused")
		}
		ours, theirs := net.Pipe()
		select {
		case f.conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
}

// kill takes the agent away; revive brings it back.
func (f *fake) kill() {
	f.mu.Lock()
	f.down = true
	var all []net.Conn
	for c := range f.open {
		all = append(all, c)
	}
	f.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

func (f *fake) revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// set scripts the answer to a path.
func (f *fake) set(path string, value any) { f.script(path, value, nil) }

func (f *fake) script(path string, value any, header map[string]string) {
	body, ok := value.([]byte)
	if !ok {
		var err error
		if body, err = json.Marshal(value); err != nil {
			f.t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	f.answers[path] = &scripted{body: body, index: f.index, header: header, status: http.StatusOK}
	close(f.changed)
	f.changed = make(chan struct{})
}

// file scripts the answer to a path from testdata.
func (f *fake) file(path, name string) {
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		f.t.Fatal(err)
	}
	f.set(path, b)
}

// refuse makes a path answer with a status.
func (f *fake) refuse(path string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	f.answers[path] = &scripted{status: code, body: []byte(http.StatusText(code)), index: f.index}
	close(f.changed)
	f.changed = make(chan struct{})
}

// hook lets a function answer a path; if it returns false the script does.
func (f *fake) hook(path string, h func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks[path] = h
}

// key is what the answer is scripted by: the path, a name or a datacenter, and what else is asked for.
func key(r *http.Request) string {
	key, q := r.URL.Path, r.URL.Query()
	if v := cmp.Or(q.Get("name"), q.Get("dc"), q.Get("compile-dc")); v != "" {
		key += "?" + v
	}
	if v := q.Get("filter"); v != "" && strings.HasPrefix(key, "/v1/health/") {
		key += "&" + v
	}
	if v := r.Header.Get(protocolHeader); v != "" {
		key += "&" + v
	}
	return key
}

// protocolHeader is where the fake notes which protocol the body of a question names.
const protocolHeader = "X-Override-Protocol"

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	r.Header.Del(protocolHeader)
	if strings.HasPrefix(r.URL.Path, "/v1/discovery-chain/") && r.Method == http.MethodPost {
		var body struct{ OverrideProtocol string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			f.t.Error(err)
		}
		r.Header.Set(protocolHeader, body.OverrideProtocol)
	}
	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, err := time.ParseDuration(q.Get("wait"))
	if q.Get("index") != "" && (err != nil || wait > 10*time.Minute || index == 0) {
		f.t.Errorf("%s: index %q and wait %q", r.URL, q.Get("index"), q.Get("wait"))
	}
	f.mu.Lock()
	f.requests = append(f.requests, asked{time.Since(start), key(r), r.Header.Get("X-Consul-Token"), index})
	hook := f.hooks[key(r)]
	f.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		s, changed := f.answers[key(r)], f.changed
		f.mu.Unlock()
		if s == nil {
			s = &scripted{status: http.StatusNotFound, index: 1, body: []byte("not scripted")}
		}
		if index == 0 || s.index > index || s.status == http.StatusForbidden {
			f.answer(w, s)
			return
		}
		f.count(1)
		select {
		case <-changed:
		case <-timeout.C:
			f.count(-1)
			f.answer(w, s)
			return
		case <-r.Context().Done():
			f.count(-1)
			return
		}
		f.count(-1)
	}
}

func (f *fake) count(d int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting += d
	f.most = max(f.most, f.waiting)
}

func (f *fake) answer(w http.ResponseWriter, s *scripted) {
	h := w.Header()
	h.Set("X-Consul-Index", strconv.FormatUint(s.index, 10))
	h.Set("X-Consul-Knownleader", "true")
	h.Set("X-Consul-Lastcontact", "0")
	h.Set("X-Consul-Default-Acl-Policy", "deny")
	for k, v := range s.header {
		if v == "" {
			h.Del(k)
		} else {
			h.Set(k, v)
		}
	}
	w.WriteHeader(s.status)
	_, _ = w.Write(s.body)
}

// all are the requests that came until now.
func (f *fake) all() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]asked(nil), f.requests...)
}

// counts are how many wait now, and how many did at most.
func (f *fake) counts() (waiting, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting, f.most
}

// of are the requests for a path.
func (f *fake) of(path string) []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []asked
	for _, a := range f.requests {
		if a.path == path {
			out = append(out, a)
		}
	}
	return out
}

// start is when a bubble's time begins.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// published is what an agent publishes.
type published struct {
	mu   sync.Mutex
	list []catalog.Contents
}

func (p *published) publish(c catalog.Contents) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, c)
}

// last is the newest contents; ok is false if there are none.
func (p *published) last() (catalog.Contents, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == 0 {
		return catalog.Contents{}, false
	}
	return p.list[len(p.list)-1], true
}

// must is the newest contents.
func (p *published) must(t testing.TB) catalog.Contents {
	t.Helper()
	c, ok := p.last()
	if !ok {
		t.Fatal("nothing is published")
	}
	return c
}

// every reports whether f holds of all that was published.
func (p *published) every(f func(catalog.Contents) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.list, func(c catalog.Contents) bool { return !f(c) })
}

// bubble runs f in a bubble with a fake agent and an Agent that reads it.
func bubble(t *testing.T, change func(*Config), f func(t *testing.T, f *fake, a *Agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fk := newFake(t)
		cfg := Config{Address: "fake:8500", Token: "own-token", transport: fk.transport()}
		if change != nil {
			change(&cfg)
		}
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f(t, fk, a)
		a.client.http.CloseIdleConnections()
	})
}

// running runs an Agent until the test ends, or stop is called.
func running(t *testing.T, a *Agent) (p *published, stop func()) {
	t.Helper()
	p = &published{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, p.publish) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return p, stop
}

// after lets time pass in a bubble.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// mesh scripts the agent of testdata: web with an upstream api, both on node n1.
func (f *fake) mesh() {
	f.file("/v1/agent/self", "self.json")
	f.set("/v1/catalog/datacenters", []string{"dc1"})
	f.set("/v1/agent/connect/ca/roots", testRoots(f.t, testAuthority(f.t)))
	f.file("/v1/config/proxy-defaults/global", "proxy-defaults.json")
	f.file("/v1/catalog/node-services/n1", "node-services.json")
	for _, s := range []string{"web", "api"} {
		f.file("/v1/discovery-chain/"+s, "chain-"+s+".json")
		f.file("/v1/health/connect/"+s, "health-"+s+".json")
		f.file("/v1/connect/intentions/match?"+s, "match-"+s+".json")
	}
}

func problems(a *Agent) string {
	var out []string
	for _, p := range a.Status().Problems {
		out = append(out, p.String())
	}
	return strings.Join(out, "\n")
}

func ids(c catalog.Contents) string {
	var out []string
	for _, p := range c.Proxies {
		s := []string{string(p.ID)}
		for _, u := range p.Upstreams {
			s = append(s, u.Name())
		}
		out = append(out, strings.Join(s, " "))
	}
	return strings.Join(out, ", ")
}

func endpointsOf(c catalog.Contents, name string) string {
	for _, e := range c.Endpoints {
		if (catalog.Upstream{Destination: e.Name, Datacenter: e.Datacenter}).Name() == name {
			return addresses(e.List)
		}
	}
	return "unknown"
}

func addresses(list []catalog.Endpoint) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s:%d/%d/%v", e.Address, e.Port, e.Weight, e.Healthy))
	}
	return strings.Join(out, " ")
}
