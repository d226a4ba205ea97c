package xds

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestAcceptance is an Envoy that is told of another root and given a leaf of it: it counts when it has ACKed each secret, and has not
// accepted what it refuses.
func TestAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m *mesh
		record, err := acceptance.Open(acceptance.Config{File: filepath.Join(t.TempDir(), "accepted"), Roots: func() (*sds.Roots, bool) { return m.certs.roots.Load() }})
		if err != nil {
			t.Fatal(err)
		}
		cfg := patient()
		cfg.Acceptance = record
		m = start(t, cfg)
		twoServices(m)
		td := spiffeid.RequireTrustDomainFromString(trustDomain)
		next := testca.Sign(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "next"}, URIs: []*url.URL{td.ID().URL()}, NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{2},
		}, nil)
		old := m.certs.root
		want := func(what string, untold, outdated int) {
			t.Helper()
			synctest.Wait()
			gotUntold, gotOutdated := record.Untold([]*x509.Certificate{old.Cert, next.Cert}), record.Outdated(next.Cert)
			if len(gotUntold) != untold || len(gotOutdated) != outdated {
				t.Fatalf("%s: untold %v, outdated %v, want %d and %d", what, gotUntold, gotOutdated, untold, outdated)
			}
		}
		c := m.stream("web")
		want("connected", 0, 0)
		c.configure()
		want("configured", 1, 1)

		both := []sds.Root{{ID: "1", Certificate: old.Cert}, {ID: "2", Certificate: next.Cert}}
		m.certs.roots.Set(sds.NewRoots(td, "2", both))
		time.Sleep(time.Second)
		c.accept("secret peers/web")
		want("one of two secrets", 1, 1)
		c.refuse("secret roots", "no")
		want("refused", 1, 1)
		time.Sleep(firstRetry)
		c.accept("secret roots")
		want("accepted", 0, 1)

		m.certs.mu.Lock()
		m.certs.root = next
		m.certs.mu.Unlock()
		m.certs.rotate()
		time.Sleep(time.Second)
		leaf := c.expect("secret leaf/web")
		want("the leaf is sent", 0, 1)
		c.must(c.s.ACK(leaf))
		want("the leaf is accepted", 0, 0)

		// The old root is retired.
		m.certs.roots.Set(sds.NewRoots(td, "2", both[1:]))
		time.Sleep(time.Second)
		c.accept("secret peers/web")
		c.accept("secret roots")
		want("the old root has left", 1, 0)
		if got := record.Untold([]*x509.Certificate{next.Cert}); len(got) != 0 {
			t.Errorf("untold of the new root: %v", got)
		}
	})
}

// TestEndConnections gives the chain of a service another name, whatever ends its connections else, and the same one after a restart.
func TestEndConnections(t *testing.T) {
	for _, revocation := range []catalog.Revocation{catalog.Drain, catalog.NewConnections} {
		synctest.Test(t, func(t *testing.T) {
			cfg := patient()
			cfg.GenerationsFile = filepath.Join(t.TempDir(), "generations")
			m := start(t, cfg)
			twoServices(m)
			m.contents.Proxies[1].Inbound.Revocation = revocation
			m.publish()
			c := m.stream("api")
			first := c.configureAPI()
			m.server.EndConnections()
			ended := chainName(t, c.accept("listener public_listener:127.0.0.1:20001"))
			c.silence()
			if ended == first {
				t.Errorf("%s: the chain is %s still", revocation, first)
			}
			time.Sleep(time.Second)
			m.stop()
			m.run(cfg)
			time.Sleep(time.Second)
			c = m.stream("api")
			if again := c.configureAPI(); again != ended {
				t.Errorf("%s: after a restart the chain is %s, want %s", revocation, again, ended)
			}
		})
	}
}
