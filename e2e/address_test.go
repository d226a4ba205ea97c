//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestSocketsAndHostnames runs a service whose application listens on a Unix socket, which is registered under a host name, and which is dialled
// through a Unix socket.
func TestSocketsAndHostnames(t *testing.T) {
	t.Parallel()
	app := serveHTTP(t, "hello from a socket")
	m := newMesh(t)
	dir, err := os.MkdirTemp("", "sockets-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	local, upstream := filepath.Join(dir, "api.sock"), filepath.Join(dir, "upstream.sock")
	forward(t, local, app.Addr)
	port := m.Port()
	m.Write("api.hcl", fmt.Sprintf(`service {
  name    = "api"
  id      = "api"
  address = "localhost"
  port    = %d
  connect { sidecar_service {
    port = %d
    proxy {
      local_service_socket_path = %q
      config { bind_address = "127.0.0.1" }
    }
  } }
}
`, app.Port(), port, local))
	m.Write("api-defaults.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n")
	for _, s := range []string{"web", "batch"} {
		m.Write(s+".hcl", fmt.Sprintf(`service {
  name    = %q
  id      = %q
  address = "127.0.0.1"
  port    = 1
  connect { sidecar_service {
    port = %d
    proxy { upstreams = [{ destination_name = "api", local_bind_socket_path = %q, local_bind_socket_mode = "0600" }] }
  } }
}
`, s, s, m.Port(), upstream+"."+s))
	}
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("api", "web", "batch")
	if info, err := os.Stat(upstream + ".web"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("web's upstream socket: %v, %v; want mode 0600", info, err)
	}
	ask := func(service string) meshtest.Answer {
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", upstream+"."+service)
		}}
		return meshtest.Get(tr, "http://api/")
	}
	meshtest.Await(t, "web → api, whose name has to be looked up", func() error { return wantAllowed(ask("web")) })
	requests := app.Requests.Load()
	if a := ask("batch"); a.Status != http.StatusForbidden || app.Requests.Load() != requests {
		t.Errorf("batch → api: %v, %d requests reached the application", a, app.Requests.Load()-requests)
	}
}

// forward listens on a Unix socket and hands connections to addr.
func forward(t *testing.T, socket, addr string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
}

// TestLongStream: a response that takes longer than any default timeout of Envoy's or Consul's (15 s) arrives whole, while leafs rotate, an unrelated intention
// changes and the control plane restarts.
func TestLongStream(t *testing.T) {
	t.Parallel()
	const ticks, every = 36, 500 * time.Millisecond
	app, err := meshtest.ServeHTTP("127.0.0.1:0", "", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range ticks {
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(every):
			}
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Close)
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: app})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	cars := m.Sidecars("api", "web")
	var wg sync.WaitGroup
	var body []byte
	var readErr error
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), ticks*every+meshtest.Deadline)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Upstream("web", "api"), http.NoBody)
		if err != nil {
			readErr = err
			return
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			readErr = err
			return
		}
		defer resp.Body.Close()
		body, readErr = io.ReadAll(resp.Body)
	})
	rotate(t, m, 3, cars...)
	m.Intend("api", meshtest.Intentions{"web": "allow", "batch": "allow"})
	m.AwaitCheck("batch", "api", true)
	m.KillServe()
	m.Serve()
	m.AwaitConnected("web", "api")
	wg.Wait()
	if want := ticks * len("tick\n"); readErr != nil || len(body) != want {
		t.Errorf("a stream of %v: %d of %d bytes, %v", ticks*every, len(body), want, readErr)
	}
	figure(t, "stream_s=%.0f bytes=%d", (ticks * every).Seconds(), len(body))
}
