//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// fill takes all the room that is left, until free.
func (d *disk) fill() {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.mount, "fill"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.mount, "fill")); err != nil {
		d.t.Fatal(err)
	}
}

// TestDiskFull fills the disk with the control plane's data before a rotation of the root and in each of its phases: what is there goes on,
// also after a kill -9, leafs are renewed, the phase waits and says why, and goes on when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	m := newMesh(t)
	m.Data = filepath.Join(d.mount, "data")
	m.Add(meshtest.Service{Name: "api", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Serve()
	cars := m.Sidecars("api", "web")
	same := unmodified(t, cars...)
	live := connect(t, m.Upstream("web", "api"))
	// goes demands that all that there is goes on.
	goes := func(when string) {
		t.Helper()
		before, err := cars[0].Leaf()
		if err != nil {
			t.Fatal(err)
		}
		m.MustRun("leaf", "rotate", "api")
		meshtest.Await(t, when+": a new leaf", func() error {
			now, err := cars[0].Leaf()
			if err == nil && now.Serial == before.Serial {
				err = errors.New("still the old one")
			}
			return err
		})
		if err := wantAllowed(meshtest.EchoPlain(m.Upstream("web", "api"), "hello")); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if a := meshtest.Exchange(live, "ping", 4); !a.Allowed() {
			t.Errorf("%s: a connection has ended: %v", when, a)
		}
	}
	says := func(what string, args ...string) {
		t.Helper()
		meshtest.Await(t, what, func() error {
			if r := m.Run(args...); !strings.Contains(r.Stdout, "no space left") {
				return fmt.Errorf("exit %d, %s%s", r.Exit, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
	phase := func() string {
		s, err := caStatus(m)
		if err != nil {
			t.Fatal(err)
		}
		if s.Rotation == nil {
			return ""
		}
		return s.Rotation.Phase
	}
	awaitPhase := func(want string) {
		t.Helper()
		meshtest.Await(t, "the phase "+want, func() error {
			if p := phase(); p != want {
				return fmt.Errorf("it is %q", p)
			}
			return nil
		})
	}

	d.fill()
	if r := m.Run("ca", "rotate"); r.Exit == 0 || !strings.Contains(r.Stderr, "no rotation has begun") || !strings.Contains(r.Stderr, "no space left") {
		t.Errorf("a rotation on a full disk: exit %d, %s", r.Exit, r.Stderr)
	}
	goes("before a rotation")
	if p := phase(); p != "" {
		t.Errorf("phase %q after a rotation that was refused", p)
	}
	if r := m.Run("status"); !strings.Contains(r.Stdout, "not ready: the disk of the data directory") {
		t.Errorf("status on a full disk: exit %d\n%s", r.Exit, r.Stdout)
	}
	d.free()

	m.MustRun("ca", "rotate")
	d.fill()
	time.Sleep(11 * time.Second) // then leafs would be signed under the new root
	says("the reason for which the new root is not activated", "ca", "status")
	goes("in prepare")
	m.KillServe()
	// What is recorded could not be relied on, so there is no start.
	if r := m.Run("serve", "--catalog", m.Catalog, "--data", m.Data, "--metrics-bind", ""); r.Exit == 0 || !strings.Contains(r.Stderr, "make room there") {
		t.Errorf("a start on a full disk: exit %d, %s", r.Exit, r.Stderr)
	}
	d.free()
	m.Serve()
	d.fill()
	m.AwaitConnected("api", "web")
	goes("in prepare, after a kill")
	if p := phase(); p != "prepare" {
		t.Errorf("phase %q on a full disk, want prepare", p)
	}
	d.free()
	awaitPhase("activate")
	d.fill()
	time.Sleep(11 * time.Second) // then the old root would leave
	says("the reason for which the old root stays", "ca", "status")
	goes("in activate")
	if p := phase(); p != "activate" {
		t.Errorf("phase %q on a full disk, want activate", p)
	}
	d.free()
	awaitPhase("")
	goes("at the end")
	same("a rotation on a disk that was full")
}
