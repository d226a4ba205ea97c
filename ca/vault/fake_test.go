package vault

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/sallyport/sallyport/internal/testca"
)

// fake is a Vault that answers what a test wants, which real ones do not.
type fake struct {
	mu      sync.Mutex
	answers map[string][]func(w http.ResponseWriter, r *http.Request, body map[string]any) // by path, the last for good
	asked   []string                                                                       // METHOD PATH TOKEN
	cfg     Config
}

// says answers with a status and a text.
func says(status int, text string) func(http.ResponseWriter, *http.Request, map[string]any) {
	return func(w http.ResponseWriter, _ *http.Request, _ map[string]any) {
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}
}

func startFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{answers: map[string][]func(http.ResponseWriter, *http.Request, map[string]any){
		"/v1/auth/token/lookup-self": {says(200, `{"data": {"ttl": 3600, "renewable": true}}`)},
	}}
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "tls"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	leaf := testca.Sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, root)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		var body map[string]any
		_ = json.Unmarshal(text, &body)
		f.mu.Lock()
		f.asked = append(f.asked, r.Method+" "+strings.TrimPrefix(r.URL.String(), "/v1/")+" "+r.Header.Get("X-Vault-Token"))
		list := f.answers[r.URL.Path]
		if len(list) > 1 {
			f.answers[r.URL.Path] = list[1:]
		}
		f.mu.Unlock()
		if len(list) == 0 {
			says(404, `{"errors": ["no handler for route"]}`)(w, r, body)
			return
		}
		list[0](w, r, body)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	f.cfg = Config{
		Server: remote.Config{URL: s.URL, CAFile: write(t, filepath.Join(dir, "ca.pem"), root.PEM()), Attempts: 1},
		Login:  &Token{File: write(t, filepath.Join(dir, "token"), "the-token")}, Mount: "pki",
	}
	return f
}

// signed answers as a PKI secrets engine does, with what else is in the data.
func signed(t *testing.T, also string) func(http.ResponseWriter, *http.Request, map[string]any) {
	t.Helper()
	root := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return func(w http.ResponseWriter, _ *http.Request, body map[string]any) {
		text, _ := body["csr"].(string)
		block, _ := pem.Decode([]byte(text))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Error(err)
			return
		}
		template := &x509.Certificate{SerialNumber: root.Cert.SerialNumber, Subject: csr.Subject, URIs: csr.URIs, IsCA: true, BasicConstraintsValid: true, NotAfter: root.Cert.NotAfter}
		der, err := x509.CreateCertificate(nil, template, root.Cert, csr.PublicKey, root.Key)
		if err != nil {
			t.Error(err)
			return
		}
		cert, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		chain, _ := json.Marshal(root.PEM())
		fmt.Fprintf(w, `{"data": {"certificate": %s, "ca_chain": [%s] %s}, "warnings": ["Endpoint ignored these unrecognized parameters"]}`, cert, chain, also)
	}
}

const forbidden = `{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}`

// TestTroubles is the table of what Vault and OpenBao answer when something is wrong, and what it is taken for.
func TestTroubles(t *testing.T) {
	type answers = []func(http.ResponseWriter, *http.Request, map[string]any)
	for name, tt := range map[string]struct {
		answers answers // of sign-intermediate
		kind    error   // nil: signed
		want    string
		asked   int // how often for a signature
	}{
		"good":                {answers{signed(t, "")}, nil, "", 1},
		"sealed":              {answers{says(503, `{"errors": ["Vault is sealed"]}`)}, ca.ErrUnavailable, `503 "Vault is sealed": is it sealed`, 1},
		"internal error":      {answers{says(500, `{"errors": ["1 error occurred: * disk"]}`)}, ca.ErrUnavailable, "answered 500", 1},
		"quota":               {answers{says(429, `{"errors": ["request path \"pki\": rate limit quota exceeded"]}`)}, ca.ErrUnavailable, "quota exceeded", 1},
		"token refused once":  {answers{says(403, forbidden), signed(t, "")}, nil, "", 2},
		"policy lacks it":     {answers{says(403, forbidden)}, ca.ErrDenied, "the token's policy lacks this path", 2},
		"role missing":        {answers{says(400, `{"errors": ["unknown role: x"]}`)}, ca.ErrDenied, "unknown role: x", 1},
		"mount missing":       {nil, ca.ErrDenied, "are the mount", 1},
		"outlives its CA":     {answers{says(400, `{"errors": ["cannot satisfy request, as TTL would result in notAfter 2030 that is beyond the expiration of the CA certificate"]}`)}, ca.ErrDenied, "beyond the expiration", 1},
		"not JSON":            {answers{says(200, `<html>secret</html>`)}, ca.ErrInvalid, "is that a Vault?", 1},
		"no data":             {answers{says(200, `{}`)}, ca.ErrInvalid, "", 1},
		"nothing":             {answers{says(204, "")}, ca.ErrInvalid, "", 1},
		"no certificate":      {answers{says(200, `{"data": {}}`)}, ca.ErrInvalid, "no certificate", 1},
		"another certificate": {answers{says(200, `{"data": {"certificate": `+quoted(testca.Sign(t, &x509.Certificate{IsCA: true}, nil).PEM())+`}}`)}, ca.ErrInvalid, "for the key of the request", 1},
		"a key of its own":    {answers{signed(t, `, "private_key": "secret"`)}, ca.ErrInvalid, "private key", 1},
		"a key in the chain":  {answers{signed(t, `, "issuing_ca": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"`)}, ca.ErrInvalid, "a private key is among", 1},
		"another type":        {answers{says(200, `{"data": {"certificate": 7}}`)}, ca.ErrInvalid, "cannot unmarshal", 1},
		"two MiB":             {answers{says(200, strings.Repeat("secret", 1<<19))}, ca.ErrInvalid, "more than", 1},
		"led away": {answers{func(w http.ResponseWriter, r *http.Request, _ map[string]any) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		}}, ca.ErrInvalid, "nobody said that this host may be asked", 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t)
			f.answers["/v1/pki/root/sign-intermediate"] = tt.answers
			c := newCA(t, f.cfg)
			chain, err := c.Sign(t.Context(), request(t, false))
			if !errors.Is(err, tt.kind) || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %v: %q", err, tt.kind, tt.want)
			}
			if tt.kind == nil && len(chain) != 1 {
				t.Errorf("a chain of %d", len(chain))
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "the-token")) {
				t.Errorf("what is secret is in the error: %v", err)
			}
			var n int
			for _, a := range f.asked {
				if strings.HasPrefix(a, "POST pki/root/sign-intermediate the-token") {
					n++
				}
			}
			if n != tt.asked {
				t.Errorf("asked %d times, want %d: %q", n, tt.asked, f.asked)
			}
		})
	}
}

func quoted(text string) string { b, _ := json.Marshal(text); return string(b) }

// TestOneLogin: who asks at the same time waits for one login.
func TestOneLogin(t *testing.T) {
	f := startFake(t)
	f.answers["/v1/pki/root/sign-intermediate"] = []func(http.ResponseWriter, *http.Request, map[string]any){signed(t, "")}
	c := newCA(t, f.cfg)
	var wg sync.WaitGroup
	for range 8 {
		r := request(t, false)
		wg.Go(func() {
			if _, err := c.Sign(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var logins int
	for _, a := range f.asked {
		if strings.HasPrefix(a, "GET auth/token/lookup-self") {
			logins++
		}
	}
	if logins != 1 {
		t.Errorf("%d logins, want 1", logins)
	}
}

// TestNamespaceIgnored: a Vault that ignores the header runs the request in the root namespace; so nothing is asked for there.
func TestNamespaceIgnored(t *testing.T) {
	for said, want := range map[string]error{`, "namespace_path": "team1/"`: nil, `, "namespace_path": ""`: ca.ErrDenied, "": ca.ErrDenied} {
		f := startFake(t)
		f.answers["/v1/pki/root/sign-intermediate"] = []func(http.ResponseWriter, *http.Request, map[string]any){signed(t, "")}
		f.answers["/v1/auth/token/lookup-self"] = []func(http.ResponseWriter, *http.Request, map[string]any){says(200, `{"data": {"ttl": 0 `+said+`}}`)}
		f.answers["/v1/auth/approle/login"] = []func(http.ResponseWriter, *http.Request, map[string]any){says(200, `{"auth": {"client_token": "the-token"}}`)}
		for _, l := range []Login{f.cfg.Login, &AppRole{RoleID: "x"}} {
			f.cfg.Login, f.cfg.Namespace = l, "team1"
			_, err := newCA(t, f.cfg).Sign(t.Context(), request(t, false))
			if !errors.Is(err, want) {
				t.Errorf("%T, %q: %v, want %v", l, said, err, want)
			}
			if signedThere := strings.Contains(strings.Join(f.asked, "\n"), "sign-intermediate"); signedThere != (want == nil) {
				t.Errorf("%T, %q: asked %q", l, said, f.asked)
			}
		}
	}
}

func TestNew(t *testing.T) {
	good := func() Config {
		return Config{Server: remote.Config{URL: "https://vault.example:8200"}, Login: &Token{File: "x"}, Mount: "pki/mesh/"}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Config){
		"no way to log in":    func(c *Config) { c.Login = nil },
		"token for Vault":     func(c *Config) { c.Login = &Token{} },
		"takes a role ID":     func(c *Config) { c.Login = &AppRole{} },
		"takes a role":        func(c *Config) { c.Login = &Kubernetes{} },
		"takes a client cert": func(c *Config) { c.Login = &Certificate{} },
		"of a login":          func(c *Config) { c.Login = &Kubernetes{Role: "x", Mount: "../sys"} },
		`mount ""`:            func(c *Config) { c.Mount = "" },
		"mount":               func(c *Config) { c.Mount = "pki/../sys" },
		"issuer":              func(c *Config) { c.Issuer = "a?b" },
		"namespace":           func(c *Config) { c.Namespace = "a b" },
		"leave out issuer":    func(c *Config) { c.LeafRole, c.Issuer = "x", "y" },
		"write https":         func(c *Config) { c.Server.URL = "http://vault.example:8200" },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPolicy(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"pki/root/sign-intermediate":     func(*Config) {},
		"pki/issuer/x/sign-intermediate": func(c *Config) { c.Issuer = "x" },
		"pki/sign/x":                     func(c *Config) { c.LeafRole = "x" },
	} {
		cfg := Config{Server: remote.Config{URL: "https://vault.example:8200"}, Login: &Token{File: "x"}, Mount: "pki"}
		change(&cfg)
		text := fmt.Sprintf(`# sign
path %q { capabilities = ["update"] }
# without it a token ends silently with its TTL
path "auth/token/renew-self" { capabilities = ["update"] }
# which namespace it is of, and how long it lives
path "auth/token/lookup-self" { capabilities = ["read"] }
`, want)
		if diff := cmp.Diff(text, newCA(t, cfg).Policy()); diff != "" {
			t.Error(diff)
		}
	}
}
