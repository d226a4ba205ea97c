//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// finding is a line of `sallyport check --json`.
type finding struct {
	Check, Text, Remedy string
	OK                  bool
}

// checked runs `sallyport check --json` and compares its exit status with its lines.
func checked(m *meshtest.Mesh) ([]finding, error) {
	r := m.Run("check", "--json")
	var all []finding
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		return nil, fmt.Errorf("check: exit %d, %s%s: %w", r.Exit, r.Stdout, r.Stderr, err)
	}
	want := 0
	if slices.ContainsFunc(all, func(f finding) bool { return !f.OK }) {
		want = 1
	}
	if r.Exit != want {
		return nil, fmt.Errorf("exit %d with %+v", r.Exit, all)
	}
	return all, nil
}

// finds is nil if a check has exactly the faults of want, by their names, and one of the texts says what want says.
func finds(m *meshtest.Mesh, want map[string]string) error {
	all, err := checked(m)
	if err != nil {
		return err
	}
	for _, f := range all {
		text, faulty := want[f.Check]
		if f.OK == faulty {
			return fmt.Errorf("%s: ok %t, %s", f.Check, f.OK, f.Text)
		}
		if faulty && !strings.Contains(f.Text, text) {
			return fmt.Errorf("%s: %s, want %q", f.Check, f.Text, text)
		}
		if faulty && f.Remedy == "" && !strings.Contains(f.Text, ": ") {
			return fmt.Errorf("%s: %s: no remedy", f.Check, f.Text)
		}
	}
	for name := range want {
		if !slices.ContainsFunc(all, func(f finding) bool { return f.Check == name }) {
			return fmt.Errorf("no line about %s: %+v", name, all)
		}
	}
	return nil
}

// broken is a mesh of web and api whose check finds no fault.
func broken(t *testing.T, prepare func(m *meshtest.Mesh)) (m *meshtest.Mesh, cars []*meshtest.Sidecar) {
	t.Helper()
	m = newMesh(t)
	m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello")})
	m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
	m.Intend("api", meshtest.Intentions{"web": "allow"})
	if prepare != nil {
		prepare(m)
	}
	m.Serve()
	cars = m.Sidecars("web", "api")
	if prepare == nil {
		meshtest.Await(t, "all is well", func() error { return finds(m, nil) })
	}
	return m, cars
}

// TestCheck breaks a mesh in one way each: `sallyport check` names what is broken and nothing else, and is content with it before.
func TestCheck(t *testing.T) { //nolint:tparallel // its parts follow each other: each starts a mesh
	t.Parallel()
	find := func(t *testing.T, m *meshtest.Mesh, want map[string]string) {
		t.Helper()
		meshtest.Await(t, "the fault to be found", func() error { return finds(m, want) })
	}
	for name, test := range map[string]func(t *testing.T){
		"serve does not run": func(t *testing.T) {
			m, _ := broken(t, nil)
			m.StopServe()
			find(t, m, map[string]string{"control plane": "no running sallyport found"})
		},
		"agent away": func(t *testing.T) {
			c := meshtest.StartConsul(t, meshtest.Agent{})
			m := consulPair(t, c, "10s")
			m.Serve()
			m.Sidecars("web", "api", "db")
			find(t, m, nil)
			c.Kill()
			find(t, m, map[string]string{"control plane": "does not answer", "source": "not up to date"})
		},
		"refused listener": func(t *testing.T) {
			m, cars := broken(t, nil)
			cars[0].MayRefuse()
			m.Add(meshtest.Service{Name: "db"})
			port := m.ReserveUpstream("web", "db")
			holder, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer holder.Close()
			m.Sidecar("db")
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api", "db"}})
			find(t, m, map[string]string{"proxy": "web-sidecar-proxy: Envoy refuses listener"})
		},
		"no sidecar": func(t *testing.T) {
			m, _ := broken(t, nil)
			m.Add(meshtest.Service{Name: "job"})
			find(t, m, map[string]string{"proxy": "job-sidecar-proxy: not connected"})
		},
		"silent application": func(t *testing.T) {
			m, _ := broken(t, nil)
			local := serveHTTP(t, "hello")
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: local})
			meshtest.Await(t, "api answers", func() error { return wantAllowed(meshtest.GetPlain("http://" + m.Upstream("web", "api"))) })
			local.Close()
			where := fmt.Sprintf("api at 127.0.0.1:%d does not answer", local.Port())
			meshtest.Await(t, "the application is named", func() error {
				_ = meshtest.GetPlain("http://" + m.Upstream("web", "api"))
				return finds(m, map[string]string{"application": where})
			})
			if text := m.MustRun("status"); !strings.Contains(strings.Join(strings.Fields(text), " "), "127.0.0.1:"+strconv.Itoa(local.Port())+" does not answer") {
				t.Errorf("status does not name it:\n%s", text)
			}
			if log, err := os.ReadFile(m.ServeLog()); err != nil || !strings.Contains(string(log), "the application does not answer its sidecar") {
				t.Errorf("the log does not name it: %v", err)
			}
			m.Add(meshtest.Service{Name: "api", Protocol: "http", Local: serveHTTP(t, "hello again")})
			meshtest.Await(t, "all is well again", func() error {
				_ = meshtest.GetPlain("http://" + m.Upstream("web", "api"))
				return finds(m, nil)
			})
		},
		"root near its end": func(t *testing.T) {
			m, _ := broken(t, nil)
			m.StopServe()
			age(t, m, time.Now().Add(20*24*time.Hour))
			m.Serve()
			m.AwaitConnected("web", "api")
			find(t, m, map[string]string{"certificate": "the CA's root"})
		},
		"clock set back": func(t *testing.T) {
			m, _ := broken(t, nil)
			if err := os.Chtimes(filepath.Join(m.Data, "token.key"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			find(t, m, map[string]string{"clock": "in the future"})
		},
		"token expired": func(t *testing.T) {
			m, _ := broken(t, nil)
			m.Add(meshtest.Service{Name: "job"})
			m.AwaitCheck("job", "api", false)
			dir := t.TempDir()
			said := m.MustRun("bootstrap", "--sidecar-for", "job", "--wait", "10s", "--token-ttl", "1s", "-o", filepath.Join(dir, "boot"), "--json")
			var b struct {
				Args []string `json:"envoy_args"`
			}
			if err := json.Unmarshal([]byte(said), &b); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			time.Sleep(2 * time.Second)
			envoy := meshtest.Start(t, "envoy", filepath.Join(dir, "log"), exec.Command(m.Envoy(), append(b.Args, "--log-level", "error")...))
			defer envoy.Kill()
			find(t, m, map[string]string{"proxy": "job-sidecar-proxy: not connected", "token": "expired"})
		},
		"full disk": func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Fatal("only root can mount a disk to fill")
			}
			dir := t.TempDir()
			mounted := &disk{t: t}
			mounted.run("mount", "-t", "tmpfs", "-o", "size=8m", "none", dir)
			t.Cleanup(func() { mounted.run("umount", dir) })
			m, _ := broken(t, func(m *meshtest.Mesh) { m.Data = filepath.Join(dir, "data") })
			find(t, m, nil)
			if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 9<<20), 0o600); err == nil {
				t.Fatal("9 MB fit into 8")
			}
			find(t, m, map[string]string{"disk": "is full"})
			if text := m.MustRun("status"); !strings.Contains(text, "is full") {
				t.Errorf("status does not say so:\n%s", text)
			}
		},
		"broken file": func(t *testing.T) {
			m, _ := broken(t, nil)
			m.Write("broken.hcl", "service {\n")
			find(t, m, map[string]string{"source": "broken.hcl:1"})
			if r := m.Run("status", "--check"); r.Exit != 1 {
				t.Errorf("status --check: exit %d", r.Exit)
			}
			m.Remove("broken.hcl")
			find(t, m, nil)
			if r := m.Run("status", "--check"); r.Exit != 0 {
				t.Errorf("status --check of a mesh without trouble: exit %d, %s", r.Exit, r.Stdout)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { test(t) })
	}
}

// age has the root of a mesh's CA, which does not run, end at a time.
func age(t *testing.T, m *meshtest.Mesh, end time.Time) {
	t.Helper()
	path := filepath.Join(m.Data, "ca", "root.pem")
	cert, key := m.Root()
	again := *cert
	again.NotBefore, again.NotAfter = end.AddDate(-10, 0, 0), end // which is how long roots live
	der, err := x509.CreateCertificate(rand.Reader, &again, &again, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	out := bytes.Replace(text, block(cert.Raw), block(der), 1)
	// The intermediate outlives the root now; the next start signs another one.
	if err := errors.Join(os.WriteFile(path, out, 0o600), os.Remove(filepath.Join(m.Data, "ca", "intermediate.pem"))); err != nil {
		t.Fatal(err)
	}
}
