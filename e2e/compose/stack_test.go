//go:build e2e

package compose

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// patience bounds each wait for containers: they share a machine with everything else.
const patience = 90 * time.Second

// stack is a compose file that is up.
type stack struct {
	t    *testing.T
	dir  string // a copy of this directory, in which a test may change the catalog
	file string
	env  []string
	port map[string]int // what the file's variables for published ports are
}

// ports are given out to both stacks.
var ports meshtest.Ports

// up brings a compose file up, and takes it down when the test ends. published are the variables with which it publishes ports.
func up(t *testing.T, file string, published ...string) *stack {
	t.Helper()
	if _, err := tools(); err != nil {
		t.Skip(err)
	}
	env, err := images()
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, dir: t.TempDir(), file: file, env: env, port: map[string]int{}}
	if err := os.CopyFS(s.dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	for _, p := range published {
		if s.port[p], err = ports.Next(); err != nil {
			t.Fatal(err)
		}
		s.env = append(s.env, fmt.Sprintf("%s=%d", p, s.port[p]))
	}
	t.Cleanup(s.down)
	s.run("down", "-v", "--remove-orphans", "-t", "1") // of a run that was killed
	start := time.Now()
	s.run("up", "-d")
	s.figure("up_s=%.1f", time.Since(start).Seconds())
	return s
}

// down takes all away and sees that it is away.
func (s *stack) down() {
	if s.t.Failed() {
		logs, err := s.compose("logs", "--no-color", "--tail", "30")
		s.t.Logf("last lines of all containers (%v):\n%s", err, logs)
	}
	start := time.Now()
	if _, err := s.compose("down", "-v", "--remove-orphans", "-t", "5"); err != nil {
		s.t.Error(err)
	}
	s.figure("down_s=%.1f", time.Since(start).Seconds())
	for _, what := range [][]string{{"ps", "-a"}, {"network", "ls"}, {"volume", "ls"}} {
		args := slices.Concat([]string{"docker"}, what, []string{"-q", "--filter", "label=com.docker.compose.project=" + s.project()})
		if left, err := command(args...); err != nil || left != "" {
			s.t.Errorf("%s after `down`: %s, %v; want nothing", strings.Join(args, " "), left, err)
		}
	}
}

func (s *stack) project() string { return prefix + strings.TrimSuffix(s.file, ".yml") }

// compose runs a compose command on the stack.
func (s *stack) compose(args ...string) (string, error) {
	words, err := tools()
	if err != nil {
		return "", err
	}
	words = slices.Concat(words, []string{"-p", s.project(), "-f", s.file}, args)
	c := exec.Command(words[0], words[1:]...)
	c.Dir, c.Env = s.dir, append(os.Environ(), s.env...)
	return output(c)
}

func (s *stack) run(args ...string) string {
	s.t.Helper()
	out, err := s.compose(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// sallyport runs a command of sallyport's in the container of a control plane.
func (s *stack) sallyport(container string, args ...string) (string, error) {
	return s.compose(append([]string{"exec", "-T", container, "sallyport"}, args...)...)
}

// addr is a published port.
func (s *stack) addr(name string) string { return fmt.Sprintf("127.0.0.1:%d", s.port[name]) }

func (s *stack) url(name string) string { return "http://" + s.addr(name) + "/" }

// write replaces a file of the catalog.
func (s *stack) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "catalog", name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// await calls try until it returns nil, and says how long that took.
func (s *stack) await(what string, try func() error) time.Duration {
	s.t.Helper()
	took, err := meshtest.Within(patience, try)
	if err != nil {
		s.t.Fatalf("%s: still not so after %s: %v", what, patience, err)
	}
	return took
}

// inSync waits until the control plane in a container has the sidecars of all these services connected, with all that they have to have, and
// returns when their leafs expire.
func (s *stack) inSync(container string, services ...string) map[string]time.Time {
	s.t.Helper()
	leafs := map[string]time.Time{}
	s.await(container+" has its sidecars in sync", func() error {
		out, err := s.sallyport(container, "status", "--json")
		if err != nil {
			return err
		}
		var status meshtest.Status
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return err
		}
		clear(leafs)
		for _, p := range status.Proxies {
			if p.Connected && p.InSync {
				leafs[p.Instance] = p.LeafExpires
			}
			if p.LastNACK != nil {
				s.t.Fatalf("%s was refused something: %s", p.Instance, p)
			}
		}
		for _, service := range services {
			if leafs[service].IsZero() {
				return fmt.Errorf("%s is not in sync: %s", service, out)
			}
		}
		return nil
	})
	return leafs
}

// serial is that of the leaf which the sidecar behind a published port serves with. The handshake needs no certificate; the sidecar hangs up after it.
func (s *stack) serial(name string) (string, error) {
	conn, err := meshtest.Client{}.Dial(s.addr(name))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// awaitLeaf waits until that sidecar serves with another leaf than the one before.
func (s *stack) awaitLeaf(name, before string) time.Duration {
	s.t.Helper()
	return s.await("a new leaf is served", func() error {
		now, err := s.serial(name)
		if err == nil && now == before {
			err = fmt.Errorf("it is still %s", now)
		}
		return err
	})
}

// busy starts the load under which nothing may be lost: requests to api, on connections of all kinds, and connections to db.
func (s *stack) busy() *meshtest.Load {
	s.t.Helper()
	l, err := meshtest.StartLoad(meshtest.LoadConfig{
		URL: strings.TrimSuffix(s.url("WEB_API"), "/"), KeepAlive: 50, Fresh: 10, Streams: 3, TCP: s.addr("API_DB"), Held: 5, Dialled: 10,
	})
	if err != nil {
		s.t.Fatalf("load: %v", err)
	}
	return l
}

// unscathed ends a load that must have lost nothing.
func (s *stack) unscathed(what string, l *meshtest.Load) {
	s.t.Helper()
	time.Sleep(time.Second) // whom it cost something notices it now
	r := l.Stop()
	s.figure("load=%q %s", what, r)
	if r.Failed != 0 || r.Closed != 0 || r.Requests == 0 {
		s.t.Errorf("%s: %d of %d requests failed, %d of %d connections ended: %v", what, r.Failed, r.Requests, r.Closed, r.Held, r)
	}
}

func (s *stack) figure(format string, args ...any) {
	fmt.Printf("FIGURE %s %s\n", s.t.Name(), fmt.Sprintf(format, args...))
}

// allowed is nil if a got through.
func allowed(a meshtest.Answer) error {
	if !a.Allowed() {
		return fmt.Errorf("want allowed: %v", a)
	}
	return nil
}

// denied is nil if a was refused.
func denied(a meshtest.Answer) error {
	if !a.Denied() {
		return fmt.Errorf("want denied: %v", a)
	}
	return nil
}
