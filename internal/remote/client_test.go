package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/internal/testca"
)

func newCA(t *testing.T, name string) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
}

// newLeaf makes a certificate for 127.0.0.1 and localhost, for servers and clients.
func newLeaf(t *testing.T, ca *testca.Pair, name string) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost", "vault.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca)
}

func keyPEM(t *testing.T, p *testca.Pair) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// serve starts an https server with a leaf of ca and what config adds.
func serve(t *testing.T, ca *testca.Pair, h http.HandlerFunc, config *tls.Config) *httptest.Server {
	t.Helper()
	leaf := newLeaf(t, ca, "server")
	if config == nil {
		config = &tls.Config{}
	}
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}}
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = config, true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Name, cfg.Attempts = "Vault", max(cfg.Attempts, 1)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNew(t *testing.T) {
	for address, want := range map[string]string{
		"https://vault.example:8200":          "",
		"https://vault.example/prefix/":       "",
		"https://[::1]:8200":                  "",
		"unix:///run/ca.sock":                 "",
		"http://vault.example:8200":           "write https",
		"vault.example:8200":                  "the scheme",
		"ftp://x":                             "the scheme",
		"":                                    "the scheme",
		"https://":                            "no host",
		"https://user:hunter2@vault.example/": "user name",
		"https://vault.example/?x=1":          "query",
		"https://vault.example/#x":            "fragment",
		"unix://run/ca.sock":                  "absolute path",
		"unix:run/ca.sock":                    "absolute path",
		"unix:///" + strings.Repeat("x", 200): "bytes",
		"https://vault.example\n/":            "no URL",
	} {
		_, err := New(Config{Name: "Vault", URL: address})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the password is in %v", address, err)
		}
	}
	if _, err := New(Config{Name: "Vault", URL: "https://x", CertFile: "x"}); err == nil {
		t.Error("a certificate without a key is taken")
	}
}

func TestAsk(t *testing.T) {
	ca := newCA(t, "ca")
	s := serve(t, ca, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.URL, r.Header.Get("X-Vault-Token"), body, r.Proto)
	}, nil)
	reg := prometheus.NewRegistry()
	metrics, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Config{URL: s.URL + "/prefix/", CAFile: write(t, filepath.Join(t.TempDir(), "ca.pem"), ca.PEM()), Metrics: metrics})
	got, err := c.Ask(t.Context(), Question{Method: "POST", Path: "/v1/x?list=true", Header: http.Header{"X-Vault-Token": {"t"}}, Body: []byte("body")})
	if err != nil {
		t.Fatal(err)
	}
	if want := "POST /prefix/v1/x?list=true t body HTTP/1.1"; string(got.Body) != want {
		t.Errorf("%s, want %s", got.Body, want)
	}
	for _, path := range []string{"", "x", "@elsewhere.example/", ":80/"} {
		if _, err := c.Ask(t.Context(), Question{Path: path}); problem(t, err).Kind != Invalid {
			t.Errorf("path %q: %v", path, err)
		}
	}
	want := `
# HELP sallyport_remote_questions_total Questions to servers outside of the mesh, by what became of them: answered, unavailable, denied, invalid.
# TYPE sallyport_remote_questions_total counter
sallyport_remote_questions_total{outcome="answered",server="Vault"} 1
sallyport_remote_questions_total{outcome="denied",server="Vault"} 0
sallyport_remote_questions_total{outcome="invalid",server="Vault"} 4
sallyport_remote_questions_total{outcome="unavailable",server="Vault"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sallyport_remote_questions_total"); err != nil {
		t.Error(err)
	}
}

// TestMisbehaved: none of what servers do wrong is taken for an answer, and each error says what it was.
func TestMisbehaved(t *testing.T) {
	ca, dir := newCA(t, "ca"), t.TempDir()
	roots := write(t, filepath.Join(dir, "ca.pem"), ca.PEM())
	other := write(t, filepath.Join(dir, "other.pem"), newCA(t, "other").PEM())
	answer := func(h http.HandlerFunc) string { return serve(t, ca, h, nil).URL }
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }
	clear := httptest.NewServer(http.HandlerFunc(ok))
	t.Cleanup(clear.Close)
	down := httptest.NewServer(http.HandlerFunc(ok))
	down.Close()
	for name, tt := range map[string]struct {
		cfg  Config
		kind Kind
		want string
	}{
		"more than a MiB": {
			Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20+1)) })},
			Invalid, "more than 1048576 bytes",
		},
		"an error of more than a MiB": {
			Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(403)
				_, _ = w.Write(make([]byte, 1<<20+1))
			})},
			Invalid, "more than 1048576 bytes",
		},
		"half of an answer": {
			Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10")
				fmt.Fprint(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})},
			Unavailable, "broke off",
		},
		"a header of 100 KiB": {
			Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 100<<10)) })},
			Unavailable, "",
		},
		"control characters": {
			Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403); fmt.Fprint(w, "\x1b[2J\n") })},
			Denied, `answered 403 "\x1b[2J\n"`,
		},
		"TLS 1.1":             {Config{URL: serve(t, ca, ok, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).URL}, Unavailable, "version"},
		"another CA":          {Config{URL: answer(ok), CAFile: other, CAOption: "VAULT_CACERT"}, Denied, "VAULT_CACERT"},
		"another name":        {Config{URL: answer(ok), ServerName: "elsewhere.example"}, Denied, "the name"},
		"clear text":          {Config{URL: strings.Replace(clear.URL, "http:", "https:", 1)}, Invalid, "no TLS"},
		"nobody":              {Config{URL: strings.Replace(down.URL, "http:", "https:", 1)}, Unavailable, "is it running?"},
		"no socket":           {Config{URL: "unix://" + filepath.Join(dir, "none.sock")}, Unavailable, "is it running?"},
		"no such file":        {Config{URL: answer(ok), CAFile: filepath.Join(dir, "none"), CAOption: "VAULT_CACERT"}, Denied, "VAULT_CACERT: stat"},
		"no PEM":              {Config{URL: answer(ok), CAFile: write(t, filepath.Join(dir, "junk"), "junk")}, Denied, "no certificate in PEM"},
		"a directory":         {Config{URL: answer(ok), CAFile: dir}, Denied, "is no file"},
		"a client wanted":     {Config{URL: serve(t, ca, ok, &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}).URL}, Denied, "client certificate"},
		"nothing of its kind": {Config{URL: answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) })}, Invalid, "answered 302"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.cfg.CAFile == "" {
				tt.cfg.CAFile = roots
			}
			answer, err := newClient(t, tt.cfg).Ask(t.Context(), Question{Path: "/x"})
			if err == nil {
				t.Fatalf("taken: %d %.100q", answer.Status, answer.Body)
			}
			if e := problem(t, err); e.Kind != tt.kind || !strings.Contains(e.Error(), tt.want) || !strings.HasPrefix(e.Error(), "Vault at ") {
				t.Errorf("%s: %v, want %s: %q", e.Kind, err, tt.kind, tt.want)
			}
		})
	}
}

// TestRedirects: a question, and the token with it, goes nowhere but to hosts that were named, by https.
func TestRedirects(t *testing.T) {
	ca, dir := newCA(t, "ca"), t.TempDir()
	var seen []string
	elsewhere := serve(t, ca, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, fmt.Sprintf("%s %s %s %s", r.Method, r.URL, r.Header.Get("X-Vault-Token"), body))
	}, nil)
	clear := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen = append(seen, "clear text") }))
	t.Cleanup(clear.Close)
	var status int
	var location string
	s := serve(t, ca, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/here" {
			seen = append(seen, "here")
			return
		}
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	}, nil)
	host := func(u string) string { p, _ := url.Parse(u); return p.Host }
	for name, tt := range map[string]struct {
		status   int
		location string
		method   string
		allowed  []string
		want     []string // what was asked there
		err      string
	}{
		"to a host that was named": {307, elsewhere.URL + "/y?z", "POST", []string{host(elsewhere.URL)}, []string{"POST /y?z t body"}, ""},
		"by its name alone":        {308, elsewhere.URL + "/y", "POST", []string{"127.0.0.1"}, []string{"POST /y t body"}, ""},
		"GET by 302":               {302, elsewhere.URL + "/y", "GET", []string{"127.0.0.1"}, []string{"GET /y t body"}, ""},
		"POST by 302":              {302, elsewhere.URL + "/y", "POST", []string{"127.0.0.1"}, nil, "leads a POST elsewhere"},
		"on the same host":         {307, "/here", "POST", nil, []string{"here"}, ""},
		"to one that was not":      {307, elsewhere.URL + "/y", "POST", nil, nil, "nobody said that this host may be asked"},
		"to clear text":            {307, clear.URL, "GET", []string{"127.0.0.1"}, nil, "not https"},
		"to another scheme":        {307, "unix:///run/x.sock", "GET", []string{""}, nil, "not https"},
		"with a user":              {307, strings.Replace(elsewhere.URL, "//", "//u:secret@", 1), "GET", []string{"127.0.0.1"}, nil, "a host alone"},
		"to no URL":                {307, "https://%zz", "GET", []string{""}, nil, "no URL"},
		"in a circle":              {307, "/round", "GET", nil, nil, "more than 3 times"},
	} {
		t.Run(name, func(t *testing.T) {
			seen, status, location = nil, tt.status, tt.location
			c := newClient(t, Config{URL: s.URL, CAFile: write(t, filepath.Join(dir, "ca.pem"), ca.PEM()), RedirectHosts: tt.allowed})
			_, err := c.Ask(t.Context(), Question{Method: tt.method, Path: "/x", Header: http.Header{"X-Vault-Token": {"t"}}, Body: []byte("body")})
			if diff := cmp.Diff(tt.want, seen); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || problem(t, err).Kind != Invalid || strings.Contains(err.Error(), "secret")) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}

// TestFilesAreReadAgain: roots and certificate are those of the files, also on connections that are open; half of a change is none.
func TestFilesAreReadAgain(t *testing.T) {
	ca, clients, dir := newCA(t, "ca"), newCA(t, "clients"), t.TempDir()
	s := serve(t, ca, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}, &tls.Config{ClientAuth: tls.RequireAnyClientCert})
	cfg := Config{URL: s.URL, CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	first, second := newLeaf(t, clients, "first"), newLeaf(t, clients, "second")
	write(t, cfg.CAFile, ca.PEM())
	write(t, cfg.CertFile, first.PEM())
	write(t, cfg.KeyFile, keyPEM(t, first))
	c := newClient(t, cfg)
	as := func(want string) {
		t.Helper()
		answer, err := c.Ask(t.Context(), Question{Path: "/x"})
		if err != nil {
			t.Fatal(err)
		}
		if string(answer.Body) != want {
			t.Errorf("the server saw %s, want %s", answer.Body, want)
		}
	}
	as("first")
	write(t, cfg.CertFile, second.PEM())
	as("first") // the key is still that of the first
	write(t, cfg.KeyFile, keyPEM(t, second))
	as("second")
	write(t, cfg.CAFile, newCA(t, "other").PEM())
	if _, err := c.Ask(t.Context(), Question{Path: "/x"}); err == nil || problem(t, err).Kind != Denied {
		t.Errorf("without the root of its certificate the server is believed: %v", err)
	}
	write(t, cfg.CAFile, "junk")
	if _, err := c.Ask(t.Context(), Question{Path: "/x"}); err == nil || !strings.Contains(err.Error(), "what was read earlier is used, as CAFile: ") {
		t.Errorf("the error does not say that a file is not used: %v", err)
	}
	write(t, cfg.CAFile, ca.PEM())
	as("second")
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "remote")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "https://localhost/", http.StatusTemporaryRedirect)
			return
		}
		fmt.Fprint(w, r.URL)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	for _, tt := range []struct {
		uids []int
		path string
		want string
		err  string
	}{
		{nil, "/x", "/x", ""},
		{[]int{os.Getuid() + 1, os.Getuid()}, "/x", "/x", ""},
		{[]int{os.Getuid() + 1}, "/x", "", "want ["},
		{nil, "/away", "", "a Unix socket answers by itself"},
	} {
		answer, err := newClient(t, Config{URL: "unix://" + socket, UIDs: tt.uids, RedirectHosts: []string{"localhost"}}).Ask(t.Context(), Question{Path: tt.path})
		switch {
		case err != nil && (tt.err == "" || !strings.Contains(err.Error(), tt.err) || problem(t, err).Kind == Unavailable):
			t.Errorf("%v, want %q", err, tt.err)
		case err == nil && !bytes.Equal(answer.Body, []byte(tt.want)):
			t.Errorf("%q, want %q", answer.Body, tt.want)
		}
	}
}

// TestConnections: no more questions are with the server at once than there may be connections, which are used again.
func TestConnections(t *testing.T) {
	ca := newCA(t, "ca")
	var mu sync.Mutex
	var now, most int
	var seen atomic.Int64
	arrived := make(chan struct{}, 100)
	release := make(chan struct{})
	s := serve(t, ca, func(http.ResponseWriter, *http.Request) {
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			now += n
			most = max(most, now)
		}
		count(1)
		defer count(-1)
		arrived <- struct{}{}
		<-release
	}, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { seen.Add(1); return nil, nil }})
	c := newClient(t, Config{URL: s.URL, CAFile: write(t, filepath.Join(t.TempDir(), "ca.pem"), ca.PEM()), Connections: 3})
	for _, questions := range []int{30, 3} {
		var wg sync.WaitGroup
		for range questions {
			wg.Go(func() {
				if _, err := c.Ask(t.Context(), Question{Path: "/x"}); err != nil {
					t.Error(err)
				}
			})
		}
		for ; questions > 0; questions -= 3 { // three of them are there before any is answered
			for range 3 {
				<-arrived
			}
			for range 3 {
				release <- struct{}{}
			}
		}
		wg.Wait()
	}
	if most != 3 || seen.Load() != 3 {
		t.Errorf("%d questions at once on %d connections, want 3 on 3", most, seen.Load())
	}
}

// TestCallerGoes: who does not wait any longer gets the error of its context.
func TestCallerGoes(t *testing.T) {
	ca := newCA(t, "ca")
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, ca, func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }, nil)
	c := newClient(t, Config{URL: s.URL, CAFile: write(t, filepath.Join(t.TempDir(), "ca.pem"), ca.PEM()), Attempts: 4})
	if _, err := c.Ask(ctx, Question{Path: "/x"}); err == nil || ctx.Err() == nil || problem(t, err).Attempts != 1 {
		t.Errorf("%v", err)
	}
}
