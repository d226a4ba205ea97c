//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestWaitsAreSmall: a question that waits keeps stacks of 6 KiB: its own of 4, and that of who notices that the client has gone. A frame
// too much on the way there doubles the first, which nothing else shows.
func TestWaitsAreSmall(t *testing.T) {
	t.Parallel()
	const waits, most = 800, 8 << 10
	m := newMesh(t)
	m.Write("api.hcl", "service {\n  name = \"api\"\n  port = 8443\n  connect { native = true }\n}\n")
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	token := strings.TrimSpace(m.MustRun("token", "create", "--reader"))
	ask := func(query string) net.Conn {
		c, err := net.Dial("unix", filepath.Join(m.Runtime, "http.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := fmt.Fprintf(c, "GET /v1/connect/intentions/match?by=destination&name=api%s HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: %s\r\n\r\n", query, token); err != nil {
			t.Fatal(err)
		}
		return c
	}
	answer := make([]byte, 2048)
	n, err := ask("").Read(answer)
	index := regexp.MustCompile(`X-Consul-Index: (\d+)`).FindSubmatch(answer[:n])
	if err != nil || index == nil {
		t.Fatalf("%v: %s", err, answer[:n])
	}
	before := metric(t, m, "go_memstats_stack_inuse_bytes")
	for range waits {
		ask("&wait=5m&index=" + string(index[1]))
	}
	meshtest.Await(t, "all to wait", func() error {
		if n := metric(t, m, "sallyport_api_waiting_requests"); n != waits {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	each := (metric(t, m, "go_memstats_stack_inuse_bytes") - before) / waits
	figure(t, "stacks_each=%d", each)
	if each > most {
		t.Errorf("the stacks of a question that waits have %d bytes, want %d at most", each, most)
	}
}

// metric is the value of a metric of the control plane that has no labels.
func metric(t *testing.T, m *meshtest.Mesh, name string) int {
	t.Helper()
	v := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metrics(t, m))
	if v == nil {
		t.Fatalf("there is no %s", name)
	}
	f, err := strconv.ParseFloat(v[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(f)
}
