//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// nginxBinary is where Debian's package has it, if it is not on PATH.
func nginxBinary(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("there is no nginx: apt-get install nginx-light")
	return ""
}

// TestNginxOverRotations: nginx, configured as docs/native/files.md says, serves by the files of `sallyport svid write`, asks its clients for certificates of the mesh, and takes each
// new leaf without a failed request.
func TestNginxOverRotations(t *testing.T) {
	t.Parallel()
	nginx := nginxBinary(t)
	m := newMesh(t)
	m.Add(meshtest.Service{Name: "api"})
	m.Serve()
	var token string
	meshtest.Await(t, "a token for api", func() error {
		r := m.Run("token", "create", "api")
		if token = strings.TrimSpace(r.Stdout); r.Exit != 0 || token == "" {
			return errors.New(r.Stderr)
		}
		return nil
	})
	dir := t.TempDir()
	out, tokenFile, conf := filepath.Join(dir, "mesh"), filepath.Join(dir, "token"), filepath.Join(dir, "nginx.conf")
	writeFile(t, tokenFile, token)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(m.Port()))
	// Temporary paths, as a server without the right to its package's directories needs.
	var temporary strings.Builder
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "\t%s_temp_path %s/%s;\n", what, dir, what)
	}
	app := serveHTTP(t, "hello from api")
	writeFile(t, conf, fmt.Sprintf("daemon off;\npid %s/nginx.pid;\nerror_log stderr warn;\nevents {}\nhttp {\n\taccess_log off;\n%s%s}\n", dir, temporary.String(),
		pageBlock(t, "native/files.md", "nginx", "ssl_certificate", "/etc/nginx/mesh", out, "listen 8443", "listen "+address, "127.0.0.1:8080", "127.0.0.1:"+strconv.Itoa(app.Port()))))
	reload := fmt.Sprintf("test ! -e %s/nginx.pid || %s -q -c %s -s reload", dir, nginx, conf)
	cmd := exec.Command(sallyport, "svid", "write", "api", "--out", out, "--token-file", tokenFile, "--exec", reload, "--runtime-dir", m.Runtime)
	cmd.Env = meshtest.Environ()
	writer := meshtest.Start(t, "svid write", filepath.Join(dir, "svid.log"), cmd)
	// newest is the certificate in the files.
	newest := func() ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(out, "current", "svid.pem"))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, errors.New("no certificate")
		}
		return block.Bytes, nil
	}
	meshtest.Await(t, "the files", func() error { _, err := newest(); return err })
	server := meshtest.Start(t, "nginx", filepath.Join(dir, "nginx.log"), exec.Command(nginx, "-q", "-c", conf))
	client := m.Client("web", "api")
	// serves says whether nginx shows the newest certificate.
	serves := func() error {
		c, err := client.Dial(address)
		if err != nil {
			return err
		}
		defer c.Close()
		want, err := newest()
		if err == nil && !bytes.Equal(c.ConnectionState().PeerCertificates[0].Raw, want) {
			err = errors.New("it shows another certificate")
		}
		return err
	}
	meshtest.Await(t, "nginx serves", serves)

	meshtest.StartControl(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var good, bad atomic.Int64
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				if a := client.Get(address, "/"); a.Status != http.StatusOK { //nolint:contextcheck // it has a time limit of its own
					bad.Add(1)
					t.Errorf("nginx answered %v", a)
				} else {
					good.Add(1)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	const rotations = 3
	for n := range rotations {
		before, err := newest()
		if err != nil {
			t.Fatal(err)
		}
		m.MustRun("leaf", "rotate", "api")
		took := meshtest.Await(t, fmt.Sprintf("nginx has leaf number %d", n+2), func() error {
			if now, err := newest(); err != nil || bytes.Equal(now, before) {
				return fmt.Errorf("the files are as before (%w)", errors.Join(err, errNothing))
			}
			return serves()
		})
		figure(t, "rotation=%d until nginx serves it: %v", n+1, took.Round(time.Millisecond))
	}
	cancel()
	all.Wait()
	figure(t, "requests=%d failed=%d over %d rotations", good.Load(), bad.Load(), rotations)
	if bad.Load() > 0 || good.Load() < 50 {
		t.Errorf("%d requests failed, %d did not", bad.Load(), good.Load())
	}
	// A client without a certificate is asked for one.
	if a := (meshtest.Client{}).Get(address, "/"); a.Status != http.StatusBadRequest {
		t.Errorf("without a certificate: %v", a)
	}

	// Whose a certificate is that nginx shows.
	var leafs []struct{ Service, Caller, SHA256 string }
	found := m.MustRun("leaf", "list", "--file", filepath.Join(out, "current", "svid.pem"), "--json")
	if err := json.Unmarshal([]byte(found), &leafs); err != nil || len(leafs) != 1 || leafs[0].Service != "api" || !strings.HasPrefix(leafs[0].Caller, "token ") {
		t.Errorf("%v: %s", err, found)
	} else if _, err := hex.DecodeString(leafs[0].SHA256); err != nil {
		t.Error(err)
	}

	// Without a control plane the files stay, and nginx with them.
	last, err := newest()
	if err != nil {
		t.Fatal(err)
	}
	m.KillServe()
	meshtest.Await(t, "svid write says that the API is away", func() error {
		if !strings.Contains(writer.Log(), "the files stay") {
			return errNothing
		}
		return nil
	})
	meshtest.Await(t, "nginx serves on", serves) // for a moment after a reload the old workers serve, too
	if now, err := newest(); err != nil || !bytes.Equal(now, last) || writer.Ended() || server.Ended() {
		t.Errorf("the files are there: %v, unchanged: %t", err, bytes.Equal(now, last))
	}
	writer.Stop(syscall.SIGTERM, 10*time.Second)
	if exit, ended := writer.Wait(time.Second); !ended || exit != nil {
		t.Errorf("svid write ended with %v", exit)
	}
	for _, secret := range []string{token, "PRIVATE KEY"} {
		if strings.Contains(writer.Log(), secret) {
			t.Errorf("its log has what is secret: %s", writer.Log())
		}
	}
}
