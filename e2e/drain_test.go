//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestDrainedByHand: a drain that an operator asks an Envoy for ends live tcp connections on an Envoy that can end busy ones, where revocation
// is drain: Envoy knows one kind of draining (docs/operations.md). All others go on, and so do all if the Envoy is only said to be unhealthy.
func TestDrainedByHand(t *testing.T) {
	t.Parallel()
	const held = 20
	paths := map[string]string{"fail": "/healthcheck/fail", "stop": "/drain_listeners?inboundonly", "graceful": "/drain_listeners?graceful&skip_exit"}
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			echo := serveEcho(t, "")
			var names []string
			for path := range paths {
				for _, revocation := range []string{"drain", "new"} {
					name := path + "-" + revocation
					names = append(names, name)
					m.Add(meshtest.Service{Name: name, Local: echo, Config: []string{fmt.Sprintf("revocation = %q", revocation)}})
				}
			}
			m.Add(meshtest.Service{Name: "web", Upstreams: names})
			m.Intend("*", meshtest.Intentions{"web": "allow"})
			m.Serve()
			cars := m.Sidecars(append(names, "web")...)
			for i, name := range names {
				path, revocation, _ := strings.Cut(name, "-")
				var conns []net.Conn
				for range held {
					meshtest.Await(t, "a connection to "+name, func() error {
						conn, err := net.Dial("tcp", m.Upstream("web", name))
						if err != nil {
							return err
						}
						if a := meshtest.Exchange(conn, "x", 1); !a.Allowed() {
							conn.Close()
							return fmt.Errorf("%v", a)
						}
						t.Cleanup(func() { conn.Close() })
						conns = append(conns, conn)
						return nil
					})
				}
				live := func() (n int) {
					for _, conn := range conns {
						if meshtest.Exchange(conn, "x", 1).Allowed() {
							n++
						}
					}
					return n
				}
				want := held
				if envoy == meshtest.Version && revocation == "drain" && path != "fail" {
					want = 0
				}
				post(t, cars[i], paths[path])
				say := func() error {
					if n := live(); n != want {
						return fmt.Errorf("%d of %d connections of %s live, want %d", n, held, name, want)
					}
					return nil
				}
				if want == 0 {
					meshtest.Await(t, paths[path]+" ends connections", say)
				} else {
					meshtest.Holds(t, paths[path]+" ends no connection", time.Second, say)
				}
				figure(t, "path=%s revocation=%s live=%d of=%d", paths[path], revocation, live(), held)
			}
		})
	}
}

// post asks an Envoy's admin interface for something that changes it.
func post(t *testing.T, s *meshtest.Sidecar, path string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.AdminSocket())
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Post("http://envoy"+path, "", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
	}
}
