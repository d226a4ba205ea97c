package bundle_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mesh is a Store over a directory.
type mesh struct {
	dir, data string
	*bundle.Store
}

func own() (spiffeid.TrustDomain, bool) {
	return spiffeid.RequireTrustDomainFromString("td-a.example"), true
}

// open opens a Store over m's directories, with files in the first.
func open(t *testing.T, m mesh, files map[string]string) mesh {
	t.Helper()
	if m.dir == "" {
		m.dir, m.data = t.TempDir(), filepath.Join(t.TempDir(), "trust-domains")
	}
	for name, text := range files {
		write(t, filepath.Join(m.dir, name), text)
	}
	var err error
	if m.Store, err = bundle.Open(bundle.Config{Dir: m.dir, Data: m.data, Own: own, Registerer: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	return m
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs m until the test or stop ends it.
func run(t *testing.T, m mesh) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// await waits until ok of the Set is true.
func await(t *testing.T, m mesh, what string, ok func(*bundle.Set) bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		changed := m.Sets().Changed()
		if set, _ := m.Sets().Load(); ok(set) {
			return
		}
		select {
		case <-changed:
		case <-late:
			domains, problems := m.Status()
			t.Fatalf("%s: not so within 20 s: %+v %v", what, domains, problems)
		}
	}
}

// status is that of td-b.example.
func status(t *testing.T, m mesh) bundle.Status {
	t.Helper()
	domains, problems := m.Status()
	if len(domains) != 1 || len(problems) > 0 {
		t.Fatalf("%+v, %v", domains, problems)
	}
	return domains[0]
}

func pemOf(set *bundle.Set) string {
	if b := set.Of(tdB); b != nil {
		return b.Roots.PEM()
	}
	return ""
}

func TestFiles(t *testing.T) {
	a := root(t, "td-b.example")
	m := open(t, mesh{}, map[string]string{
		"b.yaml": "trust_domain: td-b.example\nbundle: b.json\n", "b.json": string(document(t, 1, a)),
		"own.yaml":  "trust_domain: td-a.example\nbundle: b.json\n",
		"bad.yml":   "trust_domain: td-c.example\nbundel: b.json\n",
		"twice.yml": "trust_domain: td-b.example\nbundle: c.json\n",
		"note.txt":  "no definition",
	})
	first, _ := m.Sets().Load()
	if pemOf(first) != a.PEM() || len(first.All()) != 1 {
		t.Fatalf("%v", first.All())
	}
	_, problems := m.Status()
	for i, want := range []string{"bad.yml:2: key bundel", "own.yaml: td-a.example is the mesh's own", "twice.yml: td-b.example is in"} {
		if len(problems) != 3 || !strings.Contains(problems[i], want) {
			t.Errorf("%v, want %q", problems, want)
		}
	}
	for _, name := range []string{"own.yaml", "bad.yml", "twice.yml"} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, m)
	m.Reload()
	// Nothing changes while nothing is said, nor by the rest of these.
	b := root(t, "td-b.example")
	write(t, filepath.Join(m.dir, "b.json"), string(document(t, 2, b, a)))
	m.Reload()
	await(t, m, "two roots", func(s *bundle.Set) bool { return s.Of(tdB) != nil && len(s.Of(tdB).Roots.List()) == 2 })
	held, _ := m.Sets().Load()
	for name, text := range map[string]string{"b.json": `{"keys":[]}`, "b.yaml": "trust_domain: td-b.example\nbundel: x\n"} {
		old, err := os.ReadFile(filepath.Join(m.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(m.dir, name), text)
		m.Reload()
		awaitProblem(t, m, name)
		if now, _ := m.Sets().Load(); now != held {
			t.Errorf("after a mistake in %s another Set", name)
		}
		write(t, filepath.Join(m.dir, name), string(old))
		m.Reload()
		awaitProblem(t, m, "")
	}
	write(t, filepath.Join(m.dir, "b.json"), a.PEM())
	m.Reload()
	await(t, m, "PEM", func(s *bundle.Set) bool { return pemOf(s) == a.PEM() })
	// A link to nothing is no file that is gone: what it leads to may come back.
	held, _ = m.Sets().Load()
	if err := errors.Join(os.Rename(filepath.Join(m.dir, "b.yaml"), filepath.Join(m.dir, "b.away")), os.Symlink("b.link", filepath.Join(m.dir, "b.yaml"))); err != nil {
		t.Fatal(err)
	}
	m.Reload()
	awaitProblem(t, m, "b.yaml: no such file")
	if now, _ := m.Sets().Load(); now != held {
		t.Error("what a link led to is forgotten")
	}
	if err := os.Remove(filepath.Join(m.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	m.Reload()
	await(t, m, "none", func(s *bundle.Set) bool { return len(s.All()) == 0 })
}

// awaitProblem waits until there is a problem that has text, or for none if text is empty.
func awaitProblem(t *testing.T, m mesh, text string) {
	t.Helper()
	var all string
	for range 2000 {
		domains, problems := m.Status()
		for _, d := range domains {
			if d.Problem != "" {
				problems = append(problems, d.Problem)
			}
		}
		all = strings.Join(problems, "\n")
		if text == "" && all == "" || text != "" && strings.Contains(all, text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%q, want %q", all, text)
}

func TestManyDomains(t *testing.T) {
	files := map[string]string{}
	for i := range bundle.MaxDomains + 3 {
		files[fmt.Sprintf("%03d.yaml", i)] = fmt.Sprintf("trust_domain: td-%d.example\nbundle: b.pem\n", i)
	}
	files["b.pem"] = testca.Sign(t, caTemplate(), nil).PEM()
	m := open(t, mesh{}, files)
	set, _ := m.Sets().Load()
	if _, problems := m.Status(); len(problems) != 3 || len(set.All()) != bundle.MaxDomains {
		t.Errorf("%d bundles, %v", len(set.All()), problems)
	}
}

// server is a bundle endpoint of https_web on loopback.
type server struct {
	*httptest.Server
	ca      *testca.Pair
	handler atomic.Pointer[http.HandlerFunc]
}

func serve(t *testing.T, h http.HandlerFunc) *server {
	t.Helper()
	s := &server{ca: testca.Sign(t, caTemplate(), nil)}
	s.handler.Store(&h)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load())(w, r) }))
	pair := testca.Sign(t, serverTemplate(), s.ca)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{pair.Cert.Raw}, PrivateKey: pair.Key}}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func says(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }
}

func (s *server) files(more string) map[string]string {
	return map[string]string{
		"ca.pem": s.ca.PEM(),
		"b.yaml": "trust_domain: td-b.example\nendpoint:\n  url: " + s.URL + "/bundle\n  profile: https_web\n  ca_file: ca.pem\n" + more,
	}
}

// TestHostileEndpoint: of whatever an endpoint says that is no good bundle, nothing is believed, the last good one holds, and the
// status says what is wrong.
func TestHostileEndpoint(t *testing.T) {
	t.Parallel()
	a := root(t, "td-b.example")
	clear := httptest.NewServer(says(document(t, 9, root(t, "td-b.example"))))
	t.Cleanup(clear.Close)
	for name, tt := range map[string]struct {
		h       http.HandlerFunc
		want    string
		outcome string
	}{
		"redirected to http":   {http.RedirectHandler(clear.URL, http.StatusFound).ServeHTTP, "which is not https and a host alone", "invalid"},
		"redirected for ever":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }, "leads elsewhere more than", "invalid"},
		"500 with a good body": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = w.Write(document(t, 9, a)) }, "answered 500", "unavailable"},
		"404":                  {http.NotFound, "answered 404", "denied"},
		"201":                  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); _, _ = w.Write(document(t, 9, a)) }, "answered 201", "invalid"},
		"no keys":              {says([]byte(`{"keys":[]}`)), "no certificate is in it", "invalid"},
		"a leaf as root":       {says(document(t, 9, leaf(t, "spiffe://td-b.example/x", a))), "is not a CA's", "invalid"},
		"64 MB": {func(w http.ResponseWriter, _ *http.Request) {
			for range 64 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "more than 1048576 bytes", "invalid"},
		"sequence back":          {says(document(t, 4, root(t, "td-b.example"))), "went back from 5 to 4", "refused"},
		"no sequence":            {says(document(t, -1, root(t, "td-b.example"))), "no sequence number any more", "refused"},
		"same sequence, another": {says(document(t, 5, root(t, "td-b.example"))), "another one under the same sequence number 5", "refused"},
		"wrong trust domain":     {says(document(t, 9, root(t, "td-c.example"))), "the bundle of another trust domain?", "invalid"},
		"expired":                {says(document(t, 9, root(t, "td-b.example", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)))), "none of its 1 certificates can be used now", "refused"},
		"an intermediate":        {says(document(t, 9, testca.Sign(t, caTemplate(), a))), "it is not self-signed", "refused"},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			_, _ = w.Write([]byte("{"))
		}, "broke off", "unavailable"},
		"PEM cut short": {says([]byte(a.PEM()[:100])), "neither a SPIFFE document", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, says(document(t, 5, a)))
			m := open(t, mesh{}, s.files(""))
			stop := run(t, m)
			await(t, m, "the good one", func(s *bundle.Set) bool { return pemOf(s) == a.PEM() })
			good, _ := m.Sets().Load()
			stop()
			s.handler.Store(&tt.h)
			m = open(t, m, nil) // asks at once
			kept, _ := m.Sets().Load()
			if pemOf(kept) != pemOf(good) {
				t.Fatal("the last good one was not kept")
			}
			run(t, m)
			awaitProblem(t, m, tt.want)
			if now, _ := m.Sets().Load(); now != kept {
				t.Error("another Set")
			}
			if d := status(t, m); d.Stale {
				t.Errorf("there is an alarm already: %+v", d)
			}
			if n := countedOf(t, m); n[tt.outcome] == 0 || n["taken"] != 0 {
				t.Errorf("%v, want %s", n, tt.outcome)
			}
		})
	}
}

// TestRedirected: to any other host, by https.
func TestRedirected(t *testing.T) {
	a := root(t, "td-b.example")
	there := serve(t, says(document(t, 5, a)))
	here := serve(t, http.RedirectHandler(there.URL+"/elsewhere", http.StatusFound).ServeHTTP)
	files := here.files("")
	files["ca.pem"] += there.ca.PEM()
	m := open(t, mesh{}, files)
	run(t, m)
	await(t, m, "redirected", func(s *bundle.Set) bool { return pemOf(s) == a.PEM() })
}

// countedOf is what became of the questions for td-b.example.
func countedOf(t *testing.T, m mesh) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(bundle.Collector(m.Store))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sallyport_trust_domain_fetches_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			out[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
		}
	}
	return out
}
