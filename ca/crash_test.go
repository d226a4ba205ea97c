package ca

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var errCrash = errors.New("crash")

// crashAt is a disk.step under which the process dies before the operation number n: nothing
// happens any more. When it dies at a write, half of a file is there.
func crashAt(n int, dir string) (step func(string) error, crashed func() bool) {
	i := -1
	return func(operation string) error {
		if i++; i < n {
			return nil
		}
		if name, ok := strings.CutPrefix(operation, "write "); ok && i == n {
			_ = os.WriteFile(filepath.Join(dir, name), []byte("sallyport CA root, format 1\n-----BEGIN CERTIF"), 0o600)
		}
		return errCrash
	}, func() bool { return i >= n }
}

// TestCrash dies before each operation on the disk while a CA is made, and while an intermediate is
// renewed. What is left is either nothing of a CA or all of it.
func TestCrash(t *testing.T) {
	t.Run("new CA", func(t *testing.T) {
		for n := 0; ; n++ {
			dir := caDir(t)
			step, crashed := crashAt(n, dir)
			c, err := open(Config{Dir: dir}, step)
			if err == nil {
				mustClose(t, c)
				if !crashed() {
					if n < 10 {
						t.Errorf("only %d operations seen", n)
					}
					return
				}
			} else if !errors.Is(err, errCrash) {
				t.Fatalf("crash %d: %v", n, err)
			}
			root, rootErr := os.ReadFile(filepath.Join(dir, rootFile))
			again := mustOpen(t, Config{Dir: dir})
			if rootErr == nil && string(readFile(t, dir, rootFile)) != string(root) {
				t.Errorf("crash %d: the root that was there was replaced", n)
			}
			if _, _, err := x509svid.Verify(oneLeaf(t, again, "web").Certificates, bundleOf(again)); err != nil {
				t.Errorf("crash %d: %v", n, err)
			}
			checkWhole(t, dir)
			mustClose(t, again)
		}
	})
	t.Run("renewal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for n := 0; ; n++ {
				dir := caDir(t)
				c := mustOpen(t, Config{Dir: dir})
				root := rootOf(c)
				mustClose(t, c)
				old := string(readFile(t, dir, intermediateFile))
				time.Sleep(DefaultIntermediateTTL * 2 / 3)

				step, crashed := crashAt(n, dir)
				// The old intermediate is good for as long as it takes to repair the disk, so this
				// is not an error.
				c, err := open(Config{Dir: dir}, step)
				if err != nil {
					t.Fatalf("crash %d: %v", n, err)
				}
				failed := c.Health()
				mustClose(t, c)
				if !crashed() {
					if failed != nil || n < 5 || string(readFile(t, dir, intermediateFile)) == old {
						t.Errorf("after %d operations the intermediate was not renewed: %v", n, failed)
					}
					return
				}
				again := mustOpen(t, Config{Dir: dir})
				if !rootOf(again).Equal(root) {
					t.Errorf("crash %d: another root", n)
				}
				if string(readFile(t, dir, intermediateFile)) == old {
					t.Errorf("crash %d: the intermediate was not renewed at the next start", n)
				}
				checkWhole(t, dir)
				mustClose(t, again)
			}
		})
	})
}

// TestOneFailure lets each single operation fail once; the process goes on.
func TestOneFailure(t *testing.T) {
	for n := range 12 {
		dir := caDir(t)
		i := -1
		step := func(string) error {
			if i++; i == n {
				return errCrash
			}
			return nil
		}
		c, err := open(Config{Dir: dir}, step)
		if err == nil {
			mustClose(t, c)
		} else if !errors.Is(err, errCrash) {
			t.Fatalf("operation %d: %v", n, err)
		}
		again := mustOpen(t, Config{Dir: dir})
		checkWhole(t, dir)
		mustClose(t, again)
	}
}

func checkWhole(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || entries[0].Name() != intermediateFile || entries[1].Name() != rootFile {
		t.Errorf("files %v, want the two of a CA", entries)
	}
}

// TestDirectoryGone takes the directory away under a running CA: a disk that fails in earnest, for
// every user.
func TestDirectoryGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := caDir(t)
		c := mustOpen(t, Config{Dir: dir, LeafTTL: time.Minute, IntermediateTTL: 4 * time.Minute, RootTTL: time.Hour})
		defer mustClose(t, c)
		defer run(t, c)()
		web := watch(t, c, "web")
		defer web.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(6 * time.Second)
			if _, _, err := x509svid.Verify(web.last().Certificates, bundleOf(c)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Health(); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Health() = %v, want that the file does not exist", err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory came back: %v", err)
		}
	})
}

// TestLock: one directory, one CA, within this process and beside another, whose lock ends with it.
func TestLock(t *testing.T) {
	dir := caDir(t)
	want := dir + ": is in use by another process, and one CA must not be run twice: stop the other one (fuser " + dir + " names it) or choose another directory"
	c := mustOpen(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir}); err == nil || err.Error() != want {
		t.Errorf("second Open() error %v, want %s", err, want)
	}
	if _, err := OpenEndpoint(EndpointConfig{Dir: dir, TrustDomain: c.TrustDomain()}); err == nil || err.Error() != "certificate of the endpoint: "+want {
		t.Errorf("OpenEndpoint() error %v, want %s", err, want)
	}
	if line, stop := hold(t, dir); line != want {
		t.Errorf("another process says %q, want %q", line, want)
	} else {
		stop()
	}
	mustClose(t, c)

	line, kill := hold(t, dir)
	if line != "open" {
		t.Fatalf("another process says %q, want that it is open", line)
	}
	if _, err := Open(Config{Dir: dir}); err == nil || err.Error() != want {
		t.Errorf("Open() beside another process: error %v, want %s", err, want)
	}
	kill()
	mustClose(t, mustOpen(t, Config{Dir: dir}))
}

// hold starts a process that opens the CA in dir, and returns what it says, and what kills it.
func hold(t *testing.T, dir string) (line string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holdDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if lines.Scan() {
		line = lines.Text()
	}
	return line, func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = stdin.Close()
		_ = cmd.Wait()
	}
}
