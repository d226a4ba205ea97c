//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// disk is a file system of its own whose writes can be held up.
type disk struct {
	t     *testing.T
	mount string
	held  bool
}

// newDisk mounts an ext4 on a loop device, which takes root. It is unmounted when the test ends, after whatever uses it.
func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a disk that stalls")
	}
	dir := t.TempDir()
	d := &disk{t: t, mount: filepath.Join(dir, "mount")}
	image := filepath.Join(dir, "image")
	d.run("truncate", "-s", "32M", image)
	d.run("mkfs.ext4", "-q", image)
	if err := os.Mkdir(d.mount, 0o700); err != nil {
		t.Fatal(err)
	}
	d.run("mount", "-o", "loop", image, d.mount)
	t.Cleanup(func() { d.run("umount", d.mount) })
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// stall holds up all writes until resume, or the end of the test.
func (d *disk) stall() {
	d.run("fsfreeze", "-f", d.mount)
	d.held = true
	d.t.Cleanup(d.resume)
}

func (d *disk) resume() {
	if d.held {
		d.held = false
		d.run("fsfreeze", "-u", d.mount)
	}
}

// grantWaits waits until the control plane has read that source is allowed, and says what that waits for.
func grantWaits(t *testing.T, m *meshtest.Mesh, source, destination string) {
	t.Helper()
	meshtest.Await(t, "a grant to wait", func() error {
		if r := m.Run("intention", "check", source, destination); r.Exit != 4 || !strings.Contains(r.Stdout, "waits until that is recorded on disk") {
			return fmt.Errorf("exit %d, %s", r.Exit, r.Stdout)
		}
		return nil
	})
}

// TestDiskStalls holds up the disk with the control plane's data for 30 s: endpoints, revocations and removals reach Envoys
// as before, and who is newly let in waits until that is on disk.
func TestDiskStalls(t *testing.T) {
	t.Parallel()
	d := newDisk(t)
	m := newMesh(t)
	m.Data = filepath.Join(d.mount, "data")
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello from api")})
	m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	m.Intend("db", meshtest.Intentions{"web": "allow"})
	m.Serve()
	m.Sidecars("web", "api", "db")
	live := connect(t, m.Upstream("web", "db"))

	state := func(proxy string) string {
		for _, p := range lastChange(t, m).Proxies {
			if p.ID == proxy+"-sidecar-proxy" {
				return p.State
			}
		}
		return "unknown"
	}
	accepted := func(what, proxy string, change func()) {
		t.Helper()
		before, began := lastChange(t, m).Number, time.Now()
		change()
		meshtest.Await(t, what+" to be accepted", func() error {
			if s, c := state(proxy), lastChange(t, m); c.Number == before || s != "accepted" {
				return fmt.Errorf("change %d after %d: %s: %s", c.Number, before, proxy, s)
			}
			return nil
		})
		figure(t, "stalled=%t change=%q written_to_accepted_ms=%.0f", d.held, what, millis(time.Since(began)))
	}

	d.stall()
	began := time.Now()
	m.Intend("db", meshtest.Intentions{"web": "allow", "batch": "allow"})
	grantWaits(t, m, "batch", "db")
	// Its sidecar's port was never chosen before, and cannot be remembered.
	m.Write("job.hcl", `service { name = "job" port = 1 connect { sidecar_service {} } }`)
	accepted("an endpoint", "web", func() {
		m.Write("api-2.hcl", fmt.Sprintf(`service { name = "api" id = "api-2" port = %d connect { sidecar_service { port = %d } } }`, m.Port(), m.Port()))
	})
	accepted("an endpoint's end", "web", func() { m.Remove("api-2.hcl") })
	accepted("a revocation", "db", func() { m.Intend("db", meshtest.Intentions{"web": "deny"}) })
	meshtest.Await(t, "the revoked connection to end", func() error {
		if a := meshtest.Exchange(live, "ping", 4); a.Allowed() {
			return fmt.Errorf("it lives %s after the disk stalled", time.Since(began))
		}
		return nil
	})
	accepted("an upstream's end", "web", func() { m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}}) })
	m.Intend("api", meshtest.Intentions{"web": "allow", "batch": "allow"})
	time.Sleep(time.Until(began.Add(30 * time.Second)))
	d.resume()
	m.AwaitCheck("batch", "api", true) // which waited for the disk, and is no change of db's
	accepted("a grant", "db", func() { m.Intend("db", meshtest.Intentions{"batch": "allow", "web": "allow"}) })
}

// TestKilledBeforeAGrantIsRecorded kills the control plane between a grant and its write, and takes the grant away before the next
// start: whoever got in by it, and whoever decides, is out again.
func TestKilledBeforeAGrantIsRecorded(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"rbac", "ext_authz", "both"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := newDisk(t)
			m := newMesh(t)
			m.Data = filepath.Join(d.mount, "data")
			enforce(m, mode)
			m.Add(meshtest.Service{Name: "db", Local: serveEcho(t, "")})
			m.Add(meshtest.Service{Name: "job", Upstreams: []string{"db"}})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"db"}})
			m.Intend("db", meshtest.Intentions{"job": "allow"})
			m.Serve()
			m.Sidecars("job", "web", "db")
			live := connect(t, m.Upstream("job", "db"))

			d.stall()
			m.Intend("db", meshtest.Intentions{"job": "allow", "web": "allow"})
			grantWaits(t, m, "web", "db")
			var early []net.Conn
			for until := time.Now().Add(2 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
				conn, err := net.Dial("tcp", m.Upstream("web", "db"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if meshtest.Exchange(conn, "ping", 4).Allowed() {
					early = append(early, conn)
				}
			}
			if err := m.ServeProcess().Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			d.resume() // nothing that waits for a disk dies before
			m.KillServe()
			m.Intend("db", meshtest.Intentions{"job": "allow"})
			m.Serve()
			m.AwaitConnected("db")
			figure(t, "let in before that was recorded: %d", len(early))
			time.Sleep(2 * time.Second)
			for _, conn := range early {
				if meshtest.Exchange(conn, "ping", 4).Allowed() {
					t.Fatal("a connection lives that was let in before that was recorded, and is not allowed any more")
				}
			}
			if err := wantAllowed(meshtest.Exchange(live, "ping", 4)); err != nil {
				t.Errorf("job's connection, about which nothing was changed that anybody was told of: %v", err)
			}

			m.Intend("db", meshtest.Intentions{"job": "allow", "web": "allow"})
			meshtest.Await(t, "web is let in", func() error { return wantAllowed(meshtest.EchoPlain(m.Upstream("web", "db"), "hello")) })
		})
	}
}
