package sequence_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/sequence"
)

func open(t *testing.T, path string, now int64) *sequence.Numbers {
	t.Helper()
	n, err := sequence.Open(path, time.Unix(now, 0))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// As long as the file is there a number is greater than all before, whatever happens; without it,
// than the time.
func TestGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "change")
	var last uint64
	next := func(what string, n *sequence.Numbers) {
		t.Helper()
		if got := n.Next(); got <= last {
			t.Errorf("%s: %d after %d", what, got, last)
		} else {
			last = got
		}
	}
	n := open(t, path, 1_000_000)
	next("the first", n)
	next("the second", n)
	next("after a crash", open(t, path, 1_000_000))
	next("after a crash, with a clock that was set back", open(t, path, 1000))
	n = open(t, path, 0)
	next("after another", n)
	stopped := last
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	n = open(t, path, 0)
	next("after a stop", n)
	if last != stopped+1 {
		t.Errorf("%d after a stop at %d: numbers are lost", last, stopped)
	}
	n = open(t, path, 0)
	last += 5_000_000
	if err := n.Raise(last); err != nil {
		t.Fatal(err)
	}
	next("raised", n)
	next("raised, after a crash", open(t, path, 0))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := open(t, path, 1_000_500).Next(); got <= 1_000_500 {
		t.Errorf("after the file was lost: %d", got)
	}
}

// Blocks are reserved before they are used up, and a disk that takes nothing stops nobody.
func TestReserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "change")
		n := open(t, path, 0)
		var failures int
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.Run(ctx, func(error) { failures++ })
		}()
		var last uint64
		take := func(k int) {
			for range k {
				last = n.Next()
			}
			synctest.Wait()
		}
		take(25_000)
		if next := open(t, path, 0).Next(); next <= last {
			t.Errorf("a crash after %d would go on with %d", last, next)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		take(25_000)
		if failures == 0 {
			t.Error("nothing says that numbers are not reserved")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if next := open(t, path, 0).Next(); next <= last {
			t.Errorf("a crash after %d would go on with %d", last, next)
		}
		cancel()
		<-done
	})
}

func TestZeroCounts(t *testing.T) {
	var n sequence.Numbers
	if a, b := n.Next(), n.Next(); a != 1 || b != 2 {
		t.Errorf("%d, %d", a, b)
	}
}

func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "change")
	for _, text := range []string{"", "x", "-1", `{"next":1}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := sequence.Open(path, time.Now()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete") {
			t.Errorf("%q: %v, want what to do", text, err)
		}
	}
}

// Whether an older release ran in between shows, and such a release reads what this one wrote.
func TestOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "change")
	if sequence.Ours(path) {
		t.Error("a file that is not there is ours")
	}
	for range 2 {
		if err := os.WriteFile(path, []byte("123\n"), 0o600); err != nil { // as older releases do
			t.Fatal(err)
		}
		if sequence.Ours(path) {
			t.Error("an older release's file is ours")
		}
		n := open(t, path, 0)
		for _, closed := range []bool{false, true} {
			var last uint64
			b, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(b, &last) // as older releases do
			}
			if err != nil || last < 123 || !sequence.Ours(path) {
				t.Errorf("closed %t: %q, %v", closed, b, err)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
