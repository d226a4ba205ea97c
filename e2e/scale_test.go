//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/xdstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

// scaled is the number for the long form of a test, or a tenth of it.
func scaled(n int) int {
	if os.Getenv(longVariable) != "" {
		return n
	}
	return n / 10
}

// procStatus is a number out of /proc/PID/status, in bytes where that has kB: "VmHWM", "VmRSS".
func procStatus(t *testing.T, pid int, key string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("%s is not in /proc/%d/status", key, pid)
	return 0
}

// processorTime is what a process has used.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(after) // proc_pid_stat(5): utime and stime are the 14th and 15th
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// goroutines is how many the control plane has.
func goroutines(t *testing.T, m *meshtest.Mesh) (n int) {
	t.Helper()
	h := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.Runtime, "admin.sock"))
	}}}
	resp, err := h.Get("http://sallyport/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b), "goroutine profile: total %d", &n); err != nil {
		t.Fatalf("%v: %.100s", err, b)
	}
	return n
}

// most fails the test if something took more than it may. The bounds are of the long form; a tenth of the size may take as much. Times are
// of the control plane's processors, two of which a promise of seconds is about: what the clock shows depends on who else is busy.
func most[T int64 | time.Duration](t *testing.T, what string, got, want T) {
	t.Helper()
	if got > want {
		t.Errorf("%s: %v, want at most %v", what, got, want)
	}
}

// TestHugeCatalog: 5,000 services of 20 instances each and 10,000 intentions (in the long form; else a tenth of the services). A real Envoy is ready
// soon after the start, an endpoint's change reaches it, and nothing is done when nothing changes.
func TestHugeCatalog(t *testing.T) { // it needs the machine for itself
	const instances, upstreams = 20, 20
	services := scaled(5000)
	m := newMesh(t)
	m.SetFlags("--log-level", "info")
	port := func(service, instance int) int { return 10000 + (service*instances+instance)%20000 }
	write := func(service, shift int) {
		t.Helper()
		type object = map[string]any
		name := fmt.Sprintf("svc-%d", service)
		var all []object
		for i := range instances {
			all = append(all, object{
				"name": name, "id": fmt.Sprintf("%s-%d", name, i), "address": fmt.Sprintf("10.%d.%d.%d", service>>8, service&255, i+1), "port": 80,
				"connect": object{"sidecar_service": object{"port": port(service, i) + shift*(i/(instances-1))}},
			})
		}
		b, err := json.Marshal(object{"services": all})
		if err != nil {
			t.Fatal(err)
		}
		m.Write(name+".json", string(b))
		b, err = json.Marshal(object{"Kind": "service-intentions", "Name": name, "Sources": []object{{"Name": "web", "Action": "allow"}, {"Name": fmt.Sprintf("svc-%d", (service+1)%services), "Action": "allow"}}})
		if err != nil {
			t.Fatal(err)
		}
		m.Write(name+"-intentions.json", string(b))
	}
	var dialled []string
	for n := range services {
		write(n, 0)
		if n < upstreams {
			dialled = append(dialled, fmt.Sprintf("svc-%d", n))
		}
	}
	m.Add(meshtest.Service{Name: "web", Upstreams: dialled})
	began := time.Now()
	m.Launch()
	if _, err := meshtest.Within(2*time.Minute, func() error {
		s, err := m.StatusNow()
		if err == nil && len(s.NotReady) > 0 {
			err = fmt.Errorf("not ready: %v", s.NotReady)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ready := time.Since(began)
	pid := m.ServeProcess().PID()
	car := m.Sidecar("web")
	first, firstCPU := time.Since(began), processorTime(t, pid)
	endpoints := func(cluster string) string {
		for part := range strings.SplitSeq(car.Admin("/clusters"), "\n") {
			if strings.HasPrefix(part, cluster+".") && strings.Contains(part, "::10.0."+strings.TrimPrefix(cluster, "svc-")+".20:") {
				return part
			}
		}
		return ""
	}
	var took []time.Duration
	for n := range upstreams {
		name := dialled[n]
		before := endpoints(name)
		if before == "" {
			t.Fatalf("%s has no 20th endpoint", name)
		}
		write(n, 20000)
		took = append(took, meshtest.Await(t, "the changed endpoint of "+name, func() error {
			if now := endpoints(name); now == "" || strings.Contains(now, fmt.Sprintf(":%d::", port(n, instances-1))) {
				return fmt.Errorf("%s", now)
			}
			return nil
		}))
	}
	slices.Sort(took)
	time.Sleep(2 * time.Second)
	idle := processorTime(t, pid)
	change := (idle - firstCPU) / upstreams
	time.Sleep(10 * time.Second)
	idle = processorTime(t, pid) - idle
	peak := procStatus(t, pid, "VmHWM")
	figure(t, "services=%d instances=%d intentions=%d ready_ms=%.0f envoy_ready_ms=%.0f envoy_ready_cpu_ms=%.0f endpoint_p50_ms=%.0f endpoint_max_ms=%.0f endpoint_cpu_ms=%.0f peak_mb=%d idle_cpu_ms_per_s=%.1f",
		services, services*instances, 2*services, millis(ready), millis(first), millis(firstCPU), millis(took[len(took)/2]), millis(took[len(took)-1]), millis(change), peak>>20, millis(idle)/10)
	most(t, "peak memory", peak, 2<<30)
	most(t, "the first snapshot", firstCPU, 2*10*time.Second)
	most(t, "an endpoint's change", change, 2*time.Second)
	most(t, "processor time of 10 s in which nothing changes", idle, time.Second)
}

// TestTenThousandStreams: 10,000 streams (in the long form; else a tenth) that connect at once are served, one change of an endpoint that all use reaches
// all, and of streams that have ended nothing is left.
func TestTenThousandStreams(t *testing.T) { // it needs the machine for itself
	n := scaled(10_000)
	const hubs = 4
	m := newMesh(t)
	m.SetFlags("--log-level", "warn")
	hub := func(shift int) {
		t.Helper()
		var text strings.Builder
		for i := range hubs {
			fmt.Fprintf(&text, "services {\n name = \"hub-%d\"\n address = \"10.0.0.%d\"\n port = 80\n connect { sidecar_service { port = %d } }\n}\n", i, i+1, 20000+shift)
		}
		m.Write("hubs.hcl", text.String())
	}
	hub(0)
	id := func(k int) string { return fmt.Sprintf("user-%d", k) }
	for from := 0; from < n; from += 500 {
		var text strings.Builder
		for k := from; k < min(from+500, n); k++ {
			// All on one machine: each sidecar has addresses of its own.
			addr := fmt.Sprintf("127.%d.%d.%d", 1+k/62500, k/250%250, 1+k%250)
			fmt.Fprintf(&text, "services {\n name = %q\n port = 80\n connect {\n  sidecar_service {\n   address = %q\n   port = 20000\n   proxy { upstreams = [{ destination_name = \"hub-%d\", local_bind_address = %q, local_bind_port = 9000 }, { destination_name = \"hub-%d\", local_bind_address = %q, local_bind_port = 9001 }] }\n  }\n }\n}\n",
				id(k), addr, k%hubs, addr, (k+1)%hubs, addr)
		}
		m.Write(fmt.Sprintf("users-%d.hcl", from), text.String())
	}
	m.Serve()
	client, err := admin.Find(m.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	pid := m.ServeProcess().PID()
	idle := goroutines(t, m)
	envoys, contexts := make([]*xdstest.Envoy, n), make([]context.Context, n)
	var conns []*grpc.ClientConn
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for k := range n {
		if k%200 == 0 {
			c, err := dialXDS(filepath.Join(m.Runtime, "xds.sock"))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			t.Cleanup(func() { c.Close() })
		}
		a, err := client.Token(t.Context(), admin.TokenRequest{SidecarFor: id(k), TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		envoys[k] = xdstest.NewEnvoy(conns[len(conns)-1], &corev3.Node{Id: a.ProxyID, Cluster: id(k), UserAgentName: "envoy"})
		contexts[k] = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.Token, "x-sallyport-proxy", a.ProxyID)
	}
	var running sync.WaitGroup
	began, cpu := time.Now(), processorTime(t, pid)
	for k, e := range envoys {
		running.Go(func() { _ = e.Run(contexts[k]) })
	}
	limit, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	for k, e := range envoys {
		if !e.Await(limit, e.Complete) {
			t.Fatalf("%s has not all it needs after %v", id(k), time.Since(began))
		}
	}
	connected, connectedCPU := time.Since(began), processorTime(t, pid)-cpu
	time.Sleep(3 * time.Second) // the last ACKs
	versions := make([]string, n)
	cluster := func(k int) string {
		for name := range envoys[k].Versions(endpointType) {
			if strings.HasPrefix(name, fmt.Sprintf("hub-%d.", k%hubs)) {
				return name
			}
		}
		return ""
	}
	for k, e := range envoys {
		versions[k] = e.Versions(endpointType)[cluster(k)]
	}
	cpu = processorTime(t, pid)
	hub(1)
	changed := time.Now()
	for k, e := range envoys {
		if !e.Await(limit, func() bool { return e.Versions(endpointType)[cluster(k)] != versions[k] }) {
			t.Fatalf("%s has not been told after %v", id(k), time.Since(changed))
		}
	}
	pushed, pushedCPU := time.Since(changed), processorTime(t, pid)-cpu
	peak := procStatus(t, pid, "VmHWM")
	cancel()
	running.Wait()
	for _, c := range conns {
		c.Close()
	}
	var left int
	_, err = meshtest.Within(meshtest.Deadline, func() error {
		if left = goroutines(t, m); left > idle+10 {
			return fmt.Errorf("%d goroutines, %d before the streams", left, idle)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	figure(t, "streams=%d connected_ms=%.0f connected_cpu_ms=%.0f pushed_to_all_ms=%.0f pushed_cpu_ms=%.0f peak_mb=%d goroutines_before=%d goroutines_after=%d", n, millis(connected), millis(connectedCPU), millis(pushed), millis(pushedCPU), peak>>20, idle, left)
	most(t, "peak memory", peak, 2<<30)
	most(t, "to connect all and have them warm", connectedCPU, 2*30*time.Second)
	most(t, "to tell all of a change", pushedCPU, 2*5*time.Second)
}
