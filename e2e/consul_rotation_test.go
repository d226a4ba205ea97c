//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// besideBusy is load of every kind on the mesh that consulPair makes: 10 held tcp connections and 5 http streams among it.
func besideBusy(t *testing.T, m *meshtest.Mesh) *meshtest.Load {
	t.Helper()
	return startLoad(t, meshtest.LoadConfig{
		URL: "http://" + m.Upstream("web", "api"), KeepAlive: 100, Fresh: 25, Streams: 5,
		TCP: m.Upstream("web", "db"), Held: 10, Dialled: 20,
	})
}

// TestConsulRootRotation gives Consul's CA a new root under load, with a new key of the same kind and then with one of RSA. Every Envoy serves with a
// leaf that the new root has signed, and nobody notices.
func TestConsulRootRotation(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{})
	m := consulPair(t, c, "1s")
	m.Serve()
	cars := m.Sidecars("web", "api", "db")
	works(t, c, m)
	same := unmodified(t, cars...)
	load := besideBusy(t, m)
	for _, key := range []struct {
		kind   string
		config map[string]any
	}{
		{"ec", map[string]any{"PrivateKey": meshtest.ECKey(t)}},
		{"rsa", map[string]any{"PrivateKey": "", "PrivateKeyType": "rsa", "PrivateKeyBits": 2048}},
	} {
		rotated(t, cars, key.kind, func() { c.RotateRoot("consul", key.config) })
	}
	unscathed(t, "2 rotations of the root", load.Stop())
	same("2 rotations of the root")
	works(t, c, m)
	followed(t, c, m, cars[2])
}

// followed rotates the root while one Envoy is stopped: `sallyport ca status` names it until it has followed. Sallyport rotates nothing itself.
func followed(t *testing.T, c *meshtest.Consul, m *meshtest.Mesh, car *meshtest.Sidecar) {
	t.Helper()
	waits := func(what string, want bool) {
		t.Helper()
		if _, err := meshtest.Within(60*time.Second, func() error {
			s, err := caStatus(m)
			if name := "proxy " + car.Name + "-sidecar-proxy"; err == nil && (s.Rotation == nil || s.waits(name) != want) {
				err = fmt.Errorf("%s: waits for it is not %v: %+v", name, want, s)
			}
			return err
		}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	waits("before", false)
	pid := envoyOf(t, car)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.RotateRoot("consul", map[string]any{"PrivateKey": meshtest.ECKey(t)})
	waits("while it is stopped", true)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waits("when it has followed", false)
	if r := m.Run("ca", "rotate"); r.Exit == 0 || !strings.Contains(r.Stderr, "rotate its root with `consul connect ca set-config`") {
		t.Errorf("ca rotate: %+v", r)
	}
}

// rotated rotates the root under load, and waits until each Envoy serves with a leaf that the new one has signed.
func rotated(t *testing.T, cars []*meshtest.Sidecar, root string, rotate func()) {
	t.Helper()
	time.Sleep(time.Second) // so that there is load between the rotations
	before := map[string]string{}
	secrets := map[string]int64{}
	for _, car := range cars {
		l, err := car.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		before[car.Name], secrets[car.Name] = l.Serial, car.Stats().Updates()["SDS"]
	}
	start := time.Now()
	rotate()
	_, err := meshtest.Within(60*time.Second, func() error { // the agent spreads the making of new leafs over 30 s
		for _, car := range cars {
			l, err := car.Leaf()
			if err != nil {
				return err
			}
			if l.Serial == before[car.Name] {
				return fmt.Errorf("%s serves with its old leaf", car.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("after a rotation to %s: %v", root, err)
	}
	took := time.Since(start)
	time.Sleep(2 * time.Second) // whom the new leafs cost something notices it now
	for _, car := range cars {
		figure(t, "root=%s service=%s secrets_updated=%d listener_modified=%d", root, car.Name, car.Stats().Updates()["SDS"]-secrets[car.Name], car.Stats()["listener_manager.listener_modified"])
	}
	figure(t, "root=%s rotate_to_all_leafs_served_s=%.1f", root, took.Seconds())
}
