package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	domain = spiffeid.RequireTrustDomainFromString("mesh.example")
	leafID = spiffeid.RequireFromString("spiffe://mesh.example/ns/default/dc/dc1/svc/web")
)

// request makes a key and a request for an intermediate, or for a leaf.
func request(t *testing.T, leaf bool) ca.UpstreamRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{leafID.URL()}}
	r := ca.UpstreamRequest{Leaf: leaf, ID: leafID, TTL: time.Hour}
	if !leaf {
		r.ID = domain.ID()
		constraints, err := asn1.Marshal(struct {
			CA      bool
			PathLen int
		}{true, 0})
		if err != nil {
			t.Fatal(err)
		}
		usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0b0000_0110}, BitLength: 7})
		if err != nil {
			t.Fatal(err)
		}
		template = &x509.CertificateRequest{
			Subject: pkix.Name{CommonName: fmt.Sprintf("sallyport intermediate %d", time.Now().UnixNano())}, URIs: []*url.URL{domain.ID().URL()},
			ExtraExtensions: []pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
				{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
			},
		}
	}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, template, key); err != nil {
		t.Fatal(err)
	}
	return r
}

func newCA(t *testing.T, cfg Config) *CA {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// signs demands an intermediate that is one of roots' and nothing else than was asked for.
func signs(t *testing.T, c *CA, roots []*x509.Certificate) []*x509.Certificate {
	t.Helper()
	chain, err := c.Sign(t.Context(), request(t, false))
	if err != nil {
		t.Fatal(err)
	}
	got := chain[0]
	if !got.IsCA || got.MaxPathLen != 0 || !got.MaxPathLenZero || len(got.URIs) != 1 || got.URIs[0].String() != "spiffe://mesh.example" || len(got.DNSNames) > 0 ||
		got.KeyUsage&x509.KeyUsageCertSign == 0 || time.Until(got.NotAfter) > time.Hour+time.Minute {
		t.Errorf("CA %t, path length %d, URIs %v, DNS %v, usage %b, until %s", got.IsCA, got.MaxPathLen, got.URIs, got.DNSNames, got.KeyUsage, got.NotAfter)
	}
	for _, root := range roots {
		for _, cert := range chain {
			if cert.CheckSignatureFrom(root) == nil {
				return chain
			}
		}
	}
	t.Errorf("the chain of %d leads to no root of %d", len(chain), len(roots))
	return chain
}

// denied demands that nothing is signed, by a kind of error that says want.
func denied(t *testing.T, c *CA, kind error, want string) {
	t.Helper()
	if _, err := c.Sign(t.Context(), request(t, false)); !errors.Is(err, kind) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %v: %q", err, kind, want)
	}
}

// watch watches the roots until the test ends; the function returns when they are n.
func watch(t *testing.T, c *CA) (await func(n int) []*x509.Certificate) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var last []*x509.Certificate
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.WatchRoots(ctx, func(roots []*x509.Certificate) { mu.Lock(); defer mu.Unlock(); last = roots }); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func(n int) (roots []*x509.Certificate) {
		t.Helper()
		meshtest.Await(t, "roots", func() error {
			mu.Lock()
			defer mu.Unlock()
			if roots = last; len(roots) != n {
				return fmt.Errorf("%d, want %d", len(roots), n)
			}
			return nil
		})
		return roots
	}
}

// run has a CA keep its token until the test ends.
func run(t *testing.T, c *CA) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// pki mounts a root CA and the policy of ours in a namespace.
func (b *bao) pki(namespace, policy string) {
	b.t.Helper()
	b.in(namespace, "POST", "sys/mounts/pki", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	b.in(namespace, "POST", "pki/root/generate/internal", map[string]any{
		"common_name": "root1", "ttl": "8760h", "key_type": "ec", "key_bits": 256, "uri_sans": "spiffe://mesh.example", "issuer_name": "root1", "key_name": "root1",
	})
	b.policy(namespace, policy)
}

func (b *bao) policy(namespace, text string) {
	b.t.Helper()
	b.in(namespace, "PUT", "sys/policies/acl/sallyport", map[string]any{"policy": text})
}

// appRole makes a role whose tokens have that policy alone, and returns the login.
func (b *bao) appRole(namespace, name, ttl, most string) *AppRole {
	b.t.Helper()
	b.in(namespace, "POST", "auth/approle/role/"+name, map[string]any{"token_policies": "sallyport", "token_no_default_policy": true, "token_ttl": ttl, "token_max_ttl": most})
	id := text(b.in(namespace, "GET", "auth/approle/role/"+name+"/role-id", nil), "role_id")
	return &AppRole{RoleID: id, SecretIDFile: write(b.t, b.file(namespace+name+".secret-id"), b.secretID(namespace, name)+"\n")}
}

func (b *bao) secretID(namespace, name string) string {
	b.t.Helper()
	return text(b.in(namespace, "POST", "auth/approle/role/"+name+"/secret-id", nil), "secret_id")
}

// token makes one with our policy alone.
func (b *bao) newToken(ttl string) string {
	b.t.Helper()
	return text(b.do("POST", "auth/token/create", map[string]any{"policies": []string{"sallyport"}, "no_default_policy": true, "ttl": ttl}), "client_token")
}

// TestOpenBao has a real OpenBao sign, by every login, and go through what happens to it.
func TestOpenBao(t *testing.T) {
	t.Parallel()
	b := startBao(t)
	config := func(l Login) Config {
		return Config{Server: remote.Config{URL: b.url, CAFile: b.file("ca.pem")}, Login: l, Mount: "pki", Poll: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	}
	policy := newCA(t, config(&Token{File: "x"})).Policy()
	b.pki("", policy)
	b.do("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	roots := watch(t, newCA(t, config(&Token{File: "none"})))
	root1 := roots(1)

	b.run("token", func(t *testing.T) {
		file := write(t, b.file("token"), b.newToken("1h")+"\n")
		c := newCA(t, config(&Token{File: file}))
		signs(t, c, root1)
		// Another token, after the first was revoked.
		old, _ := c.session.Load()
		write(t, file, b.newToken("1h"))
		b.do("POST", "auth/token/revoke", map[string]any{"token": old.token})
		signs(t, c, root1)
		now, _ := c.session.Load()
		b.do("POST", "auth/token/revoke", map[string]any{"token": now.token})
		denied(t, c, ca.ErrDenied, "login: ")
	})
	b.run("token that ends", func(t *testing.T) {
		c := newCA(t, config(&Token{File: write(t, b.file("short"), b.newToken("1s"))}))
		meshtest.Await(t, "end of the token", func() error {
			if _, err := c.Sign(t.Context(), request(t, false)); !errors.Is(err, ca.ErrDenied) {
				return fmt.Errorf("%w, want ErrDenied", err)
			}
			return nil
		})
	})
	b.run("AppRole", func(t *testing.T) {
		l := b.appRole("", "sallyport", "1h", "2h")
		c := newCA(t, config(l))
		signs(t, c, root1)
		first, _ := c.session.Load()
		b.do("POST", "auth/token/revoke", map[string]any{"token": first.token})
		signs(t, c, root1)
		if second, _ := c.session.Load(); second.token == first.token {
			t.Error("no new login")
		}
		write(t, l.SecretIDFile, "00000000-0000-0000-0000-000000000000")
		denied(t, newCA(t, config(l)), ca.ErrDenied, "answered 400")
	})
	b.run("AppRole, wrapped", func(t *testing.T) {
		l := b.appRole("", "wrapped", "1h", "2h")
		l.Wrapped = true
		wrap := func() string {
			return text(b.do("POST", "auth/approle/role/wrapped/secret-id", nil, "X-Vault-Wrap-TTL", "60s"), "token")
		}
		write(t, l.SecretIDFile, wrap())
		c := newCA(t, config(l))
		signs(t, c, root1)
		first, _ := c.session.Load()
		b.do("POST", "auth/token/revoke", map[string]any{"token": first.token})
		signs(t, c, root1) // the secret ID was kept
		again := &AppRole{RoleID: l.RoleID, SecretIDFile: l.SecretIDFile, Wrapped: true}
		denied(t, newCA(t, config(again)), ca.ErrDenied, "good for once")
		write(t, l.SecretIDFile, wrap())
		signs(t, newCA(t, config(again)), root1)
	})
	b.run("certificate", func(t *testing.T) {
		b.do("POST", "sys/auth/cert", map[string]any{"type": "cert"})
		b.do("POST", "auth/cert/certs/sallyport", map[string]any{
			"certificate": b.tls.PEM(), "allowed_uri_sans": "spiffe://mesh.example/sallyport", "token_policies": "sallyport", "token_no_default_policy": true,
		})
		cfg := config(&Certificate{Name: "sallyport"})
		cfg.Server.CertFile, cfg.Server.KeyFile = b.pair("client", "spiffe://mesh.example/sallyport")
		signs(t, newCA(t, cfg), root1)
		cfg.Server.CertFile, cfg.Server.KeyFile = b.pair("foreign", "spiffe://mesh.example/another")
		denied(t, newCA(t, cfg), ca.ErrDenied, "answered 400")
	})
	b.run("Kubernetes", func(t *testing.T) {
		reviews := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {"authenticated": true, "audiences": ["vault"], "user": {"username": "system:serviceaccount:mesh:sallyport", "uid": "u"}}}`)
		}))
		defer reviews.Close()
		b.do("POST", "sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
		b.do("POST", "auth/kubernetes/config", map[string]any{"kubernetes_host": reviews.URL, "kubernetes_ca_cert": b.tls.PEM(), "token_reviewer_jwt": serviceAccount(), "disable_local_ca_jwt": true})
		b.do("POST", "auth/kubernetes/role/sallyport", map[string]any{
			"bound_service_account_names": "sallyport", "bound_service_account_namespaces": "mesh", "audience": "vault",
			"token_policies": "sallyport", "token_no_default_policy": true,
		})
		file := write(t, b.file("jwt"), serviceAccount())
		signs(t, newCA(t, config(&Kubernetes{Role: "sallyport", JWTFile: file})), root1)
		denied(t, newCA(t, config(&Kubernetes{Role: "another", JWTFile: file})), ca.ErrDenied, "answered 400")
		denied(t, newCA(t, config(&Kubernetes{Role: "sallyport", JWTFile: write(t, b.file("junk"), "junk")})), ca.ErrDenied, "login: ")
	})
	b.run("renewed beyond its end", func(t *testing.T) {
		// A lease of 3 s that ends after 5, whatever it is renewed to.
		c := newCA(t, config(b.appRole("", "short", "3s", "5s")))
		run(t, c)
		// That there is always one that is valid is shown by a clock of its own (TestRun): this one runs on while a busy machine does not.
		seen := map[string]bool{}
		var renewals int
		var last *session
		for deadline := time.Now().Add(time.Minute); len(seen) < 2 || renewals == 0; <-time.After(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d tokens, %d renewals in a minute", len(seen), renewals)
			}
			s, _ := c.session.Load()
			if s == nil {
				continue
			}
			if s != last && last != nil && s.token == last.token {
				renewals++
			}
			last = s
			seen[s.token] = true
		}
		signs(t, c, root1)
	})
	b.run("each leaf", func(t *testing.T) {
		b.do("POST", "pki/roles/leafs", map[string]any{
			"allowed_uri_sans": "spiffe://mesh.example/*", "require_cn": false, "allow_ip_sans": false, "key_type": "ec", "key_bits": 256, "max_ttl": "72h",
			"server_flag": true, "client_flag": true, "key_usage": []string{"DigitalSignature"}, "basic_constraints_valid_for_non_ca": true,
			"not_before_duration": "60s", "no_store": true,
		})
		l := b.appRole("", "leafs", "1h", "2h")
		cfg := config(l)
		cfg.LeafRole = "leafs"
		c := newCA(t, cfg)
		b.do("PUT", "sys/policies/acl/leafs", map[string]any{"policy": c.Policy()})
		b.do("POST", "auth/approle/role/leafs", map[string]any{"token_policies": "leafs"})
		chain, err := c.Sign(t.Context(), request(t, true))
		if err != nil {
			t.Fatal(err)
		}
		if got := chain[0]; got.IsCA || len(got.URIs) != 1 || got.URIs[0].String() != leafID.String() || len(chain) != 1 {
			t.Errorf("CA %t, URIs %v, a chain of %d", got.IsCA, got.URIs, len(chain))
		}
		denied(t, c, ca.ErrDenied, "and no intermediate")
		if _, err := newCA(t, config(l)).Sign(t.Context(), request(t, true)); !errors.Is(err, ca.ErrDenied) {
			t.Errorf("a leaf without a role: %v", err)
		}
	})
	b.run("namespace", func(t *testing.T) {
		if isVault() { // without Enterprise it ignores the header without a word
			cfg := config(b.appRole("", "namespace", "1h", "2h"))
			cfg.Namespace = "team1"
			denied(t, newCA(t, cfg), ca.ErrDenied, `of the namespace "", not of "team1"`)
			return
		}
		b.do("POST", "sys/namespaces/team1", nil)
		b.pki("team1", policy)
		b.in("team1", "POST", "sys/auth/approle", map[string]any{"type": "approle"})
		cfg := config(b.appRole("team1", "sallyport", "1h", "2h"))
		cfg.Namespace = "team1/"
		c := newCA(t, cfg)
		chain := signs(t, c, watch(t, c)(1))
		if chain[0].CheckSignatureFrom(root1[0]) == nil {
			t.Error("the root namespace signed")
		}
		// A token of another namespace, as one is that a server gives which ignores the header.
		cfg.Login = &Token{File: write(t, b.file("elsewhere"), b.token)}
		denied(t, newCA(t, cfg), ca.ErrDenied, `of the namespace "", not of "team1"`)
		cfg.Namespace = "team2"
		denied(t, newCA(t, cfg), ca.ErrDenied, "answered 40")
	})
	b.run("wrong mount", func(t *testing.T) {
		cfg := config(&Token{File: write(t, b.file("root"), b.token)})
		cfg.Mount = "elsewhere"
		denied(t, newCA(t, cfg), ca.ErrDenied, "are the mount")
	})
	b.run("policy withdrawn", func(t *testing.T) {
		c := newCA(t, config(b.appRole("", "withdrawn", "1h", "2h")))
		signs(t, c, root1)
		b.policy("", `path "elsewhere" { capabilities = ["read"] }`)
		denied(t, c, ca.ErrDenied, "the token's policy lacks this path")
		b.policy("", policy)
		signs(t, c, root1)
	})
	b.run("roots rotated in it", func(t *testing.T) {
		c := newCA(t, config(b.appRole("", "rotated", "1h", "2h")))
		b.do("POST", "pki/root/rotate/internal", map[string]any{"common_name": "root2", "ttl": "8760h", "key_type": "ec", "key_bits": 256, "issuer_name": "root2", "key_name": "root2"})
		both := roots(2)
		if chain := signs(t, c, root1); len(chain) != 1 {
			t.Errorf("a chain of %d", len(chain))
		}
		b.do("POST", "pki/config/issuers", map[string]any{"default": "root2"})
		if chain := signs(t, c, both); chain[0].CheckSignatureFrom(root1[0]) == nil {
			t.Error("the old root signed")
		}
		// The new root's key cross-signed by the old: in the chain, and never the root beside it.
		csr := text(b.do("POST", "pki/intermediate/cross-sign", map[string]any{"common_name": "root2", "key_ref": "root2"}), "csr")
		cross := text(b.do("POST", "pki/issuer/root1/sign-intermediate", map[string]any{"csr": csr, "use_csr_values": true, "ttl": "4000h"}), "certificate")
		b.do("POST", "pki/issuers/import/cert", map[string]any{"pem_bundle": cross})
		chain := signs(t, c, root1)
		if len(chain) != 2 || chain[1].CheckSignatureFrom(root1[0]) != nil {
			t.Errorf("a chain of %d, want [intermediate, new root by the old]", len(chain))
		}
		cfg := config(&Token{File: "none"})
		cfg.Issuer = "root1"
		watch(t, newCA(t, cfg))(1)
		b.do("DELETE", "pki/issuer/root1", nil)
		b.await("rid of the old root", func() error { roots(1); return nil })
	})
	b.run("sealed", func(t *testing.T) {
		c := newCA(t, config(b.appRole("", "sealed", "1h", "2h")))
		now := roots(1)
		signs(t, c, now)
		b.do("PUT", "sys/seal", nil)
		denied(t, c, ca.ErrUnavailable, "sealed")
		roots(1) // what is known stays
		b.unseal()
		meshtest.Await(t, "a signature", func() error { _, err := c.Sign(t.Context(), request(t, false)); return err })
	})
	b.run("restarted", func(t *testing.T) {
		c := newCA(t, config(b.appRole("", "restarted", "1h", "2h")))
		now := roots(1)
		signs(t, c, now)
		before, _ := c.session.Load()
		b.process.Kill()
		denied(t, c, ca.ErrUnavailable, "is it running?")
		b.restart()
		meshtest.Await(t, "a signature", func() error { _, err := c.Sign(t.Context(), request(t, false)); return err })
		if after, _ := c.session.Load(); after != before {
			t.Error("the token did not survive the restart")
		}
	})
}

// serviceAccount is the token of one, which OpenBao reads and has Kubernetes verify.
func serviceAccount() string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg": "RS256", "typ": "JWT"}`) + "." + part(`{"iss": "kubernetes/serviceaccount", "aud": ["vault"], "iat": 1700000000, "nbf": 1700000000, "exp": 4102444800, "sub": "system:serviceaccount:mesh:sallyport", "kubernetes.io": {"namespace": "mesh", "serviceaccount": {"name": "sallyport", "uid": "u"}}}`) + "." + part("signature")
}
