package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/remote"
)

// nobody is a Gate for whom nobody waits.
type nobody struct{}

func (nobody) Untold([]*x509.Certificate) []ca.Holder { return nil }
func (nobody) Outdated(*x509.Certificate) []ca.Holder { return nil }
func (nobody) Changed() <-chan struct{}               { return nil }

// TestRotation goes from the built-in root to a real OpenBao, follows the root that is replaced there, and goes back: at each point a leaf
// is accepted under the roots of now.
func TestRotation(t *testing.T) {
	t.Parallel()
	b := startBao(t)
	config := Config{Server: remote.Config{URL: b.url, CAFile: b.file("ca.pem")}, Mount: "pki", Poll: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	config.Login = &Token{File: b.file("rotating")}
	upstream := newCA(t, config)
	b.pki("", upstream.Policy())
	write(t, b.file("rotating"), b.newToken("1h"))
	c, err := ca.Open(ca.Config{
		Dir: filepath.Join(t.TempDir(), "ca"), TrustDomain: domain, Gate: nobody{}, Settle: time.Millisecond, IntermediateTTL: 200 * time.Hour,
		Upstreams: map[string]ca.UpstreamConfig{"vault": {Upstream: upstream}},
	})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := ca.NewIssuer(ca.IssuerConfig{Provider: c, TrustDomain: domain, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		wg.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	id := identity.Service{TrustDomain: domain, Datacenter: "dc1", Name: identity.NewName("web")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.ID().URL()}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	// settled is when the rotation has ended, with a leaf whose chain leads to the only root of a provider.
	settled := func(provider, subject string) {
		t.Helper()
		meshtest.Await(t, provider+" signs under "+subject, func() error {
			s := c.Status()
			roots, _ := c.Roots().Load()
			active, _ := roots.Active()
			if s.Provider != provider || active.Certificate == nil || !strings.Contains(active.Certificate.Subject.String(), subject) {
				_ = c.Rotate(ca.RotateOptions{To: provider}) // asks whether it signs under its new root
				return fmt.Errorf("%+v %+v", s, s.Rotation)
			}
			if s.Rotation != nil {
				return fmt.Errorf("%+v", s.Rotation)
			}
			return nil
		})
		chain, err := issuer.SignRequest(t.Context(), request, id)
		if err != nil {
			t.Fatal(err)
		}
		roots, _ := c.Roots().Load()
		var bundle []*x509.Certificate
		for _, r := range roots.List() {
			bundle = append(bundle, r.Certificate)
		}
		if err := certpath.VerifyChain(chain, bundle, certpath.Wanted{ID: id.ID(), Key: key.Public(), Now: time.Now()}); err != nil {
			t.Errorf("%s, %s: %v", provider, subject, err)
		}
	}
	settled(ca.Builtin, "sallyport root")
	meshtest.Await(t, "roots of OpenBao", func() error {
		if err := c.Rotate(ca.RotateOptions{To: "vault"}); err != nil && !errors.Is(err, ca.ErrRotating) {
			return err
		}
		return nil
	})
	settled("vault", "root1")
	b.do("POST", "pki/root/rotate/internal", map[string]any{"common_name": "root2", "ttl": "8760h", "key_type": "ec", "key_bits": 256, "uri_sans": "spiffe://mesh.example", "issuer_name": "root2", "key_name": "root2"})
	b.do("POST", "pki/config/issuers", map[string]any{"default": "root2"})
	settled("vault", "root2")
	if err := c.Rotate(ca.RotateOptions{To: ca.Builtin}); err != nil {
		t.Fatal(err)
	}
	settled(ca.Builtin, "sallyport root")
}
