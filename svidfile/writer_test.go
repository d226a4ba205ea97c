package svidfile

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs leafs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = issue(t, nil, "ca", true, time.Hour)
	return a
}

func issue(t testing.TB, by *authority, service string, ca bool, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return certify(t, by, service, ca, life, key.Public(), key), key
}

// certify signs a certificate of a key, which signs itself if nobody does.
func certify(t testing.TB, by *authority, service string, ca bool, life time.Duration, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life), IsCA: ca, BasicConstraintsValid: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/ns/default/dc/dc1/svc/" + service}},
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a *authority) leaf(t testing.TB, life time.Duration) leafAnswer {
	t.Helper()
	cert, key := issue(t, a, "web", false, life)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return leafAnswer{CertPEM: string(encode("CERTIFICATE", cert.Raw)), PrivateKeyPEM: string(encode("EC PRIVATE KEY", der)), Service: "web"}
}

func (a *authority) roots() (r rootsAnswer) {
	r.Roots = append(r.Roots, struct{ RootCert string }{string(encode("CERTIFICATE", a.cert.Raw))})
	return r
}

// fakeAPI answers as the HTTP API does, on a Unix socket.
type fakeAPI struct {
	mu      sync.Mutex
	leaf    leafAnswer
	roots   rootsAnswer
	index   uint64
	changed chan struct{}
	token   string // that is asked for; empty: none is
	broken  string // what is answered instead
	code    int
	asked   int
	// sign answers certificate requests; nil: there is no such path. bodies are what was sent.
	sign   func(key any) leafAnswer
	bodies []string
}

func (f *fakeAPI) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.index++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if r.FormValue("index") == strconv.FormatUint(f.index, 10) && f.broken == "" {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		f.mu.Lock()
	}
	switch {
	case f.broken != "":
		w.WriteHeader(f.code)
		_, _ = w.Write([]byte(f.broken))
		return
	case f.token != "" && r.Header.Get("X-Consul-Token") != f.token:
		http.Error(w, "Permission denied", http.StatusForbidden)
		return
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(f.index, 10))
	if r.Method == http.MethodPost && r.URL.Path == "/v1/sallyport/leaf/web" && f.sign != nil {
		body, _ := io.ReadAll(r.Body)
		f.bodies = append(f.bodies, string(body))
		block, _ := pem.Decode(body)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || request.CheckSignature() != nil || len(request.Extensions) > 0 {
			http.Error(w, "a bad request", http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(f.sign(request.PublicKey))
		return
	}
	switch r.URL.Path {
	case rootsPath:
		_ = json.NewEncoder(w).Encode(f.roots)
	case "/v1/agent/connect/ca/leaf/web":
		_ = json.NewEncoder(w).Encode(f.leaf)
	default:
		http.Error(w, "not registered here", http.StatusNotFound)
	}
}

// serveAPI returns an API with a leaf and its address. Variables of the environment are not there.
func serveAPI(t *testing.T) (f *fakeAPI, a *authority, address string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "CONSUL_") {
			t.Setenv(name, "")
		}
	}
	a = newAuthority(t)
	f = &fakeAPI{leaf: a.leaf(t, time.Hour), roots: a.roots(), index: 1, changed: make(chan struct{})}
	dir, err := os.MkdirTemp("", "svid-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "http.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return f, a, "unix://" + l.Addr().String()
}

// outDir is a directory that is not there yet.
func outDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "mesh")
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func has(dir string, l leafAnswer) bool {
	b, err := os.ReadFile(filepath.Join(dir, current, svidName))
	return err == nil && string(b) == l.CertPEM
}

// TestFollow writes what there is and what it becomes, runs the command each time, and keeps the files while the API refuses.
func TestFollow(t *testing.T) {
	f, a, address := serveAPI(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, tokenFile, "first-token\n")
	t.Setenv("CONSUL_HTTP_TOKEN", "of-the-environment")
	f.token = "first-token"
	dir, log := outDir(t), &buffer{}
	ran := filepath.Join(t.TempDir(), "ran")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Service: "web", Address: address, TokenFile: tokenFile, Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil)),
			Command: fmt.Sprintf(`openssl version >/dev/null 2>&1; sed -n 2p %s/current/svid.pem >> %s; echo "token=$CONSUL_HTTP_TOKEN" >> %s; test $(wc -l < %s) -ne 4`, dir, ran, ran, ran),
		})
	}()
	first := f.leaf
	await(t, "the first leaf", func() bool { return has(dir, first) })
	for name, mode := range map[string]fs.FileMode{svidName: 0o644, keyName: 0o600, rootsName: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, current, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want mode %o", name, info, err, mode)
		}
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, current, svidName), filepath.Join(dir, current, keyName)); err != nil {
		t.Error(err)
	}

	// A new root and a leaf under it: the command fails this time.
	b := newAuthority(t)
	second := b.leaf(t, time.Hour)
	f.set(func() { f.leaf = second })
	f.set(func() { f.roots.Roots = append(f.roots.Roots, b.roots().Roots...) })
	await(t, "the second leaf", func() bool { return has(dir, second) })
	await(t, "that the command failed", func() bool { return strings.Contains(log.String(), "exit status 1") })

	// Another token from now on: the files stay until it is in the file.
	third := a.leaf(t, time.Hour)
	f.set(func() { f.token, f.leaf = "second-token", third })
	await(t, "the refusal", func() bool { return strings.Contains(log.String(), "give it a token of the service") })
	if !has(dir, second) {
		t.Error("the files did not stay")
	}
	writeFile(t, tokenFile, "second-token\n")
	await(t, "the third leaf", func() bool { return has(dir, third) })
	await(t, "that the command ran again", func() bool { return strings.Count(readFile(t, ran), "\n") == 6 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var lines strings.Builder
	for _, l := range []leafAnswer{first, second, third} {
		lines.WriteString(strings.Split(l.CertPEM, "\n")[1] + "\ntoken=\n")
	}
	if got, want := readFile(t, ran), lines.String(); got != want {
		t.Errorf("the command saw\n%s\nwant\n%s", got, want)
	}
	for _, secret := range []string{"first-token", "second-token", "of-the-environment", "PRIVATE"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, log)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v, %v: want the link, the newest files and those before", entries, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked > 60 {
		t.Errorf("the API was asked %d times", f.asked)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOnce has an error for all that can be wrong, which says how to mend it, and keeps the files.
func TestOnce(t *testing.T) {
	f, a, address := serveAPI(t)
	good := Config{Service: "web", Address: address, Once: true}
	kept := outDir(t)
	good.Dir = kept
	if err := Run(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	before := readFile(t, filepath.Join(kept, current, svidName))
	link, _ := os.Readlink(filepath.Join(kept, current))
	ran := filepath.Join(t.TempDir(), "ran")
	same := good
	same.Command = "touch " + ran
	if err := Run(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(kept, current)); again != link {
		t.Error("the same leaf was written twice")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command ran without a change")
	}

	empty, noToken := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "nosuch")
	writeFile(t, empty, " \n")
	foreign := newAuthority(t)
	expired, other := a.leaf(t, -time.Hour), a.leaf(t, time.Hour)
	mixed := leafAnswer{CertPEM: other.CertPEM, PrivateKeyPEM: f.leaf.PrivateKeyPEM}
	leaf, roots := f.leaf, f.roots
	for name, tt := range map[string]struct {
		config func(*Config)
		api    func()
		env    [2]string
		want   string
	}{
		"no service":      {config: func(c *Config) { c.Service = "" }, want: "is not the name of a service"},
		"a path":          {config: func(c *Config) { c.Service = "a/b" }, want: "is not the name of a service"},
		"unknown service": {config: func(c *Config) { c.Service = "wbe" }, want: "not registered here"},
		"no token file":   {config: func(c *Config) { c.TokenFile = noToken }, want: "no such file"},
		"empty token":     {config: func(c *Config) { c.TokenFile = empty }, want: "write one line with the token"},
		"its variable":    {env: [2]string{"CONSUL_HTTP_TOKEN_FILE", empty}, want: "write one line with the token"},
		"refused":         {api: func() { f.token = "x" }, want: "give it a token of the service"},
		"nobody there":    {config: func(c *Config) { c.Address += ".not" }, want: "is the control plane or Consul's agent running there?"},
		"scheme":          {config: func(c *Config) { c.Address = "ftp://x" }, want: "write http, https or unix"},
		"no path":         {config: func(c *Config) { c.Address = "unix://" }, want: "write unix:///path"},
		"no host":         {config: func(c *Config) { c.Address = "http://:8500" }, want: "write it as 127.0.0.1:8500"},
		"no CA":           {config: func(c *Config) { c.Address = "https://127.0.0.1:1" }, env: [2]string{"CONSUL_CACERT", noToken}, want: "CONSUL_CACERT"},
		"CA is none":      {config: func(c *Config) { c.Address = "https://127.0.0.1:1" }, env: [2]string{"CONSUL_CACERT", empty}, want: "has no certificate in PEM"},
		"half a pair":     {config: func(c *Config) { c.Address = "https://127.0.0.1:1" }, env: [2]string{"CONSUL_CLIENT_CERT", empty}, want: "set both, or none"},
		"other half":      {config: func(c *Config) { c.Address = "https://127.0.0.1:1" }, env: [2]string{"CONSUL_CLIENT_KEY", empty}, want: "set both, or none"},
		"no API":          {api: func() { f.broken, f.code = "<html>", 200 }, want: "does something else listen there?"},
		"its error":       {api: func() { f.broken, f.code = "No cluster leader", 500 }, want: "500 Internal Server Error: No cluster leader"},
		"no roots":        {api: func() { f.roots = rootsAnswer{} }, want: "is Connect enabled there?"},
		"bad root":        {api: func() { f.roots.Roots = []struct{ RootCert string }{{"x"}} }, want: "root number 1 of the API: is no certificate"},
		"key for root":    {api: func() { f.roots.Roots = []struct{ RootCert string }{{leaf.PrivateKeyPEM}} }, want: `has "EC PRIVATE KEY" where`},
		"foreign roots":   {api: func() { f.roots = foreign.roots() }, want: "asked for again when the roots change"},
		"bad leaf":        {api: func() { f.leaf.CertPEM = "x" }, want: "leaf of the API: is no certificate"},
		"no key":          {api: func() { f.leaf.PrivateKeyPEM = "" }, want: "leaf of the API: tls:"},
		"another's key":   {api: func() { f.leaf = mixed }, want: "private key does not match"},
		"expired":         {api: func() { f.leaf = expired }, want: "expired"},
		"group":           {config: func(c *Config) { c.Group = "no-such-group" }, want: "name that of the server which reads the key"},
		"no parent":       {config: func(c *Config) { c.Dir = "/nosuch/dir" }, want: "--out: mkdir /nosuch/dir: no such file"},
		"command":         {config: func(c *Config) { c.Command = "exit 3" }, api: func() { f.leaf = other }, want: "exit status 3: run it by hand"},
		"slow command":    {config: func(c *Config) { c.Command, c.Timeout = "sleep 60 & sleep 60", 200*time.Millisecond }, api: func() { f.leaf = leaf }, want: "took longer than 200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.env[0] != "" {
				t.Setenv(tt.env[0], tt.env[1])
			}
			c := good
			if tt.config != nil {
				tt.config(&c)
			}
			if c.Command != "" {
				c.Dir = outDir(t)
			}
			f.set(func() {
				if tt.api != nil {
					tt.api()
				}
			})
			defer f.set(func() { f.leaf, f.roots, f.token, f.broken = leaf, roots, "", "" })
			if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if readFile(t, filepath.Join(kept, current, svidName)) != before {
				t.Error("the files did not stay")
			}
		})
	}
}

// TestBackground: a command that leaves something in the background has ended well.
func TestBackground(t *testing.T) {
	_, _, address := serveAPI(t)
	if err := Run(t.Context(), Config{Service: "web", Address: address, Once: true, Dir: outDir(t), Command: "sleep 3 &"}); err != nil {
		t.Error(err)
	}
}
