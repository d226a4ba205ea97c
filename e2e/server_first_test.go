//go:build e2e

package e2e

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

const banner = "220 secret-banner ESMTP ready\r\n"

// TestServerFirst: of a server that speaks before its client, the denied hear nothing, and it is never even dialled for them.
func TestServerFirst(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"rbac", "both"} { // ext_authz alone decides too late: the catalog refuses it, see TestBrokenFile
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			app := serveEcho(t, banner)
			m := newMesh(t)
			m.Add(meshtest.Service{Name: "mail", Local: app, Config: []string{fmt.Sprintf("intention_enforcement = %q", mode), "server_first = true"}})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"mail"}})
			m.Add(meshtest.Service{Name: "batch", Upstreams: []string{"mail"}})
			m.Intend("mail", meshtest.Intentions{"web": "allow"})
			m.Serve()
			m.Sidecars("mail", "web", "batch")
			load := startLoad(t, meshtest.LoadConfig{TCP: m.Upstream("web", "mail"), Banner: banner, Held: 1, Dialled: 5})
			time.Sleep(time.Second)
			unscathed(t, "allowed", load.Stop())

			dials := app.Dials.Load()
			public, certificate := m.Public("mail"), m.Authority().Issue(t, meshtest.LeafSpec{URIs: []string{m.URI("batch")}})
			var heard atomic.Int64
			var wg sync.WaitGroup
			denied := 0
			for range 10 {
				for _, try := range []func() meshtest.Answer{
					func() meshtest.Answer { return meshtest.ListenPlain(m.Upstream("batch", "mail"), time.Second) },
					func() meshtest.Answer { return meshtest.EchoPlain(m.Upstream("batch", "mail"), "EHLO batch\r\n") },
					// Without a sidecar of its own: with batch's certificate, without any, and without TLS.
					func() meshtest.Answer { return meshtest.Client{Certificate: certificate}.Listen(public, time.Second) },
					func() meshtest.Answer { return meshtest.Client{}.Listen(public, time.Second) },
					func() meshtest.Answer { return meshtest.ListenPlain(public, time.Second) },
				} {
					denied++
					wg.Go(func() { heard.Add(int64(len(try().Body))) })
				}
			}
			wg.Wait()
			dialled := app.Dials.Load() - dials
			figure(t, "denied_connections=%d bytes_heard=%d dials=%d", denied, heard.Load(), dialled)
			if heard.Load() != 0 || dialled != 0 {
				t.Errorf("the denied heard %d bytes and had the application dialled %d times", heard.Load(), dialled)
			}
			web := m.Client("web", "mail")
			if a := web.Listen(public, time.Second); a.Body != banner {
				t.Errorf("web's certificate hears %q, want the banner: %v", a.Body, a)
			}
		})
	}
}
