//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestHTTP10: who speaks HTTP/1.0 to an upstream or an exposed path is served, with a host or without, unless accept_http_10 is false.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			app := serveHTTP(t, "hello")
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: app})
			addresses := map[string][]string{}
			for name, config := range map[string]string{"web": "", "strict": "accept_http_10 = false"} {
				upstream, exposed := m.Port(), m.Port()
				m.Write(name+".hcl", fmt.Sprintf(`service {
  name = %q
  port = %d
  connect { sidecar_service {
    port = %d
    proxy {
      config { %s }
      upstreams = [{ destination_name = "api", local_bind_port = %d }]
      expose { paths = [{ path = "/healthz", listener_port = %d, local_path_port = %d }] }
    }
  } }
}
`, name, app.Port(), m.Port(), config, upstream, exposed, app.Port()))
				for _, port := range []int{upstream, exposed} {
					addresses[name] = append(addresses[name], fmt.Sprintf("127.0.0.1:%d", port))
				}
			}
			m.Intend("api", meshtest.Intentions{"*": "allow"})
			m.Serve()
			m.Sidecars("api", "web", "strict")
			for name, want := range map[string]string{"web": "200", "strict": "426"} {
				for _, addr := range addresses[name] {
					for _, head := range []string{"GET /healthz HTTP/1.0\r\nHost: shop:1\r\n\r\n", "GET /healthz HTTP/1.0\r\n\r\n"} {
						meshtest.Await(t, fmt.Sprintf("%s, %q", name, head), func() error {
							conn, err := net.Dial("tcp", addr)
							if err != nil {
								return err
							}
							defer conn.Close()
							a := meshtest.Exchange(conn, head, len("HTTP/1.0 200"))
							if _, status, _ := strings.Cut(a.Body, " "); status != want {
								return fmt.Errorf("%q (%v), want %s", a.Body, a, want)
							}
							return nil
						})
					}
				}
			}
			for name := range addresses {
				if a := meshtest.GetPlain("http://" + addresses[name][0]); !a.Allowed() {
					t.Errorf("HTTP/1.1 of %s: %v", name, a)
				}
			}
		})
	}
}
