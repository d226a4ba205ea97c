//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestRefusedCluster: an Envoy that refuses the cluster of a route starts and serves the rest, answers 503 for the route's share, and the status
// names the cluster; so does one that runs already. Nothing that files can say is known to make a cluster that Envoy
// refuses, so one is spoiled on its way.
func TestRefusedCluster(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			for _, name := range []string{"api", "bad", "good", "late"} {
				m.Add(meshtest.Service{Name: name, Protocol: "http", Local: serveHTTP(t, "hello from "+name)})
				m.Intend(name, meshtest.Intentions{"web": "allow"})
			}
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"bad", "good", "api"}})
			m.Serve()
			var spoiled atomic.Pointer[string]
			spoil := func(what string) { spoiled.Store(&what) }
			spoil("bad.")
			startRelay(t, m, func(r *discoveryv3.Resource) error {
				return alterAny(r.Resource, &clusterv3.Cluster{}, func(c *clusterv3.Cluster) error {
					if what := *spoiled.Load(); what != "" && strings.Contains(c.Name, what) {
						c.ConnectTimeout = durationpb.New(-time.Second)
					}
					return nil
				})
			})
			m.Sidecars("api", "bad", "good", "late")
			began := time.Now()
			web := m.LaunchSidecar("web")
			web.MayRefuse()
			web.AwaitReady()
			started := time.Since(began)

			get := func(addr string) meshtest.Answer { return meshtest.GetPlain("http://" + addr) }
			unavailable := func(addr string) error {
				if a := get(addr); a.Status != http.StatusServiceUnavailable {
					return fmt.Errorf("%v, want 503", a)
				}
				return nil
			}
			inSync := func() error {
				if p, err := m.Proxy("web"); err != nil || !p.InSync {
					return fmt.Errorf("%s, %w", p, err)
				}
				return nil
			}
			meshtest.Await(t, "503 for the cluster's share", func() error { return unavailable(m.Upstream("web", "bad")) })
			for _, name := range []string{"good", "api"} {
				meshtest.Await(t, "the others are served", func() error { return wantAllowed(get(m.Upstream("web", name))) })
			}
			meshtest.Await(t, "the status names the cluster", func() error { return refuses(m, "bad.") })
			spoil("")
			healed := meshtest.Await(t, "the cluster is offered again", func() error { return wantAllowed(get(m.Upstream("web", "bad"))) })
			meshtest.Await(t, "all is in sync", inSync)
			figure(t, "started_ms=%.0f healed_ms=%.0f", millis(started), millis(healed))

			// The same of an Envoy that runs.
			spoil("late.")
			load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "good"), KeepAlive: 20, Fresh: 5})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"bad", "good", "api", "late"}})
			refused := meshtest.Await(t, "503 for the new cluster's share", func() error { return unavailable(m.Upstream("web", "late")) })
			meshtest.Await(t, "the status names the new cluster", func() error { return refuses(m, "late.") })
			spoil("")
			healed = meshtest.Await(t, "the new cluster is offered again", func() error { return wantAllowed(get(m.Upstream("web", "late"))) })
			meshtest.Await(t, "all is in sync again", inSync)
			unscathed(t, "beside a refused cluster", load.Stop())
			figure(t, "refused_ms=%.0f healed_ms=%.0f", millis(refused), millis(healed))
		})
	}
}

// refuses is nil if the status says that web's Envoy stands by its refusal of one cluster of such a name.
func refuses(m *meshtest.Mesh, name string) error {
	p, err := m.Proxy("web")
	if err != nil {
		return err
	}
	if n := p.LastNACK; p.InSync || n == nil || !n.Standing || !strings.Contains(strings.Join(n.Resources, " "), name) {
		return fmt.Errorf("the status does not name %s: %s", name, p)
	}
	if text := m.MustRun("status"); !strings.Contains(text, "refuses 1 resource") {
		return fmt.Errorf("the status for people does not say so:\n%s", text)
	}
	return nil
}
