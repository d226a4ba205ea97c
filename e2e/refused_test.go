//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestRefusedListener: Envoy cannot bind a port that it is told to listen on. The status says so in Envoy's words, the rest goes on, the listener is
// not offered again and again, and it heals when the port is freed.
func TestRefusedListener(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("*", meshtest.Intentions{"web": "allow"})
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	web := cars[0]
	web.MayRefuse()
	load := startLoad(t, meshtest.LoadConfig{URL: "http://" + m.Upstream("web", "api"), KeepAlive: 20, Fresh: 5})

	port := m.ReserveUpstream("web", "db")
	holder, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
	meshtest.Await(t, "the status says what Envoy refused", func() error {
		p, err := m.Proxy("web")
		if err != nil {
			return err
		}
		if p.LastNACK == nil {
			return fmt.Errorf("no NACK: %s", p)
		}
		if !strings.Contains(p.LastNACK.Message, strconv.Itoa(port)) || !strings.Contains(strings.Join(p.LastNACK.Resources, " "), "db") {
			return fmt.Errorf("NACK without the port or the listener: %s", p)
		}
		return nil
	})
	if text := m.MustRun("status"); !strings.Contains(text, "refuse") || !strings.Contains(text, strconv.Itoa(port)) {
		t.Errorf("status does not say that Envoy refused the port %d:\n%s", port, text)
	}
	first := web.Stats()["listener_manager.lds.update_rejected"]
	// Backoff is 5 s and more: in two seconds of silence there is no try.
	time.Sleep(2 * time.Second)
	if n := web.Stats()["listener_manager.lds.update_rejected"]; n > first+1 || n > 3 {
		t.Errorf("Envoy was offered the listener %d times within seconds, first %d", n, first)
	}
	// A change elsewhere still reaches Envoy.
	m.Intend("api", meshtest.Intentions{"web": "allow", "batch": "allow"})
	m.AwaitCheck("batch", "api", true)

	holder.Close()
	healed := meshtest.Await(t, "the upstream works once the port is free", func() error {
		return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "db"), "hello"))
	})
	rejected := web.Stats()["listener_manager.lds.update_rejected"]
	meshtest.Await(t, "the status is good again", func() error {
		p, err := m.Proxy("web")
		if err == nil && (!p.InSync || p.LastNACK != nil && p.LastNACK.Standing) {
			err = errors.New(p.String())
		}
		return err
	})
	unscathed(t, "beside a refused listener", load.Stop())
	figure(t, "rejected=%d healed_after_ms=%.0f", rejected, millis(healed))
}

// TestPortHolderIsNamed: `sallyport envoy` does not start an Envoy whose port somebody has, and says who.
func TestPortHolderIsNamed(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	s := m.Add(meshtest.Service{Name: "web"})
	m.Serve()
	holder, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	car := m.LaunchSidecar("web").Abandon()
	exit, ended := car.Wait(meshtest.Deadline)
	if !ended || exit == nil {
		t.Fatalf("sallyport envoy with its port in use: ended %v, %v", ended, exit)
	}
	for _, want := range []string{strconv.Itoa(s.Port), "in use", "web.hcl:"} {
		if !strings.Contains(car.Log(), want) {
			t.Errorf("sallyport envoy with its port in use does not say %q:\n%s", want, car.Log())
		}
	}
	if err := car.Ready(); err == nil {
		t.Error("an Envoy runs")
	}
}

// TestSecondControlPlane: a second control plane on the same state, or on the same sockets, refuses to start and does no harm.
func TestSecondControlPlane(t *testing.T) {
	t.Parallel()
	m, _, _, _ := pair(t)
	load := busy(t, m)
	for _, args := range [][]string{
		{"serve", "--catalog", m.Catalog, "--data", m.Data, "--runtime-dir", t.TempDir(), "--metrics-bind", ""},
		{"serve", "--catalog", m.Catalog, "--data", t.TempDir(), "--metrics-bind", "", "--runtime-dir", m.Runtime},
	} {
		r := m.RunAlone(args...)
		if r.Exit == 0 || r.Stderr == "" {
			t.Errorf("sallyport %s beside a running one: exit %d, %q", strings.Join(args, " "), r.Exit, r.Stderr)
		}
	}
	if p, err := m.Proxy("web"); err != nil || !p.Connected {
		t.Errorf("the first control plane afterwards: %v, %v", p, err)
	}
	unscathed(t, "beside a second control plane", load.Stop())
}
