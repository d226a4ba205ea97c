package files

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

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
