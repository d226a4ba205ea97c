package plugin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func listen(t testing.TB, path string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newCA(t testing.TB, cfg Config) *CA {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// request is for a key of its own.
func request(t testing.TB, isLeaf bool) ca.UpstreamRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := ca.UpstreamRequest{Leaf: isLeaf, ID: domain.ID(), TTL: time.Hour}
	if isLeaf {
		r.ID = spiffeid.RequireFromPath(domain, "/ns/default/dc/dc1/svc/web")
	}
	csr, err := newRequest(key, kindOf(isLeaf), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.CSR = csr.Raw
	return r
}

func TestSign(t *testing.T) {
	t.Parallel()
	for fault, tt := range map[string]struct {
		kind error // nil: signed
		want string
	}{
		"":                  {nil, ""},
		"root in the chain": {nil, ""}, // is left out
		"one life":          {ca.ErrInvalid, "no longer than ttl_seconds"},
		"no CA":             {ca.ErrInvalid, "asked for a intermediate"},
		"another key":       {ca.ErrInvalid, "for the key of the request"},
		"junk in the chain": {ca.ErrInvalid, "not a certificate in PEM"},
		"key in the chain":  {errPrivateKey, "take it for known"},
		"key in describe":   {errPrivateKey, "take it for known"},
		"key in a refusal":  {errPrivateKey, "take it for known"},
		"no chain":          {ca.ErrInvalid, "no certificate"},
		"no version":        {ca.ErrInvalid, "version 0"},
		"no kinds":          {ca.ErrInvalid, "signs is"},
		"many at once":      {ca.ErrInvalid, "concurrency is 1000"},
		"says denied":       {ca.ErrDenied, `"because"`},
		"says invalid":      {ca.ErrInvalid, `"because"`},
		"says unavailable":  {ca.ErrUnavailable, `"because"`},
		"says pending":      {ca.ErrPending, `"because"`},
		"says maybe":        {ca.ErrInvalid, `"maybe"`},
		"redirect":          {ca.ErrInvalid, "it leads elsewhere (307)"},
		"status 500":        {ca.ErrUnavailable, "answered 500"},
		"status 403":        {ca.ErrDenied, "answered 403"},
		"no JSON":           {ca.ErrInvalid, "not one JSON object"},
		"more than JSON":    {ca.ErrInvalid, "something follows"},
		"large":             {ca.ErrInvalid, "more than 1048576 bytes"},
	} {
		t.Run("fault "+fault, func(t *testing.T) {
			t.Parallel()
			r := newReference(t, fault)
			cfg := r.serve(t)
			registry := prometheus.NewRegistry()
			var err error
			if cfg.Metrics, err = NewMetrics(registry); err != nil {
				t.Fatal(err)
			}
			c := newCA(t, cfg)
			chain, err := c.Sign(t.Context(), request(t, false))
			if !errors.Is(err, tt.kind) || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %v: %q", err, tt.kind, tt.want)
			}
			if tt.kind == nil && len(chain) != 1 {
				t.Errorf("a chain of %d", len(chain))
			}
			if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("what is secret is in the error: %v", err)
			}
			if n := testutil.ToFloat64(cfg.Metrics.questions.WithLabelValues("test", "private_key")); (n == 1) != errors.Is(err, errPrivateKey) {
				t.Errorf("%v private keys are counted", n)
			}
		})
	}
}

// TestQuestion is what a plug-in gets.
func TestQuestion(t *testing.T) {
	r := newReference(t, "")
	cfg := r.serve(t)
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(cfg.TokenFile, []byte("the-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCA(t, cfg)
	req := request(t, true)
	for range 2 {
		if _, err := c.Sign(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.asked) != 3 || r.asked[0].Op != opDescribe {
		t.Fatalf("asked %v, want describe once and sign twice", r.asked)
	}
	q := r.asked[1]
	if q != r.asked[2] || len(q.ID) != 64 {
		t.Errorf("the same was asked as\n%v\n%v", q, r.asked[2])
	}
	if q.Kind != "leaf" || q.URI != req.ID.String() || q.TrustDomain != "mesh.example" || q.TTLSeconds != 3600 || q.SkewSeconds != 60 {
		t.Errorf("asked %+v", q)
	}
	if h := r.headers[1]; h.Get("Authorization") != "Bearer the-token" || h.Get("Idempotency-Key") != q.ID || h.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", h)
	}
	if _, err := c.Sign(t.Context(), request(t, true)); err != nil || r.asked[3].ID == q.ID {
		t.Errorf("%v: another key has the ID %s too", err, q.ID)
	}
	if err := os.WriteFile(cfg.TokenFile, []byte("two words"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), req); !errors.Is(err, ca.ErrDenied) || strings.Contains(err.Error(), "two words") {
		t.Errorf("a token of two words: %v", err)
	}
}

// TestPending: the same question is not put before it is time, others are.
func TestPending(t *testing.T) {
	r := newReference(t, "pending")
	c := newCA(t, r.serve(t))
	req := request(t, false)
	for range 3 {
		if _, err := c.Sign(t.Context(), req); !errors.Is(err, ca.ErrPending) || !errors.Is(err, ca.ErrUnavailable) {
			t.Fatalf("%v, want that it is pending", err)
		}
	}
	if len(r.asked) != 2 {
		t.Errorf("asked %d times, want describe and sign", len(r.asked))
	}
	if _, err := c.Sign(t.Context(), request(t, false)); !errors.Is(err, ca.ErrPending) || len(r.asked) != 3 {
		t.Errorf("another request: %v, asked %d times", err, len(r.asked))
	}
	time.Sleep(1100 * time.Millisecond)
	if _, err := c.Sign(t.Context(), req); err != nil {
		t.Errorf("when it was approved: %v", err)
	}
}

// TestRetryAfter: one that wants to be left alone is.
func TestRetryAfter(t *testing.T) {
	r := newReference(t, "says unavailable")
	c := newCA(t, r.serve(t))
	for range 3 {
		if _, err := c.Sign(t.Context(), request(t, false)); !errors.Is(err, ca.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if len(r.asked) != 2 {
		t.Errorf("asked %d times, want describe and sign", len(r.asked))
	}
}

func TestWatchRoots(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]int{"": 1, "expired root": 1, "distrust": 1} {
		r := newReference(t, fault)
		c := newCA(t, r.serve(t))
		got := make(chan []*x509.Certificate, 1)
		go func() { _ = c.WatchRoots(t.Context(), func(l []*x509.Certificate) { got <- l }) }()
		if roots := <-got; len(roots) != want || !roots[0].Equal(r.root.Cert) {
			t.Errorf("%q: %d roots", fault, len(roots))
		}
		distrusted, _ := c.Distrusted().Load()
		if fault == "distrust" && (len(distrusted) != 1 || hexOf(distrusted[0]) != fingerprint(r.other.Cert)) {
			t.Errorf("%x is distrusted", distrusted)
		}
	}
	for _, fault := range []string{"no roots", "intermediate among the roots", "distrust of a listed root", "junk in distrust", "no JSON", "key in describe"} {
		r := newReference(t, fault)
		if roots, _, err := newCA(t, r.serve(t)).roots(t.Context()); !errors.Is(err, ca.ErrInvalid) {
			t.Errorf("%s: %d roots, %v, want that the answer is invalid", fault, len(roots), err)
		}
	}
}

// TestDescribedAgain: a plug-in that does not describe itself any more is not asked to before each other question, which it may keep waiting.
func TestDescribedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReference(t, "")
		c, err := New(Config{Name: "test", TrustDomain: domain, Command: []string{"true"}})
		if err != nil {
			t.Fatal(err)
		}
		described, away := 0, false
		c.ask = func(_ context.Context, q question) ([]byte, error) {
			if q.Op == opDescribe {
				if described++; away {
					return nil, ca.ErrUnavailable
				}
			}
			return json.Marshal(r.answers(q.marshal()))
		}
		for range 2 * 3600 / 10 {
			if _, _, err := c.roots(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			away = true
		}
		if described > 1+60 {
			t.Errorf("asked for its description %d times in two hours", described)
		}
		away = false
		time.Sleep(time.Minute)
		if _, _, err := c.roots(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d, _ := c.described.Load(); time.Since(d.since) > 0 {
			t.Errorf("described %s ago", time.Since(d.since))
		}
	})
}

func TestNew(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"give either":          func(c *Config) { c.Command = nil },
		"give either a":        func(c *Config) { c.Server.URL = "https://x" },
		"no trust domain":      func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"absolute path":        func(c *Config) { c.Command = []string{"./x"} },
		`program ""`:           func(c *Config) { c.Command = []string{""} },
		"is not NAME=VALUE":    func(c *Config) { c.Env = []string{"SECRET"} },
		"clear text":           func(c *Config) { c.Command, c.Server.URL = nil, "http://x" },
		"write unix:///PATH":   func(c *Config) { c.Command, c.Server.URL = nil, "unix://x" },
		"query or a fragment:": func(c *Config) { c.Command, c.Server.URL = nil, "https://x/y?z" },
	} {
		cfg := Config{Name: "test", TrustDomain: domain, Command: []string{"true"}}
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestPath: the path of a URL is asked.
func TestPath(t *testing.T) {
	for url, want := range map[string]string{"https://x": "/", "https://x/": "/", "https://x/a/b": "/a/b", "unix:///run/x": "/"} {
		s, err := newServer(Config{Name: "test", Server: remote.Config{URL: url}})
		if err != nil || s.path != want {
			t.Errorf("%s: %v, %q, want %q", url, err, s.path, want)
		}
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	results := map[string]bool{}
	n := 0
	if err := Conform(t.Context(), newReference(t, "").serve(t), func(c Check) {
		n++
		if c.Err != nil {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
		if results[c.Name] {
			t.Errorf("%s: twice", c.Name)
		}
		results[c.Name] = true
	}); err != nil || n < 26 {
		t.Errorf("%d checks, %v", n, err)
	}
}

// TestConformanceFinds: each fault is found, by the check that is for it.
func TestConformanceFinds(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		"no version":                   "describe says version 1",
		"no kinds":                     "describe says which kinds it signs",
		"another kind":                 "describe says no other kinds",
		"many at once":                 "describe says a concurrency of 1 to 64, or none",
		"short max_ttl":                "describe says max_ttl_seconds of 5 minutes or more, or none",
		"key in describe":              "describe is answered with one JSON object, without a private key",
		"no JSON":                      "describe is answered with one JSON object, without a private key",
		"more than JSON":               "describe is answered with one JSON object, without a private key",
		"large":                        "describe is answered with one JSON object, without a private key",
		"redirect":                     "describe is answered with one JSON object, without a private key",
		"strict":                       "fields that are not known are ignored",
		"expired root":                 "each root is valid, once there, and one that proxies take",
		"no roots":                     "roots are certificates in PEM",
		"intermediate among the roots": "each root is self-signed and a CA's",
		"distrust of a listed root":    "distrust are SHA-256 in hexadecimal, of no root that is listed",
		"junk in distrust":             "distrust are SHA-256 in hexadecimal, of no root that is listed",
		"refresh of a second":          "refresh_seconds is 10 to 3600, or not said",
		"another root":                 "intermediate: proxies accept it under the roots",
		"another CA":                   "leaf: proxies accept it under the roots",
		"no CA":                        "intermediate: proxies accept it under the roots",
		"no keyCertSign":               "intermediate: proxies accept it under the roots",
		"another key":                  "leaf: the first certificate is for the key of the request",
		"something in the chain":       "leaf: the chain is in order, and nothing else is in it",
		"root in the chain":            "intermediate: the root is not in the chain",
		"key in the chain":             "leaf: sign is answered with certificates, without a private key",
		"junk in the chain":            "leaf: sign is answered with certificates, without a private key",
		"no chain":                     "leaf: sign is answered with certificates, without a private key",
		"two URIs":                     "leaf: the URI SAN is as asked for",
		"a DNS name":                   "intermediate: the URI SAN is as asked for",
		"longer life":                  "leaf: it lives no longer than asked for",
		"one life":                     "leaf: a life of 10 minutes is obeyed",
		"not yet valid":                "leaf: it has begun",
		"one serial number":            "leaf: serial numbers differ",
		"once":                         "leaf: the same id is answered again",
		"one at a time":                "leaf: as many at once as describe says are signed",
		"no subject":                   "intermediate: it has a subject, and that of no other",
		"the root's name":              "intermediate: it has a subject, and that of no other",
		"any version":                  "another version is refused with unsupported_version, and versions",
		"any op":                       "an unknown question is refused with unsupported_op",
		"any request":                  "a request that cannot be read is refused with invalid",
		"any signature":                "a request that its key has not signed is refused with invalid",
		"any kind":                     "a kind that it does not sign is refused with invalid or denied",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			var failed []string
			if err := Conform(t.Context(), newReference(t, fault).serve(t), func(c Check) {
				if c.Err != nil && !c.Skipped {
					failed = append(failed, c.Name)
					if c.Mend == "" {
						t.Errorf("%s: nothing says how to mend it", c.Name)
					}
				}
			}); err != nil || !slices.Contains(failed, want) {
				t.Errorf("%v: found %q, want %q", err, failed, want)
			}
		})
	}
}
