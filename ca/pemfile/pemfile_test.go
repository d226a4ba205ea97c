package pemfile

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var domain = spiffeid.RequireTrustDomainFromString("mesh.example")

// authority signs as somebody outside does.
type authority struct {
	t   *testing.T
	dir string
	log bytes.Buffer
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, text string, mode os.FileMode) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), []byte(text), mode); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Chmod(a.file(name), mode); err != nil {
		a.t.Fatal(err)
	}
}

func signerOf(t *testing.T, name string, parent *testca.Pair) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte(name), URIs: []*url.URL{domain.ID().URL()},
		NotAfter: time.Now().Add(1000 * time.Hour),
	}, parent)
}

func keyPEM(t *testing.T, p *testca.Pair) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// put writes an intermediate of a root, and both.
func (a *authority) put(name string, root *testca.Pair) *testca.Pair {
	a.t.Helper()
	i := signerOf(a.t, name, root)
	a.write("roots.pem", root.PEM(), 0o644)
	a.write("intermediate.key", keyPEM(a.t, i), 0o600)
	a.write("intermediate.pem", i.PEM(), 0o644)
	return i
}

func start(t *testing.T) (*authority, Config) {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	return a, Config{
		TrustDomain: domain, Roots: a.file("roots.pem"), Chain: a.file("intermediate.pem"), Key: a.file("intermediate.key"), Logger: slog.New(slog.NewTextHandler(&a.log, nil)),
	}
}

func newCA(t *testing.T, cfg Config) *CA {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(t *testing.T, isLeaf bool) (ca.UpstreamRequest, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := ca.UpstreamRequest{Leaf: isLeaf, ID: domain.ID(), TTL: time.Hour}
	if isLeaf {
		r.ID = spiffeid.RequireFromPath(domain, "/ns/default/dc/dc1/svc/web")
	}
	if r.CSR, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{r.ID.URL()}}, key); err != nil {
		t.Fatal(err)
	}
	return r, key
}

// signs returns the chain of a new leaf, which has to be good.
func signs(t *testing.T, c *CA, root *testca.Pair) []*x509.Certificate {
	t.Helper()
	r, key := request(t, true)
	chain, err := c.Sign(t.Context(), r)
	if err == nil {
		err = certpath.VerifyChain(chain, []*x509.Certificate{root.Cert}, certpath.Wanted{ID: r.ID, Key: key.Public(), Now: time.Now()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// TestReload: a new intermediate signs within a second, and what cannot be used leaves all as it was.
func TestReload(t *testing.T) {
	a, cfg := start(t)
	synctest.Test(t, func(t *testing.T) {
		root := signerOf(t, "root", nil)
		first := a.put("first", root)
		c := newCA(t, cfg)
		if chain := signs(t, c, root); !chain[1].Equal(first.Cert) || len(chain) != 2 {
			t.Fatalf("signed by %s", chain[1].Subject)
		}
		second := signerOf(t, "second", root)
		a.write("intermediate.key", keyPEM(t, second), 0o600)
		time.Sleep(glance)
		if chain := signs(t, c, root); !chain[1].Equal(first.Cert) {
			t.Errorf("with half of it written, signed by %s", chain[1].Subject)
		}
		if text := a.log.String(); !strings.Contains(text, "intermediate.key is the key of another one") {
			t.Errorf("logged: %s", text)
		}
		a.write("intermediate.pem", second.PEM(), 0o644)
		time.Sleep(glance)
		if chain := signs(t, c, root); !chain[1].Equal(second.Cert) {
			t.Errorf("with all of it written, signed by %s", chain[1].Subject)
		}
		lines := strings.Count(a.log.String(), "\n")
		for range 100 {
			time.Sleep(glance)
			signs(t, c, root)
		}
		if n := strings.Count(a.log.String(), "\n"); n != lines {
			t.Errorf("%d lines are logged though nothing changes", n-lines)
		}
	})
}

// TestRefused: what is wrong with a file is said with its name, and what was good goes on.
func TestRefused(t *testing.T) {
	other := signerOf(t, "other", nil)
	for name, tt := range map[string]struct {
		spoil func(a *authority, root *testca.Pair)
		want  string
	}{
		"no roots":         {func(a *authority, _ *testca.Pair) { os.Remove(a.file("roots.pem")) }, "roots.pem: no such file"},
		"half a root":      {func(a *authority, r *testca.Pair) { a.write("roots.pem", r.PEM()[:100], 0o644) }, "roots.pem: the CA's answer is invalid: not a certificate in PEM"},
		"an intermediate":  {func(a *authority, r *testca.Pair) { a.write("roots.pem", signerOf(a.t, "x", r).PEM(), 0o644) }, "is not a root"},
		"other roots":      {func(a *authority, _ *testca.Pair) { a.write("roots.pem", other.PEM(), 0o644) }, "is neither among the roots"},
		"roots of others":  {func(a *authority, r *testca.Pair) { a.write("roots.pem", r.PEM(), 0o666) }, "chmod go-w"},
		"a key among them": {func(a *authority, r *testca.Pair) { a.write("roots.pem", r.PEM()+keyPEM(a.t, r), 0o644) }, "a private key is among"},
		"a leaf":           {func(a *authority, r *testca.Pair) { a.replace(testca.Sign(a.t, &x509.Certificate{}, r)) }, "keyCertSign"},
		"another domain's": {func(a *authority, r *testca.Pair) { a.replace(foreign(a.t, r)) }, "the intermediate is for [spiffe://other.example], want none or"},
		"an ended one":     {func(a *authority, r *testca.Pair) { a.replace(ended(a.t, r)) }, "expired"},
		"a key for all":    {func(a *authority, r *testca.Pair) { a.write("intermediate.key", keyPEM(a.t, other), 0o644) }, "chmod 0600"},
		"a key of another": {func(a *authority, _ *testca.Pair) { a.write("intermediate.key", keyPEM(a.t, other), 0o600) }, "is the key of another one"},
		"no key":           {func(a *authority, _ *testca.Pair) { a.write("intermediate.key", "secret", 0o600) }, "no private key in PEM"},
		"junk as a key": {func(a *authority, _ *testca.Pair) {
			a.write("intermediate.key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", 0o600)
		}, "cannot be read"},
		"an encrypted key": {func(a *authority, _ *testca.Pair) {
			a.write("intermediate.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n", 0o600)
		}, "is encrypted"},
		"a large file": {func(a *authority, _ *testca.Pair) { a.write("roots.pem", strings.Repeat("x", maxFile+1), 0o644) }, "or less"},
		"a directory": {func(a *authority, _ *testca.Pair) {
			os.Remove(a.file("roots.pem"))
			os.Mkdir(a.file("roots.pem"), 0o755)
		}, "is no file of"},
		"a directory for all": {func(a *authority, _ *testca.Pair) { os.Chmod(a.dir, 0o777) }, "lets others write"},
	} {
		t.Run(name, func(t *testing.T) {
			a, cfg := start(t)
			root := signerOf(t, "root", nil)
			a.put("first", root)
			c := newCA(t, cfg)
			before := signs(t, c, root)
			tt.spoil(a, root)
			fresh := newCA(t, cfg)
			r, _ := request(t, true)
			if _, err := fresh.Sign(t.Context(), r); !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %q", err, tt.want)
			}
			c.glanced, c.seen = time.Time{}, [3]mark{}
			if after := signs(t, c, root); !after[1].Equal(before[1]) {
				t.Errorf("signed by %s", after[1].Subject)
			}
			if text := a.log.String(); !strings.Contains(text, "what they said last holds") {
				t.Errorf("logged: %s", text)
			}
		})
	}
}

func ended(t *testing.T, root *testca.Pair) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ended"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)}, root)
}

func foreign(t *testing.T, root *testca.Pair) *testca.Pair {
	t.Helper()
	return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "foreign"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: "other.example"}}}, root)
}

// replace writes an intermediate and its key.
func (a *authority) replace(p *testca.Pair) {
	a.t.Helper()
	a.write("intermediate.key", keyPEM(a.t, p), 0o600)
	a.write("intermediate.pem", p.PEM(), 0o644)
}

// TestLink: files of Kubernetes are behind two symbolic links, of which one is replaced.
func TestLink(t *testing.T) {
	a, cfg := start(t)
	root := signerOf(t, "root", nil)
	a.put("first", root)
	for _, name := range []string{"roots.pem", "intermediate.pem", "intermediate.key"} {
		if err := errors.Join(os.MkdirAll(a.file("data"), 0o755), os.Rename(a.file(name), a.file("data/"+name)), os.Symlink("data/"+name, a.file(name))); err != nil {
			t.Fatal(err)
		}
	}
	signs(t, newCA(t, cfg), root)
}

// TestRequest: the request is written once, and what somebody signs for it is taken.
func TestRequest(t *testing.T) {
	a, cfg := start(t)
	root := signerOf(t, "root", nil)
	a.write("roots.pem", root.PEM(), 0o644)
	cfg.Key, cfg.Request = "", a.file("intermediate.csr")
	r, key := request(t, false)
	var inode [2]mark
	for i := range inode { // a process that was started anew asks again
		if _, err := newCA(t, cfg).Sign(t.Context(), r); !errors.Is(err, ca.ErrPending) || !strings.Contains(err.Error(), "sign the request "+cfg.Request) {
			t.Fatalf("%v, want that it is pending", err)
		}
		info, err := os.Stat(cfg.Request)
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Fatalf("%v, %v", err, info.Mode())
		}
		inode[i] = mark{info.ModTime(), info.Size(), 0}
	}
	if inode[0] != inode[1] {
		t.Error("the request was written twice")
	}
	text, err := os.ReadFile(cfg.Request)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatal(err)
	}
	sign := func(isCA bool) {
		template := &x509.Certificate{SerialNumber: root.Cert.SerialNumber, Subject: pkix.Name{CommonName: "i"}, IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: root.Cert.NotAfter}
		der, err := x509.CreateCertificate(rand.Reader, template, root.Cert, csr.PublicKey, root.Key)
		if err != nil {
			t.Fatal(err)
		}
		a.write("intermediate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+root.PEM(), 0o644)
	}
	c := newCA(t, cfg)
	sign(false)
	if _, err := c.Sign(t.Context(), r); !errors.Is(err, ca.ErrInvalid) {
		t.Errorf("%v, want that it is no CA's", err)
	}
	sign(true)
	chain, err := c.Sign(t.Context(), r)
	if err != nil || len(chain) != 1 || !key.PublicKey.Equal(chain[0].PublicKey) {
		t.Errorf("%v: a chain of %d", err, len(chain))
	}
	next, _ := request(t, false)
	if _, err := c.Sign(t.Context(), next); !errors.Is(err, ca.ErrPending) {
		t.Errorf("another request: %v, want that it is pending", err)
	}
	if leaf, _ := request(t, true); true {
		if _, err := c.Sign(t.Context(), leaf); !errors.Is(err, ca.ErrDenied) {
			t.Errorf("a leaf: %v", err)
		}
	}
}

// TestRequestPlace: where others may put something in the place of a request none is written, as its mode is changed there.
func TestRequestPlace(t *testing.T) {
	a, cfg := start(t)
	a.put("one", signerOf(t, "root", nil))
	open := a.file("open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	cfg.Key, cfg.Chain, cfg.Request = "", a.file("none.pem"), filepath.Join(open, "request.csr")
	r, _ := request(t, false)
	if _, err := newCA(t, cfg).Sign(t.Context(), r); !errors.Is(err, ca.ErrUnavailable) || errors.Is(err, ca.ErrPending) || !strings.Contains(err.Error(), open+": mode 0777 lets others write to it") {
		t.Errorf("Sign = %v", err)
	}
	if names, err := os.ReadDir(open); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestWatchRoots(t *testing.T) {
	a, cfg := start(t)
	synctest.Test(t, func(t *testing.T) {
		root, next := signerOf(t, "root", nil), signerOf(t, "next", nil)
		a.put("first", root)
		c := newCA(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan []*x509.Certificate, 4)
		go func() { _ = c.WatchRoots(ctx, func(l []*x509.Certificate) { got <- l }) }()
		if roots := <-got; len(roots) != 1 || !roots[0].Equal(root.Cert) {
			t.Errorf("%d roots", len(roots))
		}
		a.write("roots.pem", root.PEM()+next.PEM(), 0o644)
		if roots := <-got; len(roots) != 2 {
			t.Errorf("%d roots", len(roots))
		}
		os.Remove(a.file("roots.pem"))
		time.Sleep(10 * poll)
		cancel()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("the roots are others without the file")
		}
	})
}

func TestNew(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		"no trust domain":  func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"roots_file is":    func(c *Config) { c.Roots = "" },
		"chain_file is":    func(c *Config) { c.Chain = "" },
		"give either":      func(c *Config) { c.Key = "" },
		"give either key_": func(c *Config) { c.Request = "x" },
		"k is named twice": func(c *Config) { c.Chain = "k" },
	} {
		cfg := Config{TrustDomain: domain, Roots: "r", Chain: "c", Key: "k"}
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
