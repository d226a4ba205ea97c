package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestPolling holds that changes are found without notifications, as on file systems that have none.
func TestPolling(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "a.hcl")
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("service { name = \""+name+"\" }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("api")
	s, err := New(Config{Dir: dir, TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")})
	if err != nil {
		t.Fatal(err)
	}
	published := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.run(ctx, func(c catalog.Contents) { published <- c.Services[0].Name.Service }, &watch{dir: dir, logger: s.config.Logger})
	}()
	for _, want := range []string{"api", "web", "dbs", "kvs"} { // of one length: only times and contents tell them apart
		if want != "api" {
			write(want)
		}
		select {
		case got := <-published:
			if got != want {
				t.Errorf("published %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s was not found", want)
		}
	}
	// A look that finds nothing changed says that the contents are fresh all the same.
	first := s.Status().LastSuccess
	for end := time.Now().Add(10 * time.Second); !s.Status().LastSuccess.After(first); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("the last success does not move while nothing changes")
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

// TestPollingWithoutTimes holds that a poll finds a change that leaves size and times as they were, as
// a clock of whole seconds may. The listing stands in for that: it is the one of after the change.
func TestPollingWithoutTimes(t *testing.T) {
	t.Parallel()
	config := cacheConfig(t)
	put(t, config, "a.hcl", `service { name = "api" }`)
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w := &watch{dir: config.Dir, logger: config.Logger}
	_, valid := s.load(ctx, w, func(catalog.Contents) {}, time.Now())
	put(t, config, "a.hcl", `service { name = "web" }`)
	files, err := scan(config.Dir)
	if err != nil || !valid {
		t.Fatal(err, valid)
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	if _, again := s.wait(ctx, w, func(catalog.Contents) {}, poll.C, files, true); !again {
		t.Error("the directory is not read again")
	}
}

// TestDiskStalls holds that what the directory comes to is published though the disk takes no ports, which are written when
// it does: the newest. The end waits for that, but not for ever.
func TestDiskStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Dir: "catalog", PortsFile: "ports.json", TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")})
		if err != nil {
			t.Fatal(err)
		}
		disk := make(chan error)
		var written []map[string]uint16
		s.write = func(_ string, ports map[string]uint16) error {
			written = append(written, ports)
			return <-disk
		}
		end := s.rememberPorts()
		published := 0
		take := func(ports map[string]uint16) {
			s.tell(outcome{ports: ports, newPorts: ports != nil, inForce: true}, func(catalog.Contents) { published++ }, time.Now())
			synctest.Wait()
		}
		ports := func(n uint16) map[string]uint16 { return map[string]uint16{"web-sidecar-proxy": n} }
		take(ports(21000))
		take(ports(21001))
		take(ports(21002))
		take(nil)
		if published != 4 {
			t.Errorf("%d of 4 are published while the disk takes nothing", published)
		}
		warned := func() bool {
			return strings.Contains(strings.Join(s.Status().Warnings, "\n"), "ports.json: sidecar ports are not remembered: it is full")
		}
		disk <- errors.New("it is full")
		synctest.Wait()
		if !warned() {
			t.Errorf("warnings %q", s.Status().Warnings)
		}
		disk <- nil
		synctest.Wait()
		if diff := cmp.Diff([]map[string]uint16{ports(21000), ports(21002)}, written); diff != "" || warned() {
			t.Errorf("warnings %q; written (-want +got):\n%s", s.Status().Warnings, diff)
		}
		take(ports(21003))
		time.AfterFunc(time.Second, func() { disk <- nil })
		began := time.Now()
		end()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the end took %s, and the disk 1s", took)
		}
		end = s.rememberPorts()
		take(ports(21004))
		began = time.Now()
		end()
		if took := time.Since(began); took != lastWrite {
			t.Errorf("the end took %s of a disk that stalls, want %s", took, lastWrite)
		}
		disk <- nil
	})
}
