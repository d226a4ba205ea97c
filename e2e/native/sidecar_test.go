//go:build e2e

package native

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestSidecars has an application with this package and one behind an Envoy dial each other.
func TestSidecars(t *testing.T) {
	t.Parallel()
	envoy := os.Getenv("ENVOY")
	if envoy == "" {
		envoy = "../../.tools/envoy-" + meshtest.Version
	}
	envoy, err := filepath.Abs(envoy)
	if err == nil {
		_, err = os.Stat(envoy)
	}
	if err != nil {
		t.Fatalf("no Envoy: %v: run `make tools`, or set ENVOY", err)
	}
	m := files(t)
	// The application behind the sidecar speaks TCP in the clear.
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	go func() {
		for {
			c, err := app.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	inbound, outbound := port(t), port(t)
	m.write("db.hcl", fmt.Sprintf(`service {
  name = "db"
  address = "127.0.0.1"
  port = %d
  connect {
    sidecar_service {
      port = %d
      proxy {
        upstreams = [{ destination_name = "api", local_bind_port = %d }]
      }
    }
  }
}
`, app.Addr().(*net.TCPAddr).Port, inbound, outbound))
	m.intend("db", map[string]string{"api": allow})
	m.intend("api", map[string]string{"db": allow})
	api := service(t, m.address(), "api", connect.Options{Token: m.token("api"), EndOnRevocation: true})
	m.register("api", echo(t, api))
	cmd := exec.Command(m.binary, "envoy", "--sidecar-for", "db", "--envoy-binary", envoy, "--runtime-dir", filepath.Join(m.dir, "run"), "--wait", "20s", "--", "--concurrency", "1")
	cmd.Env = meshtest.Environ()
	meshtest.Start(t, "sallyport envoy", filepath.Join(m.dir, "envoy.log"), cmd)

	meshtest.Await(t, "api to the sidecar of db", func() error { return reach(t.Context(), api, "db") })
	through := func() (net.Conn, error) {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", outbound), meshtest.Deadline)
		if err != nil {
			return nil, err
		}
		if err := ping(conn); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	var held net.Conn
	meshtest.Await(t, "the sidecar of db to api", func() (err error) {
		held, err = through()
		return err
	})
	defer held.Close()

	m.intend("api", map[string]string{"db": deny})
	ended(t, held)
	m.intend("db", map[string]string{"api": deny})
	meshtest.Await(t, "denied", func() error {
		if reach(t.Context(), api, "db") == nil {
			return errors.New("api is let in")
		}
		if conn, err := through(); err == nil {
			conn.Close()
			return errors.New("db is let in")
		}
		return nil
	})
	meshtest.Holds(t, "denied", 300*time.Millisecond, func() error {
		if reach(t.Context(), api, "db") == nil {
			return errors.New("api is let in")
		}
		return nil
	})
}
