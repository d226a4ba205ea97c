//go:build e2e

package compose

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestFiles tries files.yml from outside.
func TestFiles(t *testing.T) {
	s := up(t, "files.yml", "WEB_API", "WEB_DB", "API_DB", "API_SIDECAR")
	s.works(func() meshtest.Answer { return meshtest.EchoPlain(s.addr("WEB_DB"), "hello") })
	if out, err := s.sallyport("control-plane", "intention", "check", "web", "db"); err == nil || !strings.Contains(err.Error(), "Denied: web => db") {
		t.Errorf("intention check web db: %q, %v", out, err)
	}

	leafs := func() map[string]time.Time { return s.inSync("control-plane", "web", "api", "db") }
	load, before, old := s.busy(), s.leaf(), leafs()
	for _, service := range []string{"web", "api", "db"} {
		if _, err := s.sallyport("control-plane", "leaf", "rotate", service); err != nil {
			t.Error(err)
		}
	}
	s.renewed(old, leafs)
	s.figure("rotated_leaf_served_ms=%d", s.awaitLeaf("API_SIDECAR", before).Milliseconds())
	s.unscathed("3 leafs rotated", load)

	s.restart("control-plane", leafs)

	intend := func(destination, source, action string) {
		s.write(destination+"-intentions.hcl", fmt.Sprintf("Kind = \"service-intentions\"\nName = %q\nSources = [{ Name = %q, Action = %q }]\n", destination, source, action))
	}
	s.revoke(func(action string) { intend("db", "api", action) }, func(action string) { intend("api", "web", action) })
}

// TestNodes tries nodes.yml from outside.
func TestNodes(t *testing.T) {
	s := up(t, "nodes.yml", "CONSUL", "WEB_API", "BATCH_API", "API_DB", "API_SIDECAR")
	consul := meshtest.API{Addr: s.addr("CONSUL")}
	intend := func(destination string, sources map[string]string) {
		t.Helper()
		list := []map[string]string{}
		for name, action := range sources {
			list = append(list, map[string]string{"Name": name, "Action": action})
		}
		if err := consul.Do(http.MethodPut, "/v1/config", map[string]any{"Kind": "service-intentions", "Name": destination, "Sources": list}, nil); err != nil {
			t.Fatal(err)
		}
	}
	batch := func() meshtest.Answer { return meshtest.GetPlain(s.url("BATCH_API")) }
	s.works(batch)

	intend("api", map[string]string{"web": "allow", "batch": "allow"})
	took := s.await("batch → api, once an intention says so", func() error { return allowed(batch()) })
	s.figure("intention_allows_ms=%d", took.Milliseconds())

	leafs := func() map[string]time.Time {
		all := s.inSync("a-sallyport", "web", "db")
		maps.Copy(all, s.inSync("b-sallyport", "api", "batch"))
		return all
	}
	load, before, old := s.busy(), s.leaf(), leafs()
	newRoot(t, consul)
	s.renewed(old, leafs)
	s.awaitLeaf("API_SIDECAR", before)
	s.unscathed("the root rotated", load)

	s.restart("a-sallyport", leafs)

	s.revoke(
		func(action string) { intend("db", map[string]string{"api": action}) },
		func(action string) { intend("api", map[string]string{"web": action}) },
	)
}

// renewed waits until all leafs are newer than those of old.
func (s *stack) renewed(old map[string]time.Time, leafs func() map[string]time.Time) {
	s.t.Helper()
	took := s.await("every service has a new leaf", func() error {
		for service, expires := range leafs() {
			if !expires.After(old[service]) {
				return errors.New(service + " has its old leaf")
			}
		}
		return nil
	})
	s.figure("all_leafs_new_s=%.1f", took.Seconds())
}

// leaf is what api's sidecar serves with.
func (s *stack) leaf() string {
	s.t.Helper()
	serial, err := s.serial("API_SIDECAR")
	if err != nil {
		s.t.Fatal(err)
	}
	return serial
}

// works: who is allowed gets through, refused is not, and neither is somebody without a certificate.
func (s *stack) works(refused func() meshtest.Answer) {
	s.t.Helper()
	took := s.await("web → api", func() error { return allowed(meshtest.GetPlain(s.url("WEB_API"))) })
	s.figure("first_answer_ms=%d", took.Milliseconds())
	s.await("api → db", func() error { return allowed(meshtest.EchoPlain(s.addr("API_DB"), "hello")) })
	if a := meshtest.GetPlain(s.url("WEB_API")); a.Body != "api\n" {
		s.t.Errorf("web → api: %q, want what api answers", a.Body)
	}
	// Whoever is denied may at first be told that there is nobody to ask.
	s.await("the one who may not", func() error { return denied(refused()) })
	meshtest.Holds(s.t, "the one who may not", time.Second, func() error { return denied(refused()) })
	if err := denied(meshtest.Client{}.Get(s.addr("API_SIDECAR"), "/")); err != nil {
		s.t.Errorf("api's sidecar, asked without a certificate: %v", err)
	}
}

// restart restarts a control plane under load, and waits until its sidecars are back.
func (s *stack) restart(container string, leafs func() map[string]time.Time) {
	s.t.Helper()
	load := s.busy()
	start := time.Now()
	s.run("restart", container)
	leafs()
	s.figure("restarted_s=%.1f", time.Since(start).Seconds())
	s.unscathed(container+" restarted", load)
}

// revoke takes access away and gives it back: db and api set what their one caller may. A live connection to db ends, and the next request
// on a live connection to api is refused.
func (s *stack) revoke(db, api func(action string)) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr("API_DB"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ping := func() error { return allowed(meshtest.Exchange(conn, "ping", len("ping"))) }
	meshtest.Holds(s.t, "a connection to db", time.Second, ping)
	start := time.Now()
	db("deny")
	s.await("the live connection to db ends", func() error {
		if ping() == nil {
			return errors.New("it still answers")
		}
		return nil
	})
	s.figure("revoked_connection_ended_ms=%d", time.Since(start).Milliseconds())
	if err := denied(meshtest.EchoPlain(s.addr("API_DB"), "hello")); err != nil {
		s.t.Errorf("a new connection to db: %v", err)
	}
	db("allow")
	s.await("api → db again", func() error { return allowed(meshtest.EchoPlain(s.addr("API_DB"), "hello")) })

	one := &http.Transport{MaxConnsPerHost: 1}
	defer one.CloseIdleConnections()
	if err := allowed(meshtest.Get(one, s.url("WEB_API"))); err != nil {
		s.t.Errorf("web → api: %v", err)
	}
	api("deny")
	s.await("web → api is refused", func() error { return denied(meshtest.Get(one, s.url("WEB_API"))) })
	api("allow")
	s.await("web → api again", func() error { return allowed(meshtest.Get(one, s.url("WEB_API"))) })
}

// TestOfficialImages: the files name the Envoy and the Consul that everything else is tested on.
func TestOfficialImages(t *testing.T) {
	for file, images := range map[string][]string{
		"files.yml": {"${ENVOY_IMAGE:-envoyproxy/envoy:v" + meshtest.Version + "}"},
		"nodes.yml": {"${ENVOY_IMAGE:-envoyproxy/envoy:v" + meshtest.Version + "}", "${CONSUL_IMAGE:-hashicorp/consul:" + meshtest.ConsulVersion + "}"},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range images {
			if !strings.Contains(string(text), "image: "+image+"\n") {
				t.Errorf("%s does not name %s", file, image)
			}
		}
	}
}
