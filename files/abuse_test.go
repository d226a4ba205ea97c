package files

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestPipeSwappedIn holds that nothing waits at a pipe that has taken a file's name since the directory was listed: neither
// reading nor the look whether files that are young have other bytes.
func TestPipeSwappedIn(t *testing.T) {
	t.Parallel()
	config := cacheConfig(t)
	put(t, config, "a.hcl", `service { name = "a" port = 1 }`)
	list, err := scan(config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(config)
	c.read(list)
	path := filepath.Join(config.Dir, "a.hcl")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !c.changed() {
			t.Error("that the file is a pipe now is no change")
		}
		if f := c.read(list)[0]; len(f.problems) != 1 || f.problems[0].Text != errNotRegular.Error() {
			t.Errorf("problems %v", f.problems)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("reading waits for somebody to write to the pipe")
	}
}

// TestManyMistakes holds that a Source tells of the first mistakes, and how many there are.
func TestManyMistakes(t *testing.T) {
	t.Parallel()
	const mistakes = 20_000
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(strings.Repeat("services {}\n", mistakes)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: dir, TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func(catalog.Contents) { t.Error("it is published") }) }()
	for end := time.Now().Add(10 * time.Second); len(s.Status().Problems) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	got := s.Status().Problems
	if len(got) != maxTold+1 || got[0] != "a.hcl: 20000 mistakes, and no more than these are listed" || got[maxTold] != "and 901 more: `sallyport validate` lists them" {
		t.Errorf("%d problems, from %q to %q", len(got), got[:1], got[max(len(got)-1, 0):])
	}
}

// TestCostOfMistakes holds that eight times as much that is wrong costs about eight times as much, and not sixty-four.
func TestCostOfMistakes(t *testing.T) { // alone, for what it measures is all that the process uses
	numbered := func(before, each, after string) func(int) string {
		return func(n int) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, each, i, i%60_000+1)
			}
			return before + b.String() + after
		}
	}
	const proxy = `{"service":{"name":"a","port":1,"connect":{"sidecar_service":{"proxy":{`
	for name, text := range map[string]func(int) string{
		"definitions": func(n int) string { return `{"services":[{}` + strings.Repeat(",\n{}", n) + `]}` },
		"keys":        numbered("{\n", "\"k%d\":%d,\n", `"z":1}`),
		"upstreams":   numbered(proxy+`"upstreams":[`, "{\"destination_name\":\"u%d\",\"local_bind_port\":%d},\n", `{}]}}}}}`),
		"exposed":     numbered(proxy+`"expose":{"paths":[`, "{\"path\":\"/%d\",\"listener_port\":%d,\"local_path_port\":1},\n", `{}]}}}}}}`),
		"clashes":     numbered(`{"services":[`, "{\"name\":\"u%d\",\"port\":%d,\"connect\":{\"sidecar_service\":{\"port\":7}}},\n", `{"name":"z"}]}`),
	} {
		t.Run(name, func(t *testing.T) {
			config := cacheConfig(t)
			cost := func(n int) time.Duration {
				s, err := New(config)
				if err != nil {
					t.Fatal(err)
				}
				put(t, config, "a.json", text(n))
				files, err := scan(config.Dir)
				if err != nil {
					t.Fatal(err)
				}
				start := cpu(t)
				for range 2 {
					s.ledger.take(s.cache.read(files), time.Now(), func(o outcome) { s.tell(o, func(catalog.Contents) {}, time.Now()) })
				}
				if len(s.Status().Problems) == 0 {
					t.Fatal("nothing is wrong")
				}
				return cpu(t) - start
			}
			few := max(cost(2000), time.Millisecond)
			if many := cost(16_000); many > 30*few {
				t.Errorf("2,000 cost %v, and 16,000 %v", few, many)
			}
		})
	}
}
