//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/xdstest"
	"google.golang.org/grpc/metadata"
)

// TestControlPlaneAway is a control plane from files that is away for two fifths of the leafs' life, which is the shortest that there is. Nobody
// notices, and the leafs are renewed when it is back. (Beside Consul it is TestConsulControlPlaneAway.)
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	const life = time.Minute
	m, web, api, db := pair(t, "--leaf-ttl", life.String())
	cars := []*meshtest.Sidecar{web, api, db}
	leafs := func() (serials map[string]string, first time.Time) {
		t.Helper()
		serials = map[string]string{}
		for _, car := range cars {
			leaf, err := car.Leaf()
			if err != nil {
				t.Fatal(err)
			}
			serials[car.Name] = leaf.Serial
			if first.IsZero() || leaf.Expires.Before(first) {
				first = leaf.Expires
			}
		}
		return serials, first
	}
	before, _ := leafs()
	same := unmodified(t, cars...)
	load := busy(t, m)
	m.KillServe()
	time.Sleep(life * 2 / 5)
	m.Serve()
	_, first := leafs()
	time.Sleep(time.Until(first.Add(3 * time.Second))) // the last of the old ones has ended
	after, ends := leafs()
	for name, serial := range before {
		if after[name] == serial {
			t.Errorf("%s still has the leaf %s", name, serial)
		}
	}
	if time.Until(ends) < 0 {
		t.Errorf("a leaf ended at %v", ends)
	}
	unscathed(t, "control plane away for two fifths of the leafs' life", load.Stop())
	same("control plane away")
}

// TestBadSecret: of the secrets of a service one is spoiled on its way. Its Envoy refuses that one alone, all that do not need it go on, the status
// names it, it is not sent in a hot loop, and it heals.
func TestBadSecret(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{"1.36.4", meshtest.Version} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			upstreams := []string{"a", "b", "c"}
			for _, name := range upstreams {
				m.Add(meshtest.Service{Name: name, Protocol: "http", Local: serveHTTP(t, "hello from "+name)})
				m.Intend(name, meshtest.Intentions{"web": "allow"})
			}
			m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, ""), Upstreams: upstreams})
			m.Add(meshtest.Service{Name: "job", Upstreams: []string{"web"}})
			m.Intend("web", meshtest.Intentions{"job": "allow"})
			m.Serve()
			var spoil atomic.Bool
			var sent atomic.Int64
			startRelay(t, m, func(r *discoveryv3.Resource) error {
				if r.GetName() != "peers/web" {
					return nil
				}
				sent.Add(1)
				return alterAny(r.Resource, &tlsv3.Secret{}, func(s *tlsv3.Secret) error {
					if c := s.GetValidationContext(); spoil.Load() && c != nil {
						c.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "no certificate"}}
					}
					return nil
				})
			})
			cars := m.Sidecars("a", "b", "c", "job", "web")
			web := cars[4]
			web.MayRefuse()
			echo := func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("job", "web"), "hello")) }
			meshtest.Await(t, "job reaches web", echo)
			load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "a"), KeepAlive: 20, Fresh: 5})
			before := sent.Load()
			spoil.Store(true)
			m.Intend("web", meshtest.Intentions{"job": "allow", "a": "allow"}) // changes peers/web
			meshtest.Await(t, "the status names the secret", func() error { return refuses(m, "peers/web") })
			rotated := web.Stats().Updates()["SDS"]
			if r := m.Run("leaf", "rotate", "web"); r.Exit != 0 {
				t.Fatalf("leaf rotate: %s", r.Stderr)
			}
			meshtest.Await(t, "the other secrets come", func() error {
				if web.Stats().Updates()["SDS"] == rotated {
					return errNothing
				}
				return nil
			})
			for _, u := range upstreams {
				if a := meshtest.GetPlain("http://" + m.Upstream("web", u)); a.Status != http.StatusOK {
					t.Errorf("web → %s: %v", u, a)
				}
			}
			if err := echo(); err != nil { // by the secret that it had
				t.Errorf("job → web: %v", err)
			}
			time.Sleep(20 * time.Second)
			pushes := sent.Load() - before
			if pushes > 4 {
				t.Errorf("the refused secret was sent %d times in 20 s", pushes)
			}
			spoil.Store(false)
			_, err := meshtest.Within(70*time.Second, func() error {
				if p, err := m.Proxy("web"); err != nil || !p.InSync {
					return fmt.Errorf("%s, %w", p, err)
				}
				return echo()
			})
			if err != nil {
				t.Errorf("it does not heal: %v", err)
			}
			unscathed(t, "beside a bad secret", load.Stop())
			figure(t, "pushes_in_20s=%d", pushes)
		})
	}
}

// TestRefusedPushes counts how often what an Envoy refuses is sent in a minute: fewer than five times.
func TestRefusedPushes(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Serve()
	const bad = "public_listener"
	envoy := asEnvoy(t, m, "web")
	var sent atomic.Int64
	envoy.Refuse = func(r *discoveryv3.DeltaDiscoveryResponse) string {
		for _, res := range r.GetResources() {
			if strings.HasPrefix(res.GetName(), bad) {
				sent.Add(1)
				return "cannot bind"
			}
		}
		return ""
	}
	runEnvoys(t, m, map[string]*xdstest.Envoy{"web": envoy})
	meshtest.Await(t, "the status says that it refuses", func() error { return m.SaysOf("web", "cannot bind") })
	time.Sleep(time.Minute)
	if n := sent.Load(); n < 2 || n >= 5 {
		t.Errorf("it was sent %d times in a minute", n)
	}
	figure(t, "pushes_in_60s=%d", sent.Load())
}

// asEnvoy is an Envoy without a process, as that of a service's sidecar.
func asEnvoy(t *testing.T, m *meshtest.Mesh, service string) *xdstest.Envoy {
	t.Helper()
	conn, err := dialXDS(filepath.Join(m.Runtime, "xds.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return xdstest.NewEnvoy(conn, &corev3.Node{Id: service + "-sidecar-proxy", Cluster: service, UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"}})
}

// runEnvoys runs Envoys without processes until the test ends.
func runEnvoys(t *testing.T, m *meshtest.Mesh, envoys map[string]*xdstest.Envoy) {
	t.Helper()
	for service, e := range envoys {
		b := makeBootstrap(t, m, service)
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+b.token, "x-sallyport-proxy", b.node))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				_ = e.Run(ctx)
				time.Sleep(50 * time.Millisecond)
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
}

// TestVersionsStay: the same catalog gives the same resources under the same versions, whatever the order and the files in which it is written and however
// many processors there are.
func TestVersionsStay(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	const services = 12
	name := func(n int) string { return fmt.Sprintf("svc-%d", n%services) }
	app := serveHTTP(t, "hello")
	ports := map[string]int{}
	for n := range services {
		ports[name(n)] = m.Port()
	}
	var parts []string
	for n := range services {
		protocol := []string{"tcp", "http"}[n%2]
		var ups []string
		for k := 1; k < 4; k++ {
			ups = append(ups, fmt.Sprintf("{ destination_name = %q, local_bind_port = %d }", name(n+k), 30000+10*n+k))
		}
		parts = append(parts,
			fmt.Sprintf("services {\n name = %q\n port = %d\n connect {\n  sidecar_service {\n   port = %d\n   proxy { upstreams = [%s] }\n  }\n }\n}\n", name(n), app.Port(), ports[name(n)], strings.Join(ups, ", ")),
			fmt.Sprintf("Kind = \"service-defaults\"\nName = %q\nProtocol = %q\n", name(n), protocol),
			fmt.Sprintf("Kind = \"service-intentions\"\nName = %q\nSources = [{ Name = %q, Action = \"allow\" }, { Name = %q, Action = \"deny\" }, { Name = \"*\", Action = \"allow\" }]\n", name(n), name(n+1), name(n+2)))
	}
	written := 0 // files
	versions := func(seed uint64, procs string) map[string]string {
		t.Helper()
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		for ; written > 0; written-- {
			m.Remove(fmt.Sprintf("%d.hcl", written-1))
		}
		services := map[int]string{} // several in a file; entries have files of their own
		into := 1 + r.IntN(8)
		for n, part := range parts {
			if strings.HasPrefix(part, "services {") {
				services[n%into] += part
				continue
			}
			m.Write(fmt.Sprintf("%d.hcl", written), part)
			written++
		}
		for _, n := range slices.Sorted(maps.Keys(services)) {
			m.Write(fmt.Sprintf("%d.hcl", written), services[n])
			written++
		}
		m.SetEnv("GOMAXPROCS=" + procs)
		m.Serve()
		defer m.KillServe()
		envoy := asEnvoy(t, m, "svc-1")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b := makeBootstrap(t, m, "svc-1")
		go func() {
			_ = envoy.Run(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+b.token, "x-sallyport-proxy", b.node))
		}()
		meshtest.Await(t, "the Envoy has all", func() error {
			if !envoy.Complete() {
				return errors.New("it has not")
			}
			return nil
		})
		out := map[string]string{}
		for _, typ := range []string{"cluster.v3.Cluster", "endpoint.v3.ClusterLoadAssignment", "listener.v3.Listener", "route.v3.RouteConfiguration", "core.v3.TypedExtensionConfig"} {
			for name, v := range envoy.Versions("type.googleapis.com/envoy.config." + typ) {
				out[typ+" "+name] = v
			}
		}
		for name, v := range envoy.Versions(secretType) {
			if !strings.HasPrefix(name, "leaf/") { // a new key each time
				out["secret "+name] = v
			}
		}
		return out
	}
	first := versions(1, "1")
	if len(first) < 10 {
		t.Fatalf("%d resources: %v", len(first), first)
	}
	for n, procs := range []string{"8", "1", "2", "8"} {
		got := versions(uint64(n)+2, procs)
		for _, k := range slices.Sorted(maps.Keys(first)) {
			if got[k] != first[k] {
				t.Errorf("with %s processors, order %d: %s has the version %s, and had %s", procs, n+2, k, got[k], first[k])
			}
		}
		if len(got) != len(first) {
			t.Errorf("with %s processors, order %d: %d resources, and had %d", procs, n+2, len(got), len(first))
		}
	}
	figure(t, "resources=%d orders=5", len(first))
}
