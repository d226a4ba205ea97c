//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// rotation is what `sallyport ca status` says of one.
type rotation struct {
	Roots    []struct{ State string }
	Rotation *struct {
		Phase   string
		Waiting []struct{ Name, Reason string }
	}
}

// waits reports whether the rotation waits for a holder.
func (r rotation) waits(name string) bool {
	if r.Rotation == nil {
		return false
	}
	for _, h := range r.Rotation.Waiting {
		if h.Name == name {
			return true
		}
	}
	return false
}

func caStatus(m *meshtest.Mesh) (r rotation, err error) {
	out := m.Run("ca", "status", "--json")
	if out.Exit != 0 {
		return r, errors.New(out.Stderr)
	}
	return r, json.Unmarshal([]byte(out.Stdout), &r)
}

// TestCARotation replaces the root under load while one sidecar is stopped, and kills the control plane in each phase: who is stopped is
// named and waited for, also after the start, nobody notices anything, and a leaf of the old root is refused in the end.
func TestCARotation(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello from api")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
	m.Add(meshtest.Service{Name: "aside", Upstreams: []string{"db"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"web": "allow", "aside": "allow"})
	m.Serve()
	cars := m.Sidecars("web", "api", "db", "aside")
	aside := cars[3]
	// An application of web, which has a leaf, and fetches another one when it is told.
	app := newApplication(apiOf(t, m), "web")
	old := app.leaf.Load()
	dial := func(cert *tls.Certificate) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		d := tls.Dialer{Config: &tls.Config{Certificates: []tls.Certificate{*cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
		conn, err := d.DialContext(ctx, "tcp", m.Public("db"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintln(conn, "x"); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	if err := dial(old); err != nil {
		t.Fatalf("before the rotation: %v", err)
	}
	same := unmodified(t, cars...)
	load := busy(t, m)

	pid := envoyOf(t, aside)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	t.Cleanup(func() {
		if !resumed {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	start := time.Now()
	m.MustRun("ca", "rotate")
	named := func(what string) {
		t.Helper()
		meshtest.Await(t, what, func() error {
			s, err := caStatus(m)
			if err == nil && (s.Rotation == nil || s.Rotation.Phase != "prepare" || len(s.Rotation.Waiting) == 0 || !s.waits("proxy aside-sidecar-proxy")) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
	named("the sidecar that is stopped is named")
	m.KillServe()
	m.Serve()
	named("the sidecar that is stopped is named after a start")
	time.Sleep(12 * time.Second) // longer than it takes when nobody is waited for
	named("it is waited for")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	resumed = true
	phase := func(want string) {
		t.Helper()
		if took, err := meshtest.Within(90*time.Second, func() error {
			s, err := caStatus(m)
			if err != nil {
				return err
			}
			if err = app.refetch(); err != nil { // as a client that is told of changes does
				return err
			}
			now := ""
			if s.Rotation != nil {
				now = s.Rotation.Phase
			}
			if now != want {
				return fmt.Errorf("the phase is %q, want %q: %+v", now, want, s)
			}
			return nil
		}); err != nil {
			t.Fatalf("after %v: %v", took, err)
		}
	}
	phase("activate")
	activated := time.Since(start)
	if err := dial(old); err != nil {
		t.Errorf("before the old root has left: %v", err)
	}
	m.KillServe()
	m.Serve()
	phase("activate") // as before the kill
	if err := dial(app.leaf.Load()); err != nil {
		t.Errorf("with a leaf of the new root after a kill: %v", err)
	}
	retired := func() error {
		s, err := caStatus(m)
		if err == nil && len(s.Roots) != 1 {
			err = fmt.Errorf("%+v", s)
		}
		return err
	}
	if took, err := meshtest.Within(90*time.Second, func() error { return errors.Join(app.refetch(), retired()) }); err != nil {
		t.Fatalf("after %v: %v", took, err)
	}
	m.KillServe() // as the old root leaves, or has just left
	m.Serve()
	phase("")
	took := time.Since(start)
	unscathed(t, "a rotation of the root", load.Stop())
	same("a rotation of the root")
	meshtest.Await(t, "a leaf of the old root is refused", func() error {
		if err := dial(old); err == nil {
			return errors.New("it is let in")
		}
		return nil
	})
	if err := dial(app.leaf.Load()); err != nil {
		t.Errorf("with a leaf of the new root: %v", err)
	}
	if s, err := caStatus(m); err != nil || len(s.Roots) != 1 {
		t.Errorf("%v, %+v", err, s)
	}
	if out := m.MustRun("ca", "status"); !strings.Contains(out, "rotation: none") {
		t.Error(out)
	}
	figure(t, "activated_s=%.0f rotated_s=%.0f", activated.Seconds(), took.Seconds())
}

// refetch is what a client does that waits for changes: the roots and the leaf anew.
func (a *application) refetch() error {
	var roots struct{ Roots []struct{ RootCert string } }
	if err := a.api.ask("GET", "/v1/agent/connect/ca/roots", a.token, nil, &roots); err != nil {
		return err
	}
	a.leaf.Store(a.fetch(a.name, a.token))
	return nil
}

// envoyOf is the process of a sidecar's Envoy.
func envoyOf(t *testing.T, car *meshtest.Sidecar) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", car.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for child := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(child); err == nil {
				return pid
			}
		}
	}
	return car.PID() // it became Envoy
}
