// Package apitest is an API like Consul's, in the test's own process: roots, leafs, judgements,
// instances and intentions that the test writes.
package apitest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Domain is the trust domain of the mesh, and Datacenter its datacenter.
const (
	Domain     = "11111111-2222-3333-4444-555555555555.consul"
	Datacenter = "dc1"
)

// ID is the SPIFFE ID of a service of the mesh.
func ID(service string) string {
	return "spiffe://" + Domain + "/ns/default/dc/" + Datacenter + "/svc/" + service
}

// API is an http.Handler. Its methods may be called at any time.
type API struct {
	t TB

	mu        sync.Mutex
	index     uint64
	changed   chan struct{} // closed at each change
	signer    *Authority
	roots     []*Authority
	leafs     map[string]Leaf
	denied    map[string]bool // "web>api"
	instances map[string][]any
	indexes   map[string]uint64 // by path
	asked     map[string]int
	token     string
	answer    http.HandlerFunc
}

// New makes an API whose CA signs by an intermediate.
func New(t TB) *API {
	t.Helper()
	root := NewRoot(t)
	return &API{
		t: t, index: 10, changed: make(chan struct{}), roots: []*Authority{root}, signer: root.Intermediate(),
		leafs: map[string]Leaf{}, denied: map[string]bool{}, instances: map[string][]any{}, indexes: map[string]uint64{}, asked: map[string]int{},
	}
}

// Serve serves a until the test ends, and returns its address.
func (a *API) Serve() string {
	s := httptest.NewServer(a)
	a.t.Cleanup(func() {
		s.CloseClientConnections() // watches wait
		s.Close()
	})
	return s.URL
}

// ServeUnix does so on a Unix socket.
func (a *API) ServeUnix() string {
	a.t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	var listen net.ListenConfig
	l, err := listen.Listen(context.Background(), "unix", path)
	if err != nil {
		a.t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}}
	s.Start()
	a.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return "unix://" + path
}

// change does something to a, and wakes whoever waits for one of the paths.
func (a *API) change(do func(), paths ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
	a.index++
	for _, p := range paths {
		a.indexes[p] = a.index
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

const (
	rootsPath     = "/v1/agent/connect/ca/roots"
	leafPath      = "/v1/agent/connect/ca/leaf/"
	authorizePath = "/v1/agent/connect/authorize"
	healthPath    = "/v1/health/connect/"
	matchPath     = "/v1/connect/intentions/match"
)

// Rotate gives the mesh another root, beside the ones that it has. Leafs follow with Renew.
func (a *API) Rotate() {
	root := NewRoot(a.t)
	signer := root.Intermediate()
	a.change(func() {
		a.roots = append(a.roots, root)
		a.signer = signer
	}, rootsPath)
}

// Renew signs all leafs anew.
func (a *API) Renew() {
	a.change(func() {
		for s := range a.leafs {
			a.leafs[s] = a.signer.Leaf(ID(s), nil)
		}
	}, a.leafPaths()...)
}

func (a *API) leafPaths() (paths []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.leafs {
		paths = append(paths, leafPath+s)
	}
	return paths
}

// Forget takes all roots but the newest away.
func (a *API) Forget() {
	a.change(func() { a.roots = a.roots[len(a.roots)-1:] }, rootsPath)
}

// SetLeaf gives a service that certificate.
func (a *API) SetLeaf(service string, l Leaf) {
	a.change(func() { a.leafs[service] = l }, leafPath+service)
}

// Signer is what leafs are signed with.
func (a *API) Signer() *Authority {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signer
}

// Deny denies a source, and Allow allows it again. All are allowed at first.
func (a *API) Deny(source, destination string) {
	a.change(func() { a.denied[source+">"+destination] = true }, matchPath)
}

// Allow takes a denial back.
func (a *API) Allow(source, destination string) {
	a.change(func() { delete(a.denied, source+">"+destination) }, matchPath)
}

// Register says where native instances of a service are: host:port.
func (a *API) Register(service string, addresses ...string) {
	a.RegisterIn(Datacenter, service, addresses...)
}

// RegisterIn does so for a datacenter.
func (a *API) RegisterIn(datacenter, service string, addresses ...string) {
	entries := []any{}
	for i, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			a.t.Error(err)
			return
		}
		p, _ := strconv.Atoi(port)
		entries = append(entries, map[string]any{
			"Node":    map[string]any{"Node": "node", "Address": "192.0.2.1", "Datacenter": datacenter},
			"Service": map[string]any{"ID": fmt.Sprintf("%s-%d", service, i), "Service": service, "Address": host, "Port": p, "Connect": map[string]any{"Native": true}, "Proxy": map[string]any{}},
		})
	}
	a.change(func() { a.instances[datacenter+"/"+strings.ToLower(service)] = entries }, healthPath+service)
}

// RequireToken has all be refused that come without that token.
func (a *API) RequireToken(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

// Answer has requests be answered by h; nil: as usual. Requests that wait are ended.
func (a *API) Answer(h http.HandlerFunc) { a.change(func() { a.answer = h }) }

// Down has requests be ended without an answer, and Up as usual.
func (a *API) Down() {
	a.Answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// Up ends Down.
func (a *API) Up() { a.Answer(nil) }

// Asked is how often a path that begins like that was asked for.
func (a *API) Asked(prefix string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, k := range a.asked {
		if strings.HasPrefix(p, prefix) {
			n += k
		}
	}
	return n
}

// ServeHTTP answers as Consul does.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked[r.URL.Path]++
	token := a.token
	a.mu.Unlock()
	if token != "" && r.Header.Get("X-Consul-Token") != token {
		http.Error(w, "ACL not found", http.StatusForbidden)
		return
	}
	index, err := strconv.ParseUint(cmp.Or(r.URL.Query().Get("index"), "0"), 10, 64)
	if err != nil {
		http.Error(w, "Invalid index", http.StatusBadRequest)
		return
	}
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	timeout := time.NewTimer(cmp.Or(wait, 5*time.Minute))
	defer timeout.Stop()
	for {
		a.mu.Lock()
		answer, changed := a.answer, a.changed
		now := max(a.indexes[r.URL.Path], 10)
		a.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		if r.Method == http.MethodPost || index == 0 || now > index {
			a.respond(w, r, now)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			a.respond(w, r, now)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (a *API) respond(w http.ResponseWriter, r *http.Request, index uint64) {
	var out any
	a.mu.Lock()
	defer a.mu.Unlock()
	switch path := r.URL.Path; {
	case path == rootsPath:
		var roots []any
		for _, x := range a.roots {
			roots = append(roots, map[string]any{"RootCert": PEM(x.Cert), "IntermediateCerts": nil, "Active": x == a.roots[len(a.roots)-1]})
		}
		out = map[string]any{"TrustDomain": Domain, "Roots": roots}
	case strings.HasPrefix(path, leafPath):
		service := path[len(leafPath):]
		if _, ok := a.leafs[service]; !ok {
			a.leafs[service] = a.signer.Leaf(ID(service), nil)
		}
		out = a.leafs[service]
	case path == authorizePath && r.Method == http.MethodPost:
		var q struct{ Target, ClientCertURI, ClientCertSerial string }
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil || q.Target == "" || q.ClientCertSerial == "" {
			http.Error(w, "Request decode failed", http.StatusBadRequest)
			return
		}
		source := q.ClientCertURI[strings.LastIndex(q.ClientCertURI, "/")+1:]
		allowed := !a.denied[source+">"+q.Target]
		out = map[string]any{"Authorized": allowed, "Reason": fmt.Sprintf("%s to %s: %t", source, q.Target, allowed)}
	case strings.HasPrefix(path, healthPath):
		out = []any{}
		if e := a.instances[cmp.Or(r.URL.Query().Get("dc"), Datacenter)+"/"+strings.ToLower(path[len(healthPath):])]; e != nil {
			out = e
		}
	case path == matchPath && r.URL.Query().Get("by") == "destination":
		name := r.URL.Query().Get("name")
		var denied []string
		for k := range a.denied {
			if strings.HasSuffix(k, ">"+name) {
				denied = append(denied, k)
			}
		}
		slices.Sort(denied)
		out = map[string]any{name: denied}
	default:
		http.Error(w, "Invalid URL path: not a recognized HTTP API endpoint", http.StatusNotFound)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		panic(http.ErrAbortHandler)
	}
}
