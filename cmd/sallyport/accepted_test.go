package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
)

// openAccepted opens the record in a data directory as serve does, and returns what ends it.
func openAccepted(t *testing.T, data string) (p *controlPlane, end func()) {
	t.Helper()
	p = &controlPlane{
		cfg: serveConfig{Data: data, LeafTTL: 72 * time.Hour, CAConfig: map[string]any{"leaf_cert_ttl": "168h"}}, log: slog.New(slog.DiscardHandler),
		metrics: prometheus.NewRegistry(), store: &catalog.Store{}, streamsEnded: make(chan struct{}), served: make(chan struct{}),
	}
	p.store.Views.Set(exampleView())
	for _, open := range []func() error{p.openIssuance, p.openAcceptance} {
		if err := open(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	for _, run := range p.runs {
		runs.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	close(p.streamsEnded)
	cancel()
	return p, sync.OnceFunc(func() {
		close(p.served)
		runs.Wait()
	})
}

// TestAcceptedAtTheEnd: what is given while the servers end is recorded, as they wait for what is under way.
func TestAcceptedAtTheEnd(t *testing.T) {
	data := t.TempDir()
	p, end := openAccepted(t, data)
	defer end()
	leaf := testca.Sign(t, &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/svc/job"}}}, nil)
	time.Sleep(300 * time.Millisecond) // so long does a record that does not wait go on
	p.accepted.FetchedLeaf(identity.Caller{Application: "uid 7"}, []*x509.Certificate{leaf.Cert})
	end()
	again, end := openAccepted(t, data)
	defer end()
	if got := again.accepted.Holders(); len(got) != 1 || got[0] != "uid 7" {
		t.Errorf("holders %q, want uid 7", got)
	}
}

// TestAcceptedLife: after a crash everybody is waited for as long as a leaf lives, also where ca_config says how long.
func TestAcceptedLife(t *testing.T) {
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "accepted-certificates"), nil, 0o600); err != nil { // a process that ended in order has a last line
		t.Fatal(err)
	}
	p, end := openAccepted(t, data)
	defer end()
	all := p.accepted.Untold(nil)
	if len(all) == 0 {
		t.Fatal("nobody is waited for")
	}
	if left := time.Until(all[0].Ends); left < 167*time.Hour || left > 168*time.Hour {
		t.Errorf("%s is waited for for %s, want 168h", all[0].Name, left)
	}
}
